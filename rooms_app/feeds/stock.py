"""Any channel layer, read through its API: one channel for the hub, and signs of life, so that no group is lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from channels_redis.pubsub import RedisPubSubChannelLayer

from rooms_app import envelope
from rooms_app.cancelling import end, within
from rooms_app.conf import rooms_settings
from rooms_app.cursor import Cursor, Entry
from rooms_app.exceptions import RoomsUnavailable, explain
from rooms_app.feeds.feed import Sink

logger = logging.getLogger(__name__)

_MIN_PAUSE = 0.05
_MAX_PAUSE = 2.0
#: How long a probe may be on its way before the groups count as lost.
_PROBE_TIMEOUT = 1.0


class StockFeed:
    """The feed of one hub on a layer without history: at most once, nothing to replay."""

    epoch: ClassVar[None] = None

    def __init__(self, layer: Any, channel: str, sink: Sink) -> None:
        self.channel = channel
        self._layer = layer
        self._sink = sink
        #: The group that only this hub is in: on layers that can forget their groups, its probes come back through it.
        self._control = f"room-control-{secrets.token_hex(8)}"
        # Layers whose groups can be forgotten, and expire; asking the pub/sub layer for an unknown name raises.
        self._group_expiry: float | None = vars(layer).get("group_expiry")
        self._probe = ""
        self._is_heard = asyncio.Event()
        #: Who waits for a message to this hub itself.
        self._echoes: dict[str, asyncio.Future[None]] = {}
        #: Set when the layer failed or forgot us: the groups are joined again as soon as it answers.
        self._is_suspect = asyncio.Event()
        self._is_stopping = False
        create_task = asyncio.get_running_loop().create_task
        self._receiver = create_task(self._receive(), name="rooms-receive")
        self._watcher = create_task(self._watch(), name="rooms-watch")

    @classmethod
    async def open(cls, layer: Any, sink: Sink) -> StockFeed:
        """A feed at work. Raises what the layer raises."""
        return cls(layer, await layer.new_channel(), sink)

    async def group_add(self, group: str, channel: str) -> None:
        await self._layer.group_add(group, channel)
        if type(self._layer) is RedisPubSubChannelLayer:
            await self._echo()

    async def _echo(self) -> None:
        """Return when a message to this hub itself, sent behind a SUBSCRIBE, has come back.

        The pub/sub layer returns when that is written. The next PUBLISH, on another connection, could overtake it.
        """
        token = secrets.token_hex(8)
        answer = self._echoes[token] = asyncio.get_running_loop().create_future()
        try:
            await self._layer.send(self.channel, {"type": envelope.ROOM_CONTROL, "echo": token})
            async with asyncio.timeout(_PROBE_TIMEOUT):
                await answer
        finally:
            del self._echoes[token]

    async def group_discard(self, group: str, channel: str) -> None:
        await self._layer.group_discard(group, channel)

    def event(self, item: dict[str, Any] | Entry) -> Mapping[str, Any] | None:
        if isinstance(item, Entry):
            return None
        if self._probe and item.get("type") == envelope.ROOM_CONTROL and item.get("probe") == self._probe:
            self._is_heard.set()
            return None
        return item

    def age(self, cursor: Cursor) -> float:
        return 0.0

    async def sync(self, groups: Collection[str]) -> None:
        """There are no positions."""

    async def replay(self, groups: Collection[str], since: str) -> None:
        """There is no history."""

    def retained(self, group: str) -> Mapping[str, Entry]:
        return {}

    def keep(self, group: str, name: str, entry: Entry) -> None:
        """Nothing is kept."""

    async def stop(self) -> None:
        """End all of it, when the hub's rooms are left."""
        await end(self._watcher)
        if self._group_expiry:
            with contextlib.suppress(Exception):
                async with within(rooms_settings().send_timeout):
                    await self._layer.group_discard(self._control, self.channel)
        # A message that was on its way when the groups were left is still read, not left in the layer.
        await asyncio.sleep(0)
        self._is_stopping = True
        await end(self._receiver)
        # The classic layer keeps the buffer of a receive that was cancelled in mid-read:
        # https://github.com/django/channels_redis/pull/426
        vars(self._layer).get("receive_buffer", {}).pop(self.channel, None)

    async def _receive(self) -> None:
        """Read the hub's channel for ever. Never under `wait_for`: a cancelled `receive` unsubscribes."""
        pause = _MIN_PAUSE
        while True:
            try:
                event = await self._layer.receive(self.channel)
            except Exception as error:
                if self._is_stopping:
                    # The classic layer turns some cancellations into an AssertionError of its own.
                    return
                self._sink.count("receive_errors")
                if pause == _MIN_PAUSE:
                    logger.warning("the channel layer can't be read, trying again: %s", _explain(error))
                self._is_suspect.set()
                await asyncio.sleep(random.uniform(pause / 2, pause))
                pause = min(pause * 2, _MAX_PAUSE)
            else:
                pause = _MIN_PAUSE
                if not self._is_echo(event):
                    self._sink.take(event)

    def _is_echo(self, event: Any) -> bool:
        token = event.get("echo") if isinstance(event, dict) else None
        answer = self._echoes.get(token) if isinstance(token, str) else None
        if answer is not None and not answer.done():
            answer.set_result(None)
        return answer is not None

    async def _watch(self) -> None:
        """Send probes; join all groups again where one does not come back, and before the layer expires them."""
        loop = asyncio.get_running_loop()
        refresh_every = self._group_expiry / 3 if self._group_expiry else float("inf")
        with contextlib.suppress(RoomsUnavailable):
            await self._join_control()
        refreshed_at = loop.time()
        while True:
            is_due = self._is_suspect.is_set() or loop.time() - refreshed_at >= refresh_every
            if is_due or not await self._send_probe():
                try:
                    await self._heal()
                except RoomsUnavailable:
                    await asyncio.sleep(random.uniform(0.1, 0.5))
                    continue
                refreshed_at = loop.time()
            with contextlib.suppress(RoomsUnavailable):
                await self._sink.retry()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(rooms_settings().heartbeat, refresh_every)):
                    await self._is_suspect.wait()

    async def _send_probe(self) -> bool:
        """Whether a message to this hub itself comes back."""
        self._probe = secrets.token_hex(8)
        self._is_heard.clear()
        message = {"type": envelope.ROOM_CONTROL, "probe": self._probe}
        try:
            async with within(rooms_settings().send_timeout):
                if self._group_expiry:
                    await self._layer.group_send(self._control, message)
                else:
                    await self._layer.send(self.channel, message)
            async with asyncio.timeout(_PROBE_TIMEOUT):
                await self._is_heard.wait()
        except Exception as error:
            logger.debug("a probe did not come back error=%r", error)
            return False
        return True

    async def _heal(self) -> None:
        """Join all groups once more. Raises `RoomsUnavailable`."""
        self._is_suspect.set()
        try:
            await self._join_control()
            await self._sink.rejoin()
        except RoomsUnavailable as error:
            if isinstance(error.__cause__, RuntimeError):
                # The pub/sub layer was flushed, and forgot the channel: only a new `receive` makes it known again.
                await end(self._receiver)
                self._receiver = asyncio.get_running_loop().create_task(self._receive(), name="rooms-receive")
            raise
        self._sink.count("rejoins")
        self._is_suspect.clear()

    async def _join_control(self) -> None:
        if not self._group_expiry:
            return
        try:
            async with within(rooms_settings().send_timeout):
                await self._layer.group_add(self._control, self.channel)
        except Exception as error:
            raise RoomsUnavailable(f"The channel layer did not confirm group_add: {explain(error)}") from error


def _explain(error: Exception) -> str:
    if isinstance(error, RuntimeError) and "event loops" in str(error):
        return (
            "channels_redis's RedisChannelLayer lets one event loop per process receive, and another one does. "
            'Use channel_layer("rooms", …), or one event loop for all consumers.'
        )
    return repr(error)
