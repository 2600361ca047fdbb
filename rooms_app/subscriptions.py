"""Which rooms this process listens to: the hub's one channel is in a room's group while the room has members here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Any

from rooms_app.cancelling import within
from rooms_app.conf import rooms_settings
from rooms_app.connection import RoomSocket
from rooms_app.exceptions import RoomsUnavailable, explain
from rooms_app.rooms import group_name

logger = logging.getLogger(__name__)


class Membership(Enum):
    """Whether the hub's channel is in a group, as far as is known."""

    ABSENT = "absent"
    #: A call to the layer has begun, or failed: it may have been carried out.
    UNKNOWN = "unknown"
    PRESENT = "present"


class Room:
    """A room with members in this process."""

    __slots__ = ("group", "lock", "members", "membership", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.group = group_name(name)
        #: Its connections in this process, in the order they came.
        self.members: dict[RoomSocket, None] = {}
        self.membership = Membership.ABSENT
        #: Joins and leaves of one room go one after the other: crossed, they would leave a room unheard.
        self.lock = asyncio.Lock()


class Subscriptions:
    """The rooms of one hub, and their groups on the channel layer."""

    def __init__(self, layer: Any, channel: str) -> None:
        self._layer = layer
        self._channel = channel
        self._rooms: dict[str, Room] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        #: Rooms that somebody has entered or left since they were last asked for.
        self._changed: set[str] = set()
        self._change = asyncio.Event()

    def __iter__(self) -> Iterator[Room]:
        return iter(tuple(self._rooms.values()))

    def members(self, room: str) -> dict[RoomSocket, None]:
        """The connections of a room in this process; not to be changed."""
        entry = self._rooms.get(room)
        return entry.members if entry is not None else {}

    @property
    def occupied(self) -> int:
        """How many rooms have members in this process."""
        return sum(1 for room in self._rooms.values() if room.members)

    @property
    def has_changed(self) -> bool:
        """Whether somebody has entered or left a room since `take_changed`."""
        return bool(self._changed)

    def take_changed(self) -> set[str]:
        """The rooms that somebody has entered or left since this was last called."""
        changed, self._changed = self._changed, set()
        self._change.clear()
        return changed

    async def wait_changed(self) -> None:
        """Return once somebody has entered or left a room since `take_changed`."""
        await self._change.wait()

    def look_again(self) -> None:
        """Have whoever waits for a change look, though there may be none."""
        self._change.set()

    def enter(self, connection: RoomSocket, room: str) -> None:
        """Put a connection into a room: it gets what arrives from now on. `settle` makes it arrive."""
        entry = self._rooms.get(room)
        if entry is None:
            entry = self._rooms[room] = Room(room)
        entry.members[connection] = None
        connection.rooms.add(room)
        self._note_change(room)

    def exit(self, connection: RoomSocket, room: str) -> None:
        """Take a connection out of a room; no error where it is not in."""
        connection.rooms.discard(room)
        entry = self._rooms.get(room)
        if entry is None or connection not in entry.members:
            return
        del entry.members[connection]
        self._note_change(room)
        if not entry.members:
            task = asyncio.get_running_loop().create_task(self._leave(entry))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def listen(self, rooms: Iterable[str]) -> None:
        """Return once the subscription of each room stands. Raises `RoomsUnavailable`."""
        for room in rooms:
            entry = self._rooms.get(room)
            if entry is not None and (entry.membership is not Membership.PRESENT or entry.lock.locked()):
                await self.settle(entry)

    async def settle(self, room: Room) -> None:
        """Bring a room's group in line with its members. Raises `RoomsUnavailable`."""
        async with room.lock:
            while True:
                if room.members and room.membership is not Membership.PRESENT:
                    await self._call(room, "group_add", Membership.PRESENT)
                elif not room.members and room.membership is not Membership.ABSENT:
                    await self._call(room, "group_discard", Membership.ABSENT)
                else:
                    break
            if not room.members and self._rooms.get(room.name) is room:
                del self._rooms[room.name]

    async def rejoin(self) -> None:
        """Add the channel to each group once more, as after a Redis that lost its data. Raises `RoomsUnavailable`."""
        for room in self:
            async with room.lock:
                if room.members:
                    await self._call(room, "group_add", Membership.PRESENT)

    async def retry(self) -> None:
        """Settle the rooms whose last call failed."""
        for room in self:
            if room.membership is Membership.UNKNOWN and not room.lock.locked():
                await self.settle(room)

    async def settled(self) -> None:
        """Wait for the leaves under way."""
        while self._tasks:
            await asyncio.wait(tuple(self._tasks))

    def _note_change(self, room: str) -> None:
        self._changed.add(room)
        self._change.set()

    async def _leave(self, room: Room) -> None:
        try:
            await self.settle(room)
        except RoomsUnavailable as error:
            logger.debug("left a room unheard by the layer room=%s error=%s", room.name, error)

    async def _call(self, room: Room, method: str, then: Membership) -> None:
        room.membership = Membership.UNKNOWN
        try:
            async with within(rooms_settings().send_timeout):
                await getattr(self._layer, method)(room.group, self._channel)
        except Exception as error:
            raise RoomsUnavailable(f"The channel layer did not confirm {method}: {explain(error)}") from error
        room.membership = then
