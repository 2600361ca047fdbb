"""Who is in which room, on record: in Redis for all processes, or in this process's memory.

A member is on record for each process that has a connection of hers. She is in a room from the first on, and leaves it
when the last has taken her off and her grace is over. What a room is told goes with the change itself: a process that
dies between them leaves nobody untold.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from rooms_app import envelope
from rooms_app.layers import RoomsRedisChannelLayer
from rooms_app.layers.scripts import Call, Target
from rooms_app.layers.sending import history_of
from rooms_app.members import Member, PresenceJoined, PresenceLeft
from rooms_app.per_layer import PerLayer
from rooms_app.rooms import group_name

T = TypeVar("T")

#: How many entries one call writes or lists at most: Redis does nothing else meanwhile.
ENTRIES_PER_CALL = 250
#: How many members one message names: below `max_message_bytes`, however long their names are.
_MEMBERS_PER_MESSAGE = 250
#: How many members of a room are read at once, where all are asked for.
_PAGE = 1_000
#: How long Redis knows a message by its uid, in seconds. The script itself sends it once.
_ONCE_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomMember:
    """A member of a room."""

    room: str
    member: Member


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """A member whom a process has no more in a room."""

    room: str
    id: str
    #: How long she stays in all the same, in seconds.
    grace: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What became of those whose grace was over."""

    #: How many members of rooms are on record for the process that asked; None where it is not known.
    on_record: int | None
    #: Whether there may be more.
    has_more: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Roll:
    """Some or all members of a room, in the order of their names, and how many there are."""

    members: Sequence[Member]
    count: int


class Whereabouts(Protocol):
    """Where it is on record who is in which room. Each method raises what Redis raises; each can be tried again."""

    async def enter(self, process: str, entries: Sequence[RoomMember], *, before_due: float | None = None) -> bool:
        """Put members on record, and tell rooms where they are new; False where the process is not known.

        It has to tell all that it has then, from its first part on with `before_due`: after so many seconds that is due
        which it does not tell again.
        """

    async def exit(self, process: str, exits: Sequence[Exit]) -> None:
        """Take members off the record of a process."""

    async def forget(self, process: str, *, grace: float) -> None:
        """Take off the record all that a process has."""

    async def settle(self, process: str) -> Settled:
        """Tell rooms of those whose grace is over, and of those of processes that are no more."""

    async def read(self, room: str, *, limit: int | None = None) -> Roll:
        """Who is in a room; so many at most, or all."""


class RedisWhereabouts:
    """The record in the Redis of a layer with history; rooms are told within the scripts that write it."""

    def __init__(self, layer: RoomsRedisChannelLayer) -> None:
        self._layer = layer
        self._calls = layer.calls

    async def enter(self, process: str, entries: Sequence[RoomMember], *, before_due: float | None = None) -> bool:
        rows = [(entry.room, entry.member.id, entry.member.name) for entry in entries]
        new = await self._call(self._calls.enter(process, rows, before_due=before_due))
        if new == -1:
            return False
        by_room: defaultdict[str, list[Member]] = defaultdict(list)
        for index in new:
            entry = entries[index - 1]
            by_room[entry.room].append(entry.member)
        parts = [(room, part) for room, members in by_room.items() for part in _parts(members)]
        return all(await asyncio.gather(*(self._join(process, room, part) for room, part in parts)))

    async def exit(self, process: str, exits: Sequence[Exit]) -> None:
        await self._call(self._calls.exit(process, [(each.room, each.id, each.grace) for each in exits]))

    async def forget(self, process: str, *, grace: float) -> None:
        await self._call(self._calls.exit(process, [], all_due=grace))

    async def settle(self, process: str) -> Settled:
        on_record, has_more, found = await self._call(self._calls.due(process, limit=ENTRIES_PER_CALL))
        departing = []
        for room, words in found:
            rows = list(zip(words[::3], words[1::3], words[2::3], strict=True))
            members = [(Member(id=id.decode(), name=name.decode()), due) for id, name, due in rows]
            departing += [self._depart(room.decode(), part) for part in _parts(members)]
        await asyncio.gather(*departing)
        return Settled(on_record=on_record if on_record >= 0 else None, has_more=bool(has_more))

    async def read(self, room: str, *, limit: int | None = None) -> Roll:
        page = _PAGE if limit is None else min(limit, _PAGE)
        names: dict[str, str] = {}
        cursor: str | bytes = "0"
        while True:
            call = self._calls.members(room, cursor, limit=page, drained=ENTRIES_PER_CALL)
            answer = await self._call(call)
            if answer is None:
                continue
            count, cursor, words = answer
            names |= {id.decode(): name.decode() for id, name in zip(words[::2], words[1::2], strict=True)}
            if cursor == b"0" or (limit is not None and len(names) >= limit):
                members = [Member(id=id, name=name) for id, name in names.items()]
                return _roll(members[:limit], count)

    async def _join(self, process: str, room: str, members: Sequence[Member]) -> bool:
        while members:
            rows = [(member.id, member.name) for member in members]
            message = self._message(PresenceJoined(members=_sorted(members)), room)
            new = await self._call(self._calls.join(process, room, rows, message=message))
            if new == -1:
                return False
            # Others have come by another process meanwhile: once more, with the rest.
            members = [members[index - 1] for index in new]
        return True

    async def _depart(self, room: str, leaving: Sequence[tuple[Member, bytes]]) -> None:
        while leaving:
            message = self._message(PresenceLeft(members=_sorted(member for member, _ in leaving)), room)
            rows = [(member.id, due) for member, due in leaving]
            still = await self._call(self._calls.depart(room, rows, message=message))
            # Some have come back, or another process has told of them.
            leaving = [leaving[index - 1] for index in still]

    def _message(self, message: PresenceJoined | PresenceLeft, room: str) -> Call:
        event = envelope.room_message([room], envelope.encode(message))
        messages, seconds = history_of(room)
        target = Target(group=group_name(room), messages=messages, seconds=seconds)
        payload = self._layer.serialize(event)
        return self._calls.send([target], payload, once=f"uid:{event['uid']}", once_seconds=_ONCE_SECONDS)

    async def _call(self, call: Call) -> Any:
        return await self._layer.here().shard.call(call)


