"""The hub: one process's connections and rooms, its one channel on the layer, and the fan-out."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from rooms_app import envelope
from rooms_app.cancelling import within
from rooms_app.closing import CloseCode, Refused
from rooms_app.conf import rooms_settings
from rooms_app.connection import RoomSocket
from rooms_app.exceptions import ConnectionClosed, RoomsUnavailable
from rooms_app.fanout import plan
from rooms_app.recent import Recent
from rooms_app.rooms import EVERYONE
from rooms_app.servers import batches
from rooms_app.subscriptions import Subscriptions
from rooms_app.upkeep import Upkeep

logger = logging.getLogger(__name__)

#: The fan-out gives the loop back after so many seconds, also inside one big room …
_TURN = 0.010
#: … and looks at the clock after so many writes.
_WRITES_PER_LOOK = 32


class Hub:
    """The connections of one event loop on one channel layer.

    It lives from its first connection to its last. `counts` tells what happened: messages, deliveries,
    duplicates, ignored (foreign types on our groups), malformed, dropped_batches, receive_errors, rejoins, and
    path_… for each way that connections are written to.
    """

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.loop = asyncio.get_running_loop()
        self.channel = ""
        self.counts: Counter[str] = Counter()
        self.connections: dict[RoomSocket, None] = {}
        self.subscriptions = Subscriptions(layer, "")
        self._inbox: list[dict[str, Any]] = []
        self._recent = Recent()
        #: The fan-out under way, where it gave the loop back in the middle.
        self._fan_out: Iterator[int] | None = None
        self._is_scheduled = False
        #: Its tasks; None before the first connection and after the last.
        self._upkeep: Upkeep | None = None
        self._changing = asyncio.Lock()

    @property
    def is_idle(self) -> bool:
        """Whether it has no connection left."""
        return not self.connections

    async def add(self, connection: RoomSocket) -> None:
        """Take a connection in. Raises `Refused` where a limit is reached, `RoomsUnavailable`, `ConnectionClosed`."""
        if connection in self.connections:
            return
        if connection.closing is not None:
            raise ConnectionClosed(*connection.closing)
        settings = rooms_settings()
        if settings.max_connections and len(self.connections) >= settings.max_connections:
            raise Refused(CloseCode.BUSY)
        room = connection.user_room
        limit = settings.max_connections_per_user
        if limit and room is not None and len(self.subscriptions.members(room)) >= limit:
            raise Refused(CloseCode.CONNECTION_LIMIT)
        self.connections[connection] = None
        self.counts[f"path_{connection.outbox.outlet.name}"] += 1
        logger.debug("connection=%s path=%s", connection.id, connection.outbox.outlet.name)
        try:
            if self._upkeep is None:
                await self._start()
            self.subscriptions.enter(connection, EVERYONE)
            await self.subscriptions.listen([EVERYONE])
        except BaseException:
            await self.remove(connection)
            raise

    async def join(self, connection: RoomSocket, rooms: Sequence[str]) -> None:
        """Put a connection into rooms; returns when their subscriptions stand. As `add`, it may raise."""
        await self.add(connection)
        before = set(connection.rooms)
        if len(before.union(rooms) - {EVERYONE}) > rooms_settings().max_rooms:
            raise Refused(CloseCode.ROOM_LIMIT)
        for room in rooms:
            self.subscriptions.enter(connection, room)
        try:
            await self.subscriptions.listen(rooms)
        except BaseException:
            for room in rooms:
                if room not in before:
                    self.subscriptions.exit(connection, room)
            raise
        if connection not in self.connections:
            raise ConnectionClosed(*(connection.closing or (CloseCode.ERROR, "")))

    async def leave(self, connection: RoomSocket, rooms: Sequence[str]) -> None:
        """Take a connection out of rooms."""
        for room in rooms:
            self.subscriptions.exit(connection, room)

    async def remove(self, connection: RoomSocket) -> None:
        """Take a connection out of everything; the last one out ends the hub. Removing twice is no error."""
        self.connections.pop(connection, None)
        for room in tuple(connection.rooms):
            self.subscriptions.exit(connection, room)
        if self.is_idle:
            # Shielded: a server that shuts down cancels its applications, and the layer must still hear of it.
            await asyncio.shield(asyncio.ensure_future(self._stop()))

    def take(self, event: dict[str, Any]) -> None:
        """Deliver a message from the channel layer, together with those that arrive in the same turn."""
        self._inbox.append(event)
        if not self._is_scheduled:
            self._is_scheduled = True
            self.loop.call_soon(self._deliver)

    async def _start(self) -> None:
        async with self._changing:
            if self._upkeep is not None:
                return
            try:
                async with within(rooms_settings().send_timeout):
                    self.channel = await self.layer.new_channel()
            except Exception as error:
                raise RoomsUnavailable(f"The channel layer gave no channel: {error!r}") from error
            self.subscriptions = Subscriptions(self.layer, self.channel)
            self._upkeep = Upkeep(
                layer=self.layer,
                channel=self.channel,
                subscriptions=self.subscriptions,
                connections=self.connections,
                take=self.take,
                counts=self.counts,
            )

    async def _stop(self) -> None:
        async with self._changing:
            if self._upkeep is not None and self.is_idle:
                upkeep, self._upkeep = self._upkeep, None
                await self.subscriptions.settled()
                await upkeep.stop()
        if self.is_idle:
            forget_hub(self)

    def _deliver(self) -> None:
        """Write what has arrived, for one turn; what is left then waits for the next."""
        until = self.loop.time() + _TURN
        try:
            while self._inbox or self._fan_out is not None:
                if self._fan_out is None:
                    events, self._inbox = self._inbox, []
                    self._fan_out = self._write_all(events)
                for _ in self._fan_out:
                    if self.loop.time() > until:
                        self.loop.call_soon(self._deliver)
                        return
                self._fan_out = None
        except Exception:
            # A batch that can't be written must not keep those after it from being.
            logger.exception("a batch of messages was dropped")
            self.counts["dropped_batches"] += 1
            self._fan_out = None
            self.loop.call_soon(self._deliver)
            return
        self._is_scheduled = False

    def _write_all(self, events: list[dict[str, Any]]) -> Iterator[int]:
        """Write a batch to its connections, with a place to pause every so many writes."""
        messages = list(self._readable(events))
        self.counts["messages"] += len(messages)
        for connections, payloads in plan(messages, self._members):
            yield 0
            # A snapshot: while the loop has a turn, connections come and go.
            yield from self._write(tuple(connections), payloads)

    def _write(self, connections: Collection[RoomSocket], payloads: Sequence[str | bytes]) -> Iterator[int]:
        for batch in batches(payloads):
            for index, connection in enumerate(connections, start=1):
                try:
                    connection.outbox.write(batch)
                except Exception:
                    logger.exception("could not write connection=%s", connection.id)
                    connection.close_now(CloseCode.ERROR)
                if index % _WRITES_PER_LOOK == 0:
                    yield index
            self.counts["deliveries"] += len(connections) * len(batch)

    def _readable(self, events: list[dict[str, Any]]) -> Iterator[envelope.Received]:
        for event in events:
            if event.get("type") != envelope.ROOM_MESSAGE:
                if not self._hear(event):
                    self.counts["ignored"] += 1
                continue
            message = envelope.parse(event)
            if message is None:
                self.counts["malformed"] += 1
            elif message.uid is not None and not self._recent.add(message.uid):
                self.counts["duplicates"] += 1
            else:
                yield message

    def _hear(self, event: dict[str, Any]) -> bool:
        is_control = event.get("type") == envelope.ROOM_CONTROL
        return is_control and self._upkeep is not None and self._upkeep.hear(event)

    def _members(self, room: str) -> Collection[RoomSocket]:
        return self.subscriptions.members(room)


_hubs: list[Hub] = []


def hub_for(layer: Any) -> Hub:
    """The hub of the running event loop on this layer, made on first use."""
    loop = asyncio.get_running_loop()
    for hub in _hubs:
        if hub.layer is layer and hub.loop is loop:
            return hub
    hub = Hub(layer)
    _hubs[:] = [other for other in _hubs if not other.loop.is_closed()]
    _hubs.append(hub)
    return hub


def hub_of(connection: RoomSocket) -> Hub | None:
    """The hub that a connection is in, if any."""
    return next((hub for hub in _hubs if connection in hub.connections), None)


def hubs() -> list[Hub]:
    """The live hubs of this process, in all its event loops."""
    return [hub for hub in _hubs if not hub.loop.is_closed()]


def forget_hub(hub: Hub) -> None:
    """Drop a hub that has ended."""
    if hub in _hubs:
        _hubs.remove(hub)
