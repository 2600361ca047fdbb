"""The hub: one process's connections and rooms, its one channel on the layer, and the fan-out."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rooms_app import envelope
from rooms_app.answers import Answers, retained_frames
from rooms_app.attendance import Attendance, grace_of
from rooms_app.cancelling import end, within
from rooms_app.clocks import Clocks
from rooms_app.closing import CloseCode, Refused
from rooms_app.conf import rooms_settings
from rooms_app.connection import RoomSocket
from rooms_app.control import Control
from rooms_app.cursor import Cursor
from rooms_app.drain import Drain, close_all, is_draining
from rooms_app.exceptions import ConnectionClosed, RoomsUnavailable, explain
from rooms_app.feeds import Feed, Item, open_feed
from rooms_app.ledger import ledger_for
from rooms_app.members import Member
from rooms_app.outflow import Outflow
from rooms_app.rooms import EVERYONE
from rooms_app.roster import Roster
from rooms_app.servers import Batch, before_shutdown
from rooms_app.subscriptions import Subscriptions
from rooms_app.tally import Tally
from rooms_app.whereabouts import whereabouts_for

logger = logging.getLogger(__name__)


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
        #: Where its messages come from; None before the first connection and after the last.
        self._feed: Feed | None = None
        self._clocks: asyncio.Task[None] | None = None
        self._outflow = Outflow(self.loop, members=self._members, control=self._hear, counts=self.counts)
        self._answers = Answers(self._outflow, counts=self.counts)
        self.roster = Roster()
        self._drain = Drain(layer, self.connections)
        self._control = Control(layer, self)
        self._tally: Tally | None = None
        #: None until a connection is tracked.
        self._attendance: Attendance | None = None
        self._sign_ins: asyncio.Task[None] | None = None
        #: From when on it hears what all hubs are told, on the loop's clock.
        self.listens_since = math.inf
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
        if is_draining():
            # It was on its way in when the drain began.
            raise Refused(CloseCode.BUSY)
        self.roster.check(connection)
        settings = rooms_settings()
        if settings.max_connections and len(self.connections) >= settings.max_connections:
            raise Refused(CloseCode.BUSY)
        room = connection.user_room
        limit = settings.max_connections_per_user
        if limit and room is not None and len(self.subscriptions.members(room)) >= limit:
            raise Refused(CloseCode.CONNECTION_LIMIT)
        self.connections[connection] = None
        self.roster.add(connection)
        self.counts[f"path_{connection.backlog.outlet.name}"] += 1
        logger.debug("connection=%s path=%s", connection.id, connection.backlog.outlet.name)
        if connection.guard is None:
            self._outflow.guard(connection)
        connection.answerer = self.answer
        try:
            if self._feed is None:
                await self._start()
            self.subscriptions.enter(connection, EVERYONE)
            await self.subscriptions.listen([EVERYONE])
            self.listens_since = min(self.listens_since, self.loop.time())
        except BaseException:
            await self.remove(connection)
            raise
        self._show_retained(connection, [EVERYONE])

    async def join(self, connection: RoomSocket, rooms: Sequence[str]) -> None:
        """Put a connection into rooms; returns when their subscriptions stand. As `add`, it may raise."""
        await self.add(connection)
        before = set(connection.rooms)
        if len(before.union(rooms) - {EVERYONE}) > rooms_settings().max_rooms:
            raise Refused(CloseCode.ROOM_LIMIT)
        self.roster.check(connection, rooms)
        for room in rooms:
            self.subscriptions.enter(connection, room)
        try:
            await self.subscriptions.listen(rooms)
        except BaseException:
            for room in rooms:
                if room not in before:
                    self.subscriptions.exit(connection, room)
            raise
        self._show_retained(connection, [room for room in rooms if room not in before])
        if connection not in self.connections:
            raise ConnectionClosed(*(connection.closing or (CloseCode.ERROR, "")))

    async def leave(self, connection: RoomSocket, rooms: Sequence[str]) -> None:
        """Take a connection out of rooms; in that of everyone it stays."""
        self.untrack(connection, rooms)
        for room in rooms:
            if room != EVERYONE:
                self.subscriptions.exit(connection, room)

    def track(self, connection: RoomSocket, rooms: Sequence[str], member: Member | None) -> None:
        """Count a connection as this member of those rooms that it is in, or as nobody, and tell it who is there."""
        if connection not in self.connections or self._feed is None or self._tally is None:
            return
        if self._attendance is None:
            record = whereabouts_for(self.layer, announce=lambda event: _announce(self.layer, event))
            self._attendance = Attendance(record, self._tally.name, self, parse=self._feed.event)
        self._attendance.track(connection, [room for room in rooms if room in connection.rooms], member)

    def untrack(self, connection: RoomSocket, rooms: Collection[str] | None = None, *, grace: float = 0.0) -> None:
        """Count a connection as present in these rooms no more, or in none, after so many seconds."""
        if connection.tracked and self._attendance is not None:
            self._attendance.untrack(connection, tuple(connection.tracked) if rooms is None else rooms, grace=grace)

    async def remove(self, connection: RoomSocket) -> None:
        """Take a connection out of everything; the last one out ends the hub. Removing twice is no error."""
        self.connections.pop(connection, None)
        self.untrack(connection, grace=grace_of(connection.closing))
        self.roster.remove(connection)
        self._outflow.forget(connection)
        for room in tuple(connection.rooms):
            self.subscriptions.exit(connection, room)
        if self.is_idle:
            # Shielded: a server that shuts down cancels its applications, and the layer must still hear of it.
            await asyncio.shield(asyncio.ensure_future(self._stop()))

    async def answer(self, connection: RoomSocket) -> None:
        """Answer the client's `since`, once, for the rooms that the connection is in. Raises `RoomsUnavailable`."""
        feed = self._feed
        if feed is None or not connection.begin_answer():
            return
        try:
            await self._answers.answer(connection, feed)
        except BaseException:
            connection.give_up_answer()
            raise

    def _show_retained(self, connection: RoomSocket, rooms: Sequence[str]) -> None:
        # While its `since` is not answered, that answer brings it.
        if self._feed is not None and connection.guard is not None:
            for batch in retained_frames(self._feed, connection, rooms, only_unkept=False):
                connection.backlog.write(batch)

    # What the feed tells

    def take(self, item: Item) -> None:
        """Deliver an item, after all that was taken before."""
        if self._attendance is not None:
            self._attendance.roll_call.note(item)
        self._outflow.take(item)

    def expect_more(self) -> None:
        """More is about to be taken."""
        self._outflow.expect_more()

    def reached(self, position: Cursor) -> None:
        """Everything up to this place in history has been delivered."""
        self._outflow.reached(position)

    def lose(self, groups: Collection[str] | None, reason: str, cursor: Cursor) -> None:
        """Something is missing that was due in these groups, or all: those who opted in are told, others closed."""
        rooms = [room for room in self.subscriptions if groups is None or room.group in groups]
        names = {room.name for room in rooms}
        for connection in dict.fromkeys(connection for room in rooms for connection in room.members):
            if connection.guard is None:
                # Its `since` is still to be answered, and that answer will cover it.
                continue
            connection.guard = cursor.id
            self._outflow.guard(connection)
            if connection.options.opted_in:
                self.counts["resets"] += 1
                connection.backlog.write(Batch([envelope.system("reset", id=cursor, reason=reason)]))
                if self._attendance is not None and connection.tracked:
                    self._attendance.roll_call.ask(connection, names.intersection(connection.tracked))
            else:
                connection.close_now(CloseCode.INSUFFICIENT_STATE)
        if self._attendance is not None and groups is None:
            self._attendance.doubt()

    def count(self, name: str) -> None:
        """Count an occurrence."""
        self.counts[name] += 1

    async def retry(self) -> None:
        """Settle the rooms whose last call failed. Raises `RoomsUnavailable`."""
        await self.subscriptions.retry()

    async def rejoin(self) -> None:
        """Join all groups once more. Raises `RoomsUnavailable`."""
        await self.subscriptions.rejoin()

    def position(self) -> Cursor | None:
        """Everything up to here has been written to the connections it was due to; None without history."""
        return self._outflow.delivered

    async def _start(self) -> None:
        async with self._changing:
            if self._feed is not None:
                return
            try:
                async with within(rooms_settings().send_timeout):
                    feed = await open_feed(self.layer, self)
            except Exception as error:
                raise RoomsUnavailable(f"The channel layer gave no channel: {explain(error)}") from error
            self._feed = self._outflow.feed = feed
            self.channel = feed.channel
            self.subscriptions = Subscriptions(feed, feed.channel)
            clocks = Clocks(self.connections, in_turn=self.take, position=self.position)
            self._clocks = self.loop.create_task(clocks.run(), name="rooms-clocks")
            self._tally = Tally(ledger_for(self.layer), self.subscriptions, count=self.count)
            self._sign_ins = self.loop.create_task(self._control.watch_sign_ins(), name="rooms-sign-ins")
            before_shutdown(lambda: close_all(_drains()))

    async def _stop(self) -> None:
        async with self._changing:
            if self._feed is not None and self.is_idle:
                feed, self._feed, self.listens_since = self._feed, None, math.inf
                await self.subscriptions.settled()
                await end(*(task for task in (self._clocks, self._sign_ins) if task is not None))
                attendance, self._attendance = self._attendance, None
                if attendance is not None:
                    # Before the lease is given up: its end would have them leave without their grace.
                    await attendance.stop()
                if self._tally is not None:
                    await self._tally.stop()
                await self._control.stop()
                await self._drain.stop()
                await feed.stop()
        if self.is_idle:
            forget_hub(self)

    def _hear(self, event: Mapping[str, Any], cursor: Cursor | None) -> None:
        """Heed what hubs are told as such."""
        age = 0.0 if cursor is None or self._feed is None else self._feed.age(cursor)
        self._drain.heed(event, _drains())
        self._control.heed(event, age=age)

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


def _drains() -> list[Drain]:
    return [hub._drain for hub in hubs()]


def _announce(layer: Any, event: dict[str, Any]) -> None:
    """Have the hubs of this process deliver a message, on a layer whose record of members is this process's."""
    for hub in hubs():
        if hub.layer is layer and hub.loop is asyncio.get_running_loop():
            hub.take(event)
        elif hub.layer is layer:
            hub.loop.call_soon_threadsafe(hub.take, event)


def forget_hub(hub: Hub) -> None:
    """Drop a hub that has ended."""
    if hub in _hubs:
        _hubs.remove(hub)