class MemoryWhereabouts:
    """The record of this process alone, for layers that have no history."""

    def __init__(self) -> None:
        #: Tells a room of this process's hubs.
        self.announce: Callable[[dict[str, Any]], None] = lambda event: None
        # Held while a room is told, so that it hears of changes in their order.
        self._lock = threading.Lock()
        self._held: dict[str, set[tuple[str, str]]] = {}
        self._members: defaultdict[str, dict[str, Member]] = defaultdict(dict)
        #: When those leave whom no process has any more, on the monotonic clock.
        self._leaving: dict[tuple[str, str], float] = {}

    async def enter(self, process: str, entries: Sequence[RoomMember], *, before_due: float | None = None) -> bool:
        with self._lock:
            if before_due is None and process not in self._held:
                return False
            before: set[tuple[str, str]] = set()
            if before_due is not None:
                before, self._held[process] = self._held.get(process, set()), set()
            new: defaultdict[str, list[Member]] = defaultdict(list)
            for entry in entries:
                if not self._is_in(entry.room, entry.member.id):
                    new[entry.room].append(entry.member)
                self._members[entry.room][entry.member.id] = entry.member
                self._leaving.pop((entry.room, entry.member.id), None)
                self._held[process].add((entry.room, entry.member.id))
            for room, id in before:
                self._leave(room, id, before_due or 0.0)
            for room, members in new.items():
                self._tell(PresenceJoined(members=_sorted(members)), room)
        return True

    async def exit(self, process: str, exits: Sequence[Exit]) -> None:
        with self._lock:
            for each in exits:
                self._held.get(process, set()).discard((each.room, each.id))
                self._leave(each.room, each.id, each.grace)

    async def forget(self, process: str, *, grace: float) -> None:
        with self._lock:
            for room, id in self._held.pop(process, set()):
                self._leave(room, id, grace)

    async def settle(self, process: str) -> Settled:
        with self._lock:
            if process not in self._held:
                return Settled(on_record=None)
            now = time.monotonic()
            left: defaultdict[str, list[Member]] = defaultdict(list)
            for room, id in [key for key, due in self._leaving.items() if due <= now]:
                del self._leaving[room, id]
                left[room].append(self._members[room].pop(id))
                if not self._members[room]:
                    del self._members[room]
            for room, members in left.items():
                self._tell(PresenceLeft(members=_sorted(members)), room)
            return Settled(on_record=len(self._held[process]))

    async def read(self, room: str, *, limit: int | None = None) -> Roll:
        with self._lock:
            members = [each for id, each in self._members.get(room, {}).items() if self._is_in(room, id)]
        return _roll(members[:limit], len(members))

    def _is_in(self, room: str, id: str) -> bool:
        due = self._leaving.get((room, id))
        return id in self._members.get(room, {}) and (due is None or due > time.monotonic())

    def _leave(self, room: str, id: str, grace: float) -> None:
        is_held = any((room, id) in held for held in self._held.values())
        if id in self._members.get(room, {}) and not is_held:
            due = time.monotonic() + grace
            self._leaving[room, id] = min(self._leaving.get((room, id), due), due)

    def _tell(self, message: PresenceJoined | PresenceLeft, room: str) -> None:
        self.announce(envelope.room_message([room], envelope.encode(message), has_history=False))


def _parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """So many as one message names."""
    for start in range(0, len(items), _MEMBERS_PER_MESSAGE):
        yield items[start : start + _MEMBERS_PER_MESSAGE]


def _sorted(members: Iterable[Member]) -> list[Member]:
    return sorted(members, key=lambda member: (member.name, member.id))


def _roll(members: Iterable[Member], count: int) -> Roll:
    return Roll(members=_sorted(members), count=count)


_in_memory = PerLayer(lambda layer: MemoryWhereabouts())


def whereabouts_for(layer: Any, *, announce: Callable[[dict[str, Any]], None] | None = None) -> Whereabouts:
    """The record that goes with a channel layer; where it is in memory, `announce` is how rooms are told."""
    if isinstance(layer, RoomsRedisChannelLayer) and layer.has_history:
        return RedisWhereabouts(layer)
    store = _in_memory.of(layer)
    if announce is not None:
        store.announce = announce
    return store
