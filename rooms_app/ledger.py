"""How many connections each room has, in all processes: on record in Redis, or in this process's memory."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Protocol

from rooms_app.layers import RoomsRedisChannelLayer
from rooms_app.per_layer import PerLayer
from rooms_app.rooms import EVERYONE

#: How long a process stays on record after its last sign of life, in seconds.
LEASE = 10.0
#: How many rooms one call writes: Redis does nothing else meanwhile.
ROOMS_PER_CALL = 1_000
#: How many rooms are looked at by name at once.
_SCAN = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomCount:
    """A room and its connections in all processes."""

    room: str
    connections: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessCount:
    """A server process, its connections, and the rooms they are in."""

    process: str
    connections: int
    rooms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Rooms, those with most connections first, and what there is in all."""

    rooms: Sequence[RoomCount]
    total_rooms: int
    connections: int
    processes: Sequence[ProcessCount]


class Ledger(Protocol):
    """Where the counts are. Each method raises what Redis raises."""

    async def write(self, process: str, counts: Mapping[str, int], *, is_new: bool) -> int:
        """Put the connections of rooms on record, and renew the lease; how many rooms are on record then.

        -1 where the process is not known, and has to tell all that it has: from its first part on with `is_new`.
        """

    async def forget(self, process: str) -> None:
        """Take a process off the record."""

    async def count(self, rooms: Sequence[str]) -> dict[str, int]:
        """The connections of each room."""

    async def list(self, *, match: str | None, offset: int, limit: int) -> Listing:
        """Rooms, those with most connections first; of those whose name fits a pattern, where one is given."""


class RedisLedger:
    """The record in the Redis of a layer with history: one command, however many connections there are."""

    def __init__(self, layer: RoomsRedisChannelLayer) -> None:
        self._layer = layer
        self._calls = layer.calls

    async def write(self, process: str, counts: Mapping[str, int], *, is_new: bool) -> int:
        return int(await self._call(self._calls.lease(process, counts, seconds=LEASE, is_new=is_new)))

    async def forget(self, process: str) -> None:
        await self._call(self._calls.lease(process, {}, seconds=0))

    async def count(self, rooms: Sequence[str]) -> dict[str, int]:
        _, _, _, counted = await self._call(self._calls.counts(rooms, offset=0, limit=0))
        return dict(zip(rooms, counted, strict=True))

    async def list(self, *, match: str | None, offset: int, limit: int) -> Listing:
        length = limit if match is None else 0
        found, total, listed, _ = await self._call(self._calls.counts([], offset=offset, limit=length))
        if match is not None:
            listed = await self._scan(match)
        pairs = zip(listed[::2], listed[1::2], strict=True)
        rooms = [RoomCount(room=room.decode(), connections=int(float(number))) for room, number in pairs]
        if match is not None:
            rooms.sort(key=lambda each: (-each.connections, each.room))
            total = len(rooms)
            rooms = rooms[offset : offset + limit]
        return _listing(rooms, total, {process.decode(): (own, of_it) for process, own, of_it in found})

    async def _scan(self, match: str) -> Sequence[Any]:
        # Redis knows the same patterns, and is spared what does not fit.
        cursor, found = b"0", []
        while True:
            cursor, page = await self._layer.here().shard.command(
                "ZSCAN", self._calls.totals, cursor, "MATCH", match, "COUNT", _SCAN
            )
            # The member "" only keeps the set from vanishing; a member may be told twice.
            found += [word for pair in zip(page[::2], page[1::2], strict=True) if pair[0] for word in pair]
            if cursor in (b"0", 0):
                unique = dict(zip(found[::2], found[1::2], strict=True))
                return [word for pair in unique.items() for word in pair]

    async def _call(self, call: Any) -> Any:
        return await self._layer.here().shard.call(call)


class MemoryLedger:
    """The record of this process alone, for layers that have no history."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, dict[str, int]] = {}

    async def write(self, process: str, counts: Mapping[str, int], *, is_new: bool) -> int:
        with self._lock:
            if is_new:
                self._counts[process] = {}
            elif process not in self._counts:
                return -1
            own = self._counts[process]
            own.update(counts)
            for room in [room for room in counts if not own[room]]:
                del own[room]
            return len(own)

    async def forget(self, process: str) -> None:
        with self._lock:
            self._counts.pop(process, None)

    async def count(self, rooms: Sequence[str]) -> dict[str, int]:
        with self._lock:
            return {room: sum(own.get(room, 0) for own in self._counts.values()) for room in rooms}

    async def list(self, *, match: str | None, offset: int, limit: int) -> Listing:
        totals: Counter[str] = Counter()
        with self._lock:
            for own in self._counts.values():
                totals.update(own)
            processes = {
                name: (own.get(EVERYONE, 0), len(own) - (EVERYONE in own)) for name, own in self._counts.items()
            }
        totals.pop(EVERYONE, None)
        rooms = [
            RoomCount(room=room, connections=number)
            for room, number in totals.items()
            if match is None or fnmatchcase(room, match)
        ]
        rooms.sort(key=lambda each: (-each.connections, each.room))
        return _listing(rooms[offset : offset + limit], len(rooms), processes)


def _listing(rooms: Sequence[RoomCount], total: int, loops: Mapping[str, tuple[int, int]]) -> Listing:
    """A process writes one record for each of its event loops: `<process>/<loop>`."""
    processes: dict[str, tuple[int, int]] = {}
    for name, (connections, of_it) in loops.items():
        process = name.partition("/")[0]
        before = processes.get(process, (0, 0))
        processes[process] = (before[0] + connections, before[1] + of_it)
    return Listing(
        rooms=rooms,
        total_rooms=total,
        connections=sum(connections for connections, _ in processes.values()),
        processes=[
            ProcessCount(process=process, connections=connections, rooms=of_it)
            for process, (connections, of_it) in sorted(processes.items())
        ],
    )


_in_memory = PerLayer(lambda layer: MemoryLedger())


def ledger_for(layer: Any) -> Ledger:
    """The record that goes with a channel layer."""
    if isinstance(layer, RoomsRedisChannelLayer) and layer.has_history:
        return RedisLedger(layer)
    return _in_memory.of(layer)
