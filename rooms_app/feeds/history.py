"""The feed of the history layer: joins groups, knows positions, and replays what a client missed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Collection, Mapping
from typing import Any

from redis.exceptions import RedisError

from rooms_app.cancelling import end, within
from rooms_app.conf import rooms_settings
from rooms_app.cursor import Cursor, Entry
from rooms_app.exceptions import RoomsUnavailable, explain
from rooms_app.feeds.feed import Replay, Sink
from rooms_app.feeds.flow import Flow
from rooms_app.feeds.reading import EpochChanged
from rooms_app.layers import RoomsRedisChannelLayer

logger = logging.getLogger(__name__)

#: How long a replay may take to read, in seconds.
_REPLAY_TIMEOUT = 15.0
#: A position that was known so many seconds ago is good enough for a new connection.
_FRESH = 1.0
_FAILURES = (RedisError, OSError, TimeoutError, ConnectionError)


class HistoryFeed(Flow):
    """The feed of one hub on the history layer."""

    def __init__(self, layer: RoomsRedisChannelLayer, sink: Sink) -> None:
        super().__init__(layer, sink)
        self.channel = ""
        self._syncing = asyncio.Lock()
        self._synced_at = float("-inf")
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
        #: What is published while it is read is newer.
        kept = self._retained[group] = {}
        try:
            await self._here.take(group, self._published)
            cursor, retained = await self._arrive(group)
        except BaseException:
            self._retained.pop(group, None)
            await self._here.release(group)
            raise
        self._since[group] = cursor.id
        self._retained[group] = {**retained, **kept}
        if cursor.epoch != self._epoch:
            self._distrust()

    async def _arrive(self, group: str) -> tuple[Cursor, dict[str, Entry]]:
        """A position at which the subscription stood; not one before a loss, whose repair did not know the group."""
        while True:
            await self._is_live.wait()
            losses = self._losses
            found = await self._reader.arrive(group)
            if losses == self._losses:
                return found

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
            raise RoomsUnavailable(f"Redis did not tell the position: {explain(error)}") from error

    async def replay(self, groups: Collection[str], since: str) -> Replay | None:
        try:
            async with within(_REPLAY_TIMEOUT):
                while True:
                    await self._is_live.wait()
                    losses = self._losses
                    # What a repair has to tell the others is no concern of this client: it would be told twice.
                    await self._told()
                    now = await self._reader.tick()
                    if now.epoch != self._epoch:
                        self._distrust()
                        continue
                    try:
                        replay = await self._reader.missed(now, groups, Cursor.parse(since))
                    except EpochChanged:
                        self._distrust()
                        continue
                    # Of what the others are told from now on it is told too. Of a loss in between it would not be.
                    if losses == self._losses:
                        return replay
        except _FAILURES as error:
            raise RoomsUnavailable(f"Redis did not tell what was missed: {explain(error)}") from error

    def retained(self, group: str) -> Mapping[str, Entry]:
        return self._retained.get(group, {})

    def keep(self, group: str, name: str, entry: Entry) -> None:
        if group in self._retained:
            self._retained[group][name] = entry

    async def stop(self) -> None:
        self._here.shard.tell()
        await end(*(task for task in (self._watching, self._repairing) if task is not None))

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
                if self._held is None:
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
            self._distrust()
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

    async def _told(self) -> None:
        """Return when all that was taken before is delivered."""
        told = asyncio.get_running_loop().create_future()
        self._sink.take(lambda: None if told.done() else told.set_result(None))
        await told
