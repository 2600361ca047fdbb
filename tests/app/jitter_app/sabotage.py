"""Ways to break a jitter server on purpose, by JITTER_SABOTAGE: the jitter test has to notice."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from rooms_app.feeds.history import HistoryFeed
from rooms_app.layers.pubsub import Published

NO_REPAIR = "no-repair"
EARLY_LIVE = "early-live"


def commit(name: str) -> None:
    """Break this process in the way of this name; "" leaves it whole."""
    if name:
        {NO_REPAIR: _skip_the_repair, EARLY_LIVE: _let_live_messages_pass}[name]()


def _skip_the_repair() -> None:
    """After a lost connection go on live at once, without reading what was missed."""

    async def repair_nothing(feed: HistoryFeed, losses: int) -> None:
        now = await feed._reader.settle(known=None, received=[])
        if losses == feed._losses and feed._held is not None:
            feed._go_live(now)

    HistoryFeed._repair_once = repair_nothing  # type: ignore[method-assign]


def _let_live_messages_pass() -> None:
    """Deliver what comes live while the repair still reads what was missed."""

    def hold_nothing(feed: HistoryFeed, published: Sequence[Published]) -> None:
        for channel, data in published:
            feed._receive(channel, data)

    repair_once = HistoryFeed._repair_once

    async def repair_late(feed: HistoryFeed, losses: int) -> None:
        # As on a Redis further away: else few messages come while the repair is under way.
        await asyncio.sleep(0.05)
        await repair_once(feed, losses)

    HistoryFeed._hold = hold_nothing  # type: ignore[method-assign]
    HistoryFeed._repair_once = repair_late  # type: ignore[method-assign]
