"""The history layer, read by the hub itself: positions, and the repair after a connection was lost.

From a loss until its repair ends live messages are held. All rooms are read from the hub's last position, merged with
what was held, and delivered in order; or, where something may be missing, the connections concerned are told.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from redis.exceptions import RedisError

from rooms_app.cancelling import end, within
from rooms_app.conf import rooms_settings
from rooms_app.cursor import MARK, Cursor, Entry, unstamp
from rooms_app.exceptions import RoomsUnavailable
from rooms_app.feeds.feed import Replay, Sink
from rooms_app.feeds.reading import EpochChanged, HistoryReader
from rooms_app.layers import RoomsRedisChannelLayer
from rooms_app.layers.pubsub import Published

logger = logging.getLogger(__name__)

_MIN_PAUSE = 0.05
_MAX_PAUSE = 2.0
#: One attempt at a repair, in seconds.
_REPAIR_TIMEOUT = 15.0
#: A position that was known so many seconds ago is good enough for a new connection.
_FRESH = 1.0
#: More than this is not held: what is kept in history is read from there instead.
_MAX_HELD = 20_000

_FAILURES = (RedisError, OSError, TimeoutError, ConnectionError)


class HistoryFeed:
    """The feed of one hub on the history layer."""

    def __init__(self, layer: RoomsRedisChannelLayer, sink: Sink) -> None:
        self.channel = ""
        self._layer = layer
        self._here = layer.here()
        self._reader = HistoryReader(self._here.shard, layer.calls)
        self._sink = sink
        self._epoch: str | None = None
        self._mark = b""
        #: Everything up to here in the groups that it is in has been received.
        self._position = 0
        #: What arrives while a repair is under way; None when live.
        self._held: list[Published] | None = []
        self._is_live = asyncio.Event()
        #: Counts losses, so that a repair notices one under it.
        self._losses = 0
        #: For each group: the position at which its subscription stood …
        self._since: dict[str, int] = {}
        #: … and for each Redis channel the greatest id received.
        self._received: dict[bytes, int] = {}
        self._retained: dict[str, dict[str, Entry]] = {}
        self._syncing = asyncio.Lock()
        self._synced_at = float("-inf")
        self._repairing: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, layer: RoomsRedisChannelLayer, sink: Sink) -> HistoryFeed:
        """A feed at work. Raises what redis-py raises."""
        feed = cls(layer, sink)
        feed._begin(await feed._reader.settle(known=None, received=[]))
        feed._held = None
        feed._is_live.set()
        feed._here.shard.tell(lost=feed._lost, opened=feed._opened)
        feed._watching = asyncio.get_running_loop().create_task(feed._watch(), name="rooms-watch")
        return feed

    @property
    def epoch(self) -> str | None:
        return self._epoch

    async def group_add(self, group: str, channel: str) -> None:
        # A room joined during a repair waits for its end: its first messages would overtake those held.
        await self._is_live.wait()
        await self._here.take(group, self._published)
        try:
            cursor, retained = await self._reader.arrive(group)
        except BaseException:
            await self._here.release(group)
            raise
        self._since[group] = cursor.id
        self._retained[group] = retained
        if cursor.epoch != self._epoch:
            self._suspect()

    async def group_discard(self, group: str, channel: str) -> None:
        self._since.pop(group, None)
        self._retained.pop(group, None)
        self._received.pop(self._redis_channel(group), None)
        await self._here.release(group)

    def event(self, item: dict[str, Any] | Entry) -> Mapping[str, Any] | None:
        if not isinstance(item, Entry):
            return item
        event = self._layer.deserialize(item.payload)
        return event if isinstance(event, Mapping) else None

    async def sync(self, groups: Collection[str]) -> None:
        asked_at = asyncio.get_running_loop().time()
        try:
            async with within(rooms_settings().send_timeout), self._syncing:
                needed = max((self._since.get(group, 0) for group in groups), default=0)
                if self._synced_at < asked_at - _FRESH or self._position < needed:
                    await self._sync()
        except _FAILURES as error:
            raise RoomsUnavailable(f"Redis did not tell the position: {error!r}") from error

    async def replay(self, groups: Collection[str], since: str) -> Replay | None:
        try:
            async with within(_REPAIR_TIMEOUT):
                while True:
                    await self._is_live.wait()
                    now = await self._reader.tick()
                    if now.epoch != self._epoch:
                        # The others are told of it by the repair; this one with them would be told twice.
                        self._suspect()
                        continue
                    with contextlib.suppress(EpochChanged):
                        return await self._replay_until(now, groups, Cursor.parse(since))
                    self._suspect()
        except _FAILURES as error:
            raise RoomsUnavailable(f"Redis did not tell what was missed: {error!r}") from error

    def retained(self, group: str) -> Mapping[str, Entry]:
        return self._retained.get(group, {})

    def keep(self, group: str, name: str, entry: Entry) -> None:
        if group in self._retained:
            self._retained[group][name] = entry

    async def stop(self) -> None:
        self._here.shard.tell()
        await end(*(task for task in (self._watching, self._repairing) if task is not None))

    async def _replay_until(self, now: Cursor, groups: Collection[str], cursor: Cursor | None) -> Replay:
        if cursor is None or cursor.epoch != now.epoch or cursor.id > now.id:
            return Replay(cursor=now, reason="epoch")
        entries, incomplete = await self._reader.read(now, [(group, cursor.id) for group in groups])
        if incomplete:
            return Replay(cursor=now, reason="trimmed")
        if len(entries) > rooms_settings().max_replay_messages:
            return Replay(cursor=now, reason="limit")
        return Replay(cursor=now, entries=entries)

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
                # Another epoch: this message is after whatever was lost.
                self._suspect()
                self._hold(published[index:])
                return
            else:
                self._receive(channel, data)

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
            except _FAILURES as error:
                if pause == _MIN_PAUSE:
                    logger.warning("rooms can't be read from Redis, trying again: %r", error)
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
        stale = [group for group in groups if self._retained.get(group)]
        retained = {group: await self._reader.retained(group) for group in stale}
        if losses != self._losses or self._held is None:
            return
        if incomplete is None:
            self._lose(None, "epoch", now)
        elif incomplete:
            self._lose(incomplete, "trimmed", now)
        for entry in entries:
            self._sink.take(entry)
        for group in retained.keys() & self._retained.keys():
            self._retained[group] = retained[group]
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
            self._epoch = now.epoch
            self._mark = MARK + now.epoch.encode() + b":"
            self._received.clear()
            # Positions of another epoch mean nothing in this one.
            self._since = dict.fromkeys(self._since, now.id)
        self._position = now.id

    def _lose(self, groups: Collection[str] | None, reason: str, now: Cursor) -> None:
        self._sink.count("resets")
        logger.warning("connections are told to reload reason=%s rooms=%s", reason, groups or "all")
        self._sink.take(lambda: self._sink.lose(groups, reason, now))

    def _reach(self, position: Cursor) -> None:
        self._sink.take(lambda: self._sink.reached(position))

    # Positions

    async def _watch(self) -> None:
        """Learn the position now and then; give the connection up where nothing comes back."""
        while True:
            await asyncio.sleep(rooms_settings().heartbeat * random.uniform(0.9, 1.1))
            if self._held is not None or not self._since:
                continue
            try:
                async with within(rooms_settings().send_timeout), self._syncing:
                    await self._sync()
            except _FAILURES as error:
                logger.debug("the position could not be learnt error=%r", error)
                self._here.shard.reconnect()
            with contextlib.suppress(RoomsUnavailable):
                await self._sink.retry()

    async def _sync(self) -> None:
        """Everything sent before the tick was published before Redis answers the PING behind it."""
        began_at = asyncio.get_running_loop().time()
        await self._is_live.wait()
        losses = self._losses
        now = await self._reader.tick()
        if now.epoch != self._epoch:
            self._suspect()
            await self._is_live.wait()
            return
        if self._here.shard.is_open:
            await self._here.shard.ping()
        if losses != self._losses:
            await self._is_live.wait()
            return
        self._position = max(self._position, now.id)
        self._synced_at = began_at
        self._reach(Cursor(now.epoch, self._position))

    def _redis_channel(self, group: str) -> bytes:
        return self._layer.calls.channel(group).encode()
