"""One hub's part in revocation: it closes those who were kicked, or are signed in no more, and reports on a user."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Collection, Coroutine, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from channels.db import database_sync_to_async

from rooms_app.cancelling import end, within
from rooms_app.closing import CloseCode
from rooms_app.conf import rooms_settings
from rooms_app.connection import RoomSocket, process_id
from rooms_app.orders import REPORT, ConnectionReport, Order
from rooms_app.rooms import EVERYONE, is_reserved
from rooms_app.roster import Roster
from rooms_app.sign_ins import ended
from rooms_app.subscriptions import Subscriptions

logger = logging.getLogger(__name__)

#: How many of a user's connections one hub reports.
_MAX_REPORTED = 200
#: An order that is older was kept for us, and does not concern who came after it, in seconds.
_LATE = 1.0


class ControlledHub(Protocol):
    """The hub, as its control sees it."""

    roster: Roster
    subscriptions: Subscriptions

    async def leave(self, connection: RoomSocket, rooms: Sequence[str]) -> None:
        """Take a connection out of rooms."""

    def untrack(self, connection: RoomSocket) -> None:
        """Count a connection as present no more."""

    def count(self, name: str) -> None:
        """Count an occurrence."""


class Control:
    """Heeds orders, and looks now and then who is still signed in."""

    def __init__(self, layer: Any, hub: ControlledHub) -> None:
        self._layer = layer
        self._hub = hub
        self._tasks: set[asyncio.Task[None]] = set()

    def heed(self, event: Mapping[str, Any], *, age: float = 0.0) -> None:
        """Do what a control message asks for, if it is an order; it was given so many seconds ago."""
        order = Order.parse(event)
        if order is None:
            return
        if order.session is not None:
            self._close(self._hub.roster.end_session(order.session), CloseCode.EXPIRED)
        elif order.user is None and order.room is not None:
            given_at = _given_at(age)
            members = self._hub.subscriptions.members(order.room)
            self._close([each for each in members if each.began_at < given_at], CloseCode.KICKED, "room closed")
        elif order.user is not None:
            self._heed_of_user(order, order.user, age)

    async def watch_sign_ins(self) -> None:
        """Close those who are signed in no more, where no signal told; for ever."""
        while True:
            await asyncio.sleep(rooms_settings().sign_in_check * random.uniform(0.9, 1.1))
            await self._recheck(None)

    async def stop(self) -> None:
        """End it, when the hub's last connection has left."""
        await end(*self._tasks)

    def _heed_of_user(self, order: Order, user: str, age: float) -> None:
        connections = self._hub.roster.of_user(user)
        if order.reply_to is not None:
            self._begin(self._report(order.reply_to, connections))
            return
        if not order.recheck:
            # Also where she has no connection: one may be on its way in.
            connections = self._hub.roster.tell_to_go(user, order.room, given_at=_given_at(age))
        if not connections:
            return
        if order.recheck:
            self._begin(self._recheck(connections))
        elif order.room is None:
            self._close(connections, CloseCode.KICKED)
        else:
            self._begin(self._remove(connections, order.room))

    async def _remove(self, connections: Collection[RoomSocket], room: str) -> None:
        for connection in connections:
            if room not in connection.rooms:
                continue
            await self._hub.leave(connection, [room])
            if all(map(is_reserved, connection.rooms)):
                # It was here for this room alone: its page has nothing left to show.
                self._close([connection], CloseCode.FORBIDDEN_ROOM)

    async def _recheck(self, connections: Collection[RoomSocket] | None) -> None:
        sign_ins = self._hub.roster.sign_ins(connections)
        if not sign_ins:
            return
        try:
            over = await database_sync_to_async(ended)(tuple(sign_ins))
        except Exception as error:
            # A database that is away must not sign everybody out.
            logger.debug("could not look who is signed in error=%r", error)
            self._hub.count("sign_in_errors")
            return
        self._close([connection for sign_in in over for connection in sign_ins[sign_in]], CloseCode.EXPIRED)

    def _close(self, connections: Collection[RoomSocket], code: CloseCode, reason: str = "") -> None:
        for connection in connections:
            self._hub.count("revoked")
            # Its client may take its time with the close frame.
            self._hub.untrack(connection)
            try:
                connection.close_now(code, reason)
            except Exception:
                # The others are to be closed too.
                logger.exception("could not close connection=%s", connection.id)

    async def _report(self, channel: str, connections: Sequence[RoomSocket]) -> None:
        now, time = datetime.now(UTC), asyncio.get_running_loop().time()
        reports = [
            ConnectionReport(
                id=connection.id,
                process=process_id(),
                rooms=sorted(connection.rooms - {EVERYONE}),
                path=str(connection.scope.get("path", "")),
                since=now - timedelta(seconds=time - connection.began_at),
            ).as_dict()
            for connection in connections[:_MAX_REPORTED]
        ]
        try:
            async with within(rooms_settings().send_timeout):
                await self._layer.send(channel, {"type": REPORT, "process": process_id(), "connections": reports})
        except Exception as error:
            logger.debug("could not report error=%r", error)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, name="rooms-control")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _given_at(age: float) -> float:
    """When an order of this age was given, on the loop's clock: who began later was asked `can_join` later."""
    return asyncio.get_running_loop().time() - (age if age > _LATE else 0.0)
