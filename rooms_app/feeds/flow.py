"""What arrives on the history layer, and the repair after a connection was lost.

From a loss until its repair ends live messages are held. All rooms are read from the hub's last position, merged with
what was held, and delivered in order; or, where something may be missing, the connections concerned are told.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Collection, Sequence

from rooms_app.cancelling import within
from rooms_app.cursor import MARK, Cursor, Entry, unstamp
from rooms_app.exceptions import explain
from rooms_app.feeds.feed import Sink
from rooms_app.feeds.reading import EpochChanged, HistoryReader
from rooms_app.layers import RoomsRedisChannelLayer
from rooms_app.layers.pubsub import Published

logger = logging.getLogger(__name__)

_MIN_PAUSE = 0.05
_MAX_PAUSE = 2.0
#: One attempt at a repair, in seconds.
_REPAIR_TIMEOUT = 15.0
#: More than this is not held: what is kept in history is read from there instead.
_MAX_HELD = 20_000


class Flow:
    """What one hub receives on the history layer: live, or held while a repair reads what was missed."""

    def __init__(self, layer: RoomsRedisChannelLayer, sink: Sink) -> None:
        self._layer = layer
        self._here = layer.here()
        self._reader = HistoryReader(self._here.shard, layer.calls)
        self._sink = sink
        self._epoch: str | None = None
        self._mark = b""
        #: What began the entries of the epochs before.
        self._past_marks: tuple[bytes, ...] = ()
        #: Everything up to here in the groups that it is in has been received.
        self._position = 0
        #: What arrives while a repair is under way; None when live.
        self._held: list[Published] | None = []
        self._is_live = asyncio.Event()
        #: The position at which the last repair ended, and when that was, on the loop's clock.
        self._repaired = (0, 0.0)
        #: Counts losses, so that a repair notices one under it.
        self._losses = 0
        #: For each group: the position at which its subscription stood …
        self._since: dict[str, int] = {}
        #: … and for each Redis channel the greatest id received.
        self._received: dict[bytes, int] = {}
        self._retained: dict[str, dict[str, Entry]] = {}
        self._repairing: asyncio.Task[None] | None = None

    def age(self, cursor: Cursor) -> float:
        """How many seconds ago that place in history was written, where a repair has read it; 0 for what came live."""
        number, at = self._repaired
        return 0.0 if cursor.id > number else (number - cursor.id) / 1e6 + asyncio.get_running_loop().time() - at

    # What arrives

    def _published(self, published: Sequence[Published]) -> None:
        """Take what one read brought."""
        for index, (channel, data) in enumerate(published):
            if self._held is not None:
                self._hold(published[index:])
                return
            if data[:1] != MARK:
                self._sink.take(Entry(None, data))
            elif not data.startswith(self._mark):
                # Another epoch. The message itself is dropped: if that epoch came after ours, the repair finds it, and
                # its reset covers the message; if it came before, the reset that ended it did.
                if data.startswith(self._past_marks):
                    self._sink.count("duplicates")
                    continue
                self._suspect()
                self._hold(published[index + 1 :])
                return
            else:
                self._receive(channel, data)
        if self._here.shard.is_behind:
            self._sink.expect_more()

    def _receive(self, channel: bytes, data: bytes) -> None:
        entry = unstamp(data)
        if entry.cursor is None:
            return
        number = entry.cursor.id
        self._received[channel] = number
        if number > self._position:
            self._position = number
            self._sink.take(entry)
        else:
            # The copy in another of its rooms, or what a repair has read already.
            self._sink.count("duplicates")

    def _hold(self, published: Sequence[Published]) -> None:
        if self._held is None:
            return
        self._held.extend(published)
        if len(self._held) > _MAX_HELD:
            self._held.clear()
            self._losses += 1

    # Losses and repairs

    def _lost(self) -> None:
        """The subscribed connection is lost."""
        self._sink.count("losses")
        self._stop_flow()

    def _opened(self) -> None:
        """All subscriptions stand, on a new connection or the first."""
        if self._held is not None:
            self._repair_soon()

    def _suspect(self) -> None:
        """What Redis says contradicts what is known here: find out, with the flow stopped."""
        self._stop_flow()
        if self._here.shard.is_open:
            self._repair_soon()

    def _distrust(self) -> None:
        """Commands meet another epoch: the subscriptions may stand on a server that is the master no more."""
        self._stop_flow()
        self._here.shard.reconnect()

    def _stop_flow(self) -> None:
        self._losses += 1
        self._is_live.clear()
        if self._held is None:
            self._held = []

    def _repair_soon(self) -> None:
        if self._repairing is None or self._repairing.done():
            self._repairing = asyncio.get_running_loop().create_task(self._repair(), name="rooms-repair")

    async def _repair(self) -> None:
        pause = _MIN_PAUSE
        while self._held is not None and self._here.shard.is_open:
            losses = self._losses
            try:
                async with within(_REPAIR_TIMEOUT):
                    await self._repair_once(losses)
            except EpochChanged:
                continue
            except Exception as error:
                # Whatever it is: a hub whose repair has ended would be silent for ever.
                if pause == _MIN_PAUSE:
                    logger.warning("rooms can't be read from Redis, trying again: %s", explain(error))
                self._sink.count("repair_errors")
                await asyncio.sleep(random.uniform(pause / 2, pause))
                pause = min(pause * 2, _MAX_PAUSE)

    async def _repair_once(self, losses: int) -> None:
        """Read what was missed, and go live; unless there was another loss meanwhile."""
        known = Cursor(self._epoch, self._position) if self._epoch is not None else None
        groups = tuple(self._since)
        received = [(group, self._received.get(self._redis_channel(group), 0)) for group in groups]
        now = await self._reader.settle(known=known, received=[pair for pair in received if pair[1]])
        entries: Sequence[Entry] = ()
        incomplete: Collection[str] | None = None
        if now.epoch == self._epoch:
            after = [(group, max(self._position, self._since.get(group, 0))) for group in groups]
            entries, incomplete = await self._reader.read(now, after)
        retained = await self._reader.all_retained(groups)
        if losses != self._losses or self._held is None:
            return
        if incomplete is None:
            self._lose(None, "epoch", now)
        elif incomplete:
            self._lose(incomplete, "trimmed", now)
        for entry in entries:
            self._sink.take(entry)
        # In its turn: what was taken before, and is kept when it is delivered, is older.
        self._sink.take(lambda: self._retained.update((g, retained[g]) for g in retained.keys() & self._retained))
        self._go_live(now)

    def _go_live(self, now: Cursor) -> None:
        """Everything up to now is on its way to the connections: what was held since follows."""
        self._sink.count("repairs")
        self._begin(now)
        held, self._held = self._held or [], None
        self._reach(now)
        self._is_live.set()
        self._published(held)

    def _begin(self, now: Cursor) -> None:
        if now.epoch != self._epoch:
            if self._mark:
                self._past_marks = (*self._past_marks[-9:], self._mark)
            self._epoch = now.epoch
            self._mark = MARK + now.epoch.encode() + b":"
            self._received.clear()
            # Positions of another epoch mean nothing in this one.
            self._since = dict.fromkeys(self._since, now.id)
        self._position = now.id
        self._repaired = (now.id, asyncio.get_running_loop().time())

    def _lose(self, groups: Collection[str] | None, reason: str, now: Cursor) -> None:
        self._sink.count("reset_events")
        logger.warning("connections are told to reload reason=%s rooms=%s", reason, groups or "all")
        self._sink.take(lambda: self._sink.lose(groups, reason, now))

    def _reach(self, position: Cursor) -> None:
        self._sink.take(lambda: self._sink.reached(position))

    def _redis_channel(self, group: str) -> bytes:
        return self._layer.calls.channel(group).encode()
