"""Where a user is connected, as the processes that have her connections tell when they are asked."""

from __future__ import annotations

import contextlib
from typing import Any

from rooms_app.background import background
from rooms_app.breaker import Breaker
from rooms_app.cancelling import within
from rooms_app.conf import rooms_settings
from rooms_app.ledger import ledger_for
from rooms_app.orders import REPORT, ConnectionReport, Order
from rooms_app.rooms import user_room
from rooms_app.transport import channel_layer, group_send

__all__ = ["ConnectionReport", "connections_of", "connections_of_sync"]

#: How long answers are waited for, in seconds.
_PATIENCE = 1.0
_breaker = Breaker(what="reports on users")


async def connections_of(user: Any) -> list[ConnectionReport]:
    """A user's connections in all processes, the oldest first. Raises `RoomsUnavailable`.

    Waits until all processes have answered, or a second: what one that does not answer has is missing.
    """
    layer = channel_layer()
    with _breaker.attempt():
        async with within(rooms_settings().send_timeout):
            listing = await ledger_for(layer).list(match=None, offset=0, limit=0)
            channel = await layer.new_channel()
        await group_send(layer, Order(user=user_room(user), reply_to=channel).message())
        expected = {count.process for count in listing.processes}
        found: list[ConnectionReport] = []
        heard: set[str] = set()
        with contextlib.suppress(TimeoutError):
            async with within(_PATIENCE):
                while not expected or expected - heard:
                    answer = await layer.receive(channel)
                    if answer.get("type") != REPORT:
                        continue
                    heard.add(str(answer.get("process")))
                    reports = map(ConnectionReport.parse, answer.get("connections", ()))
                    found += [report for report in reports if report is not None]
        with contextlib.suppress(TimeoutError):
            # A receive that is cancelled has the layer forget the channel.
            async with within(0.001):
                await layer.receive(channel)
    return sorted(found, key=lambda report: report.since)


def connections_of_sync(user: Any) -> list[ConnectionReport]:
    """`connections_of` for sync code."""
    return background.run(lambda: connections_of(user))
