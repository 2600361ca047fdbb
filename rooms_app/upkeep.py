"""What keeps a hub alive: reading its channel, a sign of life from the layer, and the connections' clocks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from rooms_app import envelope
from rooms_app.cancelling import end, within
from rooms_app.closing import CloseCode
from rooms_app.conf import rooms_settings
from rooms_app.connection import RoomSocket
from rooms_app.exceptions import RoomsUnavailable
from rooms_app.servers import Batch
from rooms_app.subscriptions import Subscriptions

logger = logging.getLogger(__name__)

_MIN_PAUSE = 0.05
_MAX_PAUSE = 2.0
#: How long a probe may be on its way before the groups count as lost.
_PROBE_TIMEOUT = 1.0


class Upkeep:
    """The tasks of one hub, from its first connection to its last."""

    def __init__(
        self,
        *,
        layer: Any,
        channel: str,
        subscriptions: Subscriptions,
        connections: Mapping[RoomSocket, None],
        take: Callable[[dict[str, Any]], None],
        counts: Counter[str],
    ) -> None:
        self._layer = layer
        self._channel = channel
        self._subscriptions = subscriptions
        self._connections = connections
        self._take = take
        self._counts = counts
        #: The group that only this hub is in: on layers that can forget their groups, its probes come back through it.
        self._control = f"room-control-{secrets.token_hex(8)}"
        # Layers whose groups can be forgotten, and expire; asking the pub/sub layer for an unknown name raises.
        self._group_expiry: float | None = vars(layer).get("group_expiry")
        self._probe = ""
        self._is_heard = asyncio.Event()
        #: Set when the layer failed or forgot us: the groups are joined again as soon as it answers.
        self._is_suspect = asyncio.Event()
        self._closing: set[asyncio.Task[None]] = set()
        self._is_stopping = False
        create_task = asyncio.get_running_loop().create_task
        self._receiver = create_task(self._receive(), name="rooms-receive")
        self._tasks = [
            create_task(self._watch(), name="rooms-watch"),
            create_task(self._tick(), name="rooms-tick"),
        ]

    def hear(self, event: Mapping[str, Any]) -> bool:
        """Whether a control message is for this hub, and understood."""
        if not self._probe or event.get("probe") != self._probe:
            return False
        self._is_heard.set()
        return True

    async def stop(self) -> None:
        """End all of it, when the hub's rooms are left."""
        await end(*self._tasks)
        if self._group_expiry:
            with contextlib.suppress(Exception):
                async with within(rooms_settings().send_timeout):
                    await self._layer.group_discard(self._control, self._channel)
        # A message that was on its way when the groups were left is still read, not left in the layer.
        await asyncio.sleep(0)
        self._is_stopping = True
        await end(self._receiver)
        # The classic layer keeps the buffer of a receive that was cancelled in mid-read:
        # https://github.com/django/channels_redis/pull/426
        vars(self._layer).get("receive_buffer", {}).pop(self._channel, None)

    async def _receive(self) -> None:
        """Read the hub's channel for ever. Never under `wait_for`: a cancelled `receive` unsubscribes."""
        pause = _MIN_PAUSE
        while True:
            try:
                event = await self._layer.receive(self._channel)
            except Exception as error:
                if self._is_stopping:
                    # The classic layer turns some cancellations into an AssertionError of its own.
                    return
                self._counts["receive_errors"] += 1
                if pause == _MIN_PAUSE:
                    logger.warning("the channel layer can't be read, trying again: %s", _explain(error))
                self._is_suspect.set()
                await asyncio.sleep(random.uniform(pause / 2, pause))
                pause = min(pause * 2, _MAX_PAUSE)
            else:
                pause = _MIN_PAUSE
                self._take(event)

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
                await self._subscriptions.retry()
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
                    await self._layer.send(self._channel, message)
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
            await self._subscriptions.rejoin()
        except RoomsUnavailable as error:
            if isinstance(error.__cause__, RuntimeError):
                # The pub/sub layer was flushed, and forgot the channel: only a new `receive` makes it known again.
                await end(self._receiver)
                self._receiver = asyncio.get_running_loop().create_task(self._receive(), name="rooms-receive")
            raise
        self._counts["rejoins"] += 1
        self._is_suspect.clear()

    async def _join_control(self) -> None:
        if not self._group_expiry:
            return
        try:
            async with within(rooms_settings().send_timeout):
                await self._layer.group_add(self._control, self._channel)
        except Exception as error:
            raise RoomsUnavailable(f"The channel layer did not confirm group_add: {error!r}") from error

    async def _tick(self) -> None:
        """Close connections that are old enough, and break silences."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(1.0, rooms_settings().max_age / 20))
            now = loop.time()
            for index, connection in enumerate(tuple(self._connections)):
                if now >= connection.expires_at:
                    self._ask_to_reconnect(connection)
                elif connection.options.ping and connection.is_accepted:
                    _break_silence(connection, now)
                if index % 1000 == 999:
                    await asyncio.sleep(0)

    def _ask_to_reconnect(self, connection: RoomSocket) -> None:
        connection.expires_at = float("inf")
        task = asyncio.get_running_loop().create_task(connection.close(CloseCode.RECONNECT))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _break_silence(connection: RoomSocket, now: float) -> None:
    writes, since = connection.silence
    if connection.outbox.writes != writes or not since:
        connection.silence = (connection.outbox.writes, now)
    elif now - since >= connection.options.ping:
        connection.outbox.write(Batch([envelope.system("ping")]))
        connection.silence = (connection.outbox.writes, now)


def _explain(error: Exception) -> str:
    if isinstance(error, RuntimeError) and "event loops" in str(error):
        return (
            "channels_redis's RedisChannelLayer lets one event loop per process receive, and another one does. "
            "Use RedisPubSubChannelLayer, or one event loop for all consumers."
        )
    return repr(error)
