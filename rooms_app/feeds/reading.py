"""Reading history: positions, what rooms were sent after one, and whether that is all."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

from rooms_app.conf import rooms_settings
from rooms_app.cursor import Cursor, Entry, unstamp
from rooms_app.feeds.feed import Replay
from rooms_app.layers.scripts import Call, Calls
from rooms_app.layers.sending import keeps_history
from rooms_app.layers.shard import RoomsShard

#: How many rooms one call of a script reads: Redis does nothing else meanwhile.
_ROOMS_PER_CALL = 50
#: How many groups' retained messages are asked for at once.
_GROUPS_AT_ONCE = 500


class EpochChanged(Exception):  # noqa: N818
    """History began anew while it was read."""


class HistoryReader:
    """Reads the history of one Redis. Each method raises what redis-py raises."""

    def __init__(self, shard: RoomsShard, calls: Calls) -> None:
        self._shard = shard
        self._calls = calls

    async def tick(self) -> Cursor:
        """A position that everything sent before is not greater than."""
        return await self._position(self._calls.tick())

    async def settle(self, *, known: Cursor | None, received: Sequence[tuple[str, int]]) -> Cursor:
        """`tick`, in a new epoch where what is known here proves that Redis lost something."""
        return await self._position(self._calls.settle(known=known, received=received))

    async def arrive(self, group: str) -> tuple[Cursor, dict[str, Entry]]:
        """A position, and what a group retains."""
        return await asyncio.gather(self.tick(), self.retained(group))

    async def retained(self, group: str) -> dict[str, Entry]:
        """What a group keeps for those who join it, by name."""
        found = await self._shard.command("HGETALL", self._calls.retained(group))
        pairs = found.items() if isinstance(found, dict) else zip(found[::2], found[1::2], strict=True)
        return {name.decode(): unstamp(data) for name, data in pairs}

    async def all_retained(self, groups: Sequence[str]) -> dict[str, dict[str, Entry]]:
        """What each group keeps for those who join it."""
        found: list[dict[str, Entry]] = []
        for start in range(0, len(groups), _GROUPS_AT_ONCE):
            found += await asyncio.gather(*map(self.retained, groups[start : start + _GROUPS_AT_ONCE]))
        return dict(zip(groups, found, strict=True))

    async def read(self, until: Cursor, rooms: Sequence[tuple[str, int]]) -> tuple[list[Entry], set[str]]:
        """What the groups were sent after an id each and up to a cursor, in order, each message once.

        And the groups of which something may be missing. Raises `EpochChanged` besides.
        """
        entries: dict[int, Entry] = {}
        incomplete: set[str] = set()
        for start in range(0, len(rooms), _ROOMS_PER_CALL):
            page = rooms[start : start + _ROOMS_PER_CALL]
            found = await self._shard.call(self._calls.replay(until.epoch, page))
            if found is None:
                raise EpochChanged
            for (group, after), rows in zip(page, found, strict=True):
                if rows is None:
                    incomplete.add(group)
                    continue
                for entry in map(unstamp, rows):
                    if entry.cursor is not None and after < entry.cursor.id <= until.id:
                        entries.setdefault(entry.cursor.id, entry)
        return [entries[number] for number in sorted(entries)], incomplete

    async def missed(self, now: Cursor, groups: Collection[str], since: Cursor | None) -> Replay:
        """What groups were sent after a client's cursor, or why that can't be told. Raises `EpochChanged` besides."""
        if not keeps_history():
            return Replay(cursor=now, reason="no_history")
        if since is None or since.epoch != now.epoch or since.id > now.id:
            return Replay(cursor=now, reason="epoch")
        entries, incomplete = await self.read(now, [(group, since.id) for group in groups])
        if incomplete:
            return Replay(cursor=now, reason="trimmed")
        if len(entries) > rooms_settings().max_replay_messages:
            return Replay(cursor=now, reason="limit")
        return Replay(cursor=now, entries=entries)

    async def _position(self, call: Call) -> Cursor:
        text = (await self._shard.call(call)).decode()
        cursor = Cursor.parse(text)
        if cursor is None:
            raise ConnectionError(f"Redis returned {text!r} for a position.")
        return cursor
