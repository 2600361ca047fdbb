"""Keeps on record who is in which room by one hub's connections.

What connections change is merged, and written a moment later. A hub that tracks nobody has none of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from rooms_app.cancelling import end, within
from rooms_app.closing import CloseCode, Closing
from rooms_app.conf import rooms_settings
from rooms_app.connection import RoomSocket
from rooms_app.cursor import Entry
from rooms_app.feeds import Item
from rooms_app.ledger import LEASE
from rooms_app.members import Member
from rooms_app.rollcall import RollCall
from rooms_app.subscriptions import Subscriptions
from rooms_app.whereabouts import ENTRIES_PER_CALL, Exit, RoomMember, Whereabouts

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Changes are gathered for so many seconds.
_MOMENT = 0.03
#: How often it looks whose time to leave has come, in seconds: rooms are to be told of a killed process's members
#: within a second of the end of its lease.
_SWEEP = 0.6
#: How long it does not, after Redis was away or has forgotten: the other processes are to come back first, or rooms
#: would be told that everybody has left.
_PATIENCE = 3.0
#: When it tries again where the record does not know the process yet, in seconds.
_SOON = 0.1
#: How often all is told anew, in seconds: the record does not outlive a day without that.
_REFRESH = 6 * 3600.0


@dataclass(slots=True)
class _Held:
    """A member of a room, by so many connections of this hub."""

    member: Member
    connections: int = 0


def grace_of(closing: Closing | None) -> float:
    """How long a member stays in whose connection has ended so: none where her client is not to come back."""
    if closing is None or closing.code >= CloseCode.NOT_AUTHENTICATED or closing.code == CloseCode.EXPIRED:
        return 0.0
    return rooms_settings().presence_grace


class AttendedHub(Protocol):
    """The hub, as its attendance sees it."""

    subscriptions: Subscriptions

    def take(self, item: Item) -> None:
        """Do something after all that was taken before is delivered."""

    def count(self, name: str) -> None:
        """Count an occurrence."""


class Attendance:
    """The members of rooms that one hub has."""

    def __init__(
        self,
        record: Whereabouts,
        process: str,
        hub: AttendedHub,
        *,
        parse: Callable[[dict[str, Any] | Entry], Mapping[str, Any] | None],
    ) -> None:
        self._record = record
        #: This hub on the record.
        self._process = process
        self._hub = hub
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self.roll_call = RollCall(record, take=hub.take, parse=parse, wake=self._wake.set)
        #: The connections that are tracked, whether as a member or as nobody.
        self._connections: set[RoomSocket] = set()
        self._held: dict[tuple[str, str], _Held] = {}
        #: Rooms and members that are to be written, and the grace of those who are held no more.
        self._changed: dict[tuple[str, str], float] = {}
        #: Whether the record has to be told everything, since it knows nothing of us, or something else.
        self._is_unknown = True
        #: When it was told everything; None before.
        self._told_at: float | None = None
        self._sweep_at = 0.0
        #: Until then it does not look whose time to leave has come.
        self._quiet_until = 0.0
        #: Until then somebody who was here may have to leave, whoever is still here.
        self._over_at = 0.0
        self._task = self._loop.create_task(self._run(), name="rooms-attendance")

    def track(self, connection: RoomSocket, rooms: Collection[str], member: Member | None) -> None:
        """Count a connection as this member of rooms, or as nobody, and tell it who is there."""
        if connection.tracked is None:
            connection.tracked = {}
        for room in rooms:
            if room in connection.tracked and connection.tracked[room] != member:
                self.untrack(connection, [room], grace=0.0)
            if room not in connection.tracked:
                connection.tracked[room] = member
                if member is not None:
                    self._hold(room, member)
            self._connections.add(connection)
        self.roll_call.ask(connection, rooms)

    def untrack(self, connection: RoomSocket, rooms: Collection[str], *, grace: float) -> None:
        """Count a connection no more. Where it was her last, its member leaves after so many seconds."""
        tracked = connection.tracked or {}
        for room in rooms:
            if room in tracked:
                member = tracked.pop(room)
                if member is not None:
                    self._let_go(room, member, grace)
        if not tracked:
            self._connections.discard(connection)
        self._over_at = max(self._over_at, self._loop.time() + grace + 2 * _SWEEP)

    def doubt(self) -> None:
        """Redis may have lost what it knew: have it told everything."""
        self._is_unknown = True
        self._wake.set()

    async def stop(self) -> None:
        """Take the hub off the record, when its last connection has left; without Redis the end of its lease does."""
        await end(self._task)
        with contextlib.suppress(Exception):
            async with within(rooms_settings().send_timeout):
                if await self._write():
                    await self._record.settle(self._process)
                await self._record.forget(self._process, grace=rooms_settings().presence_grace)

    def _hold(self, room: str, member: Member) -> None:
        held = self._held.get((room, member.id))
        if held is None:
            held = self._held[room, member.id] = _Held(member)
            self._changed[room, member.id] = 0.0
            self._wake.set()
        held.connections += 1

    def _let_go(self, room: str, member: Member, grace: float) -> None:
        held = self._held[room, member.id]
        held.connections -= 1
        if not held.connections:
            del self._held[room, member.id]
            self._changed[room, member.id] = grace
            self._wake.set()

    @property
    def _is_busy(self) -> bool:
        has_work = self._connections or self._changed or self.roll_call.is_due
        return bool(has_work) or self._loop.time() < self._over_at

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                if await self._write() and self._loop.time() >= max(self._sweep_at, self._quiet_until):
                    await self._sweep()
                await self.roll_call.answer()
            except Exception as error:
                logger.debug("could not write who is present error=%r", error)
                self._hub.count("presence_errors")
                self._hold_off()
            pause = _SOON if self._is_unknown else _SWEEP * random.uniform(0.9, 1.0)
            # Where nobody is tracked, Redis is asked nothing.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause if self._is_busy else None):
                    await self._wake.wait()
            await asyncio.sleep(_MOMENT)

    async def _write(self) -> bool:
        """Write what has changed, or everything; whether the record knows of us."""
        if self._told_at is not None and self._loop.time() - self._told_at > _REFRESH:
            self._is_unknown = True
        is_new, self._is_unknown = self._is_unknown, False
        changed, self._changed = self._changed, {}
        is_known = False
        try:
            is_known = await self._write_parts(changed, is_new=is_new)
        finally:
            if not is_known:
                self._is_unknown = self._is_unknown or is_new
                self._changed = {**changed, **self._changed}
        if not is_known:
            self._forgotten()
        elif is_new:
            self._told_at = self._loop.time()
        return is_known

    async def _write_parts(self, changed: Mapping[tuple[str, str], float], *, is_new: bool) -> bool:
        timeout = rooms_settings().send_timeout
        keys = self._held.keys() if is_new else changed.keys() & self._held.keys()
        entries = [RoomMember(room=key[0], member=self._held[key].member) for key in keys]
        exits = [Exit(room=key[0], id=key[1], grace=changed[key]) for key in changed if key not in self._held]
        before_due = max(LEASE, rooms_settings().presence_grace) if is_new else None
        for entered in _parts(entries) if entries or not is_new else [[]]:
            async with within(timeout):
                if not await self._record.enter(self._process, entered, before_due=before_due):
                    return False
            before_due = None
        for exited in _parts(exits):
            async with within(timeout):
                await self._record.exit(self._process, exited)
            if any(not each.grace for each in exited):
                self._sweep_at = 0.0
        return True

    async def _sweep(self) -> None:
        """Have rooms told of those whose time to leave has come, and look whether the record agrees."""
        self._sweep_at = self._loop.time() + 0.9 * _SWEEP
        while True:
            async with within(rooms_settings().send_timeout):
                settled = await self._record.settle(self._process)
            if settled.on_record is None:
                self._forgotten()
                return
            if not settled.has_more:
                break
        if not self._changed and settled.on_record != len(self._held):
            self._hub.count("presence_repairs")
            self.doubt()

    def _forgotten(self) -> None:
        self._is_unknown = True
        # Its lease goes with the counts, which are to be written now.
        self._hub.subscriptions.look_again()
        if self._told_at is not None:
            self._hold_off()

    def _hold_off(self) -> None:
        self._quiet_until = self._loop.time() + _PATIENCE


def _parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), ENTRIES_PER_CALL):
        yield items[start : start + ENTRIES_PER_CALL]
