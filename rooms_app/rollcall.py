"""Tells connections who is in their rooms: one read a room at a time, however many ask."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

from rooms_app import envelope
from rooms_app.cancelling import within
from rooms_app.closing import CloseCode
from rooms_app.conf import rooms_settings
from rooms_app.connection import RoomSocket
from rooms_app.cursor import Entry
from rooms_app.feeds import Item
from rooms_app.members import PresenceJoined, PresenceLeft, PresenceState
from rooms_app.servers import Batch
from rooms_app.whereabouts import Roll, Whereabouts

logger = logging.getLogger(__name__)

#: How many members `presence.state` names; it tells how many there are in any case.
STATE_LIMIT = 200
#: How many rooms are read at once …
_ROOMS_AT_ONCE = 50
#: … and how many connections are written to in one turn.
_PER_TURN = 100
#: A connection whose `since` is being answered is looked at again after so many seconds.
_AGAIN = 0.1
#: What the texts of joined and left begin with.
_CHANGES = tuple(f'{{"MESSAGE_ID":"{kind.MESSAGE_ID}",' for kind in (PresenceJoined, PresenceLeft))


class RollCall:
    """Writes `presence.state` to connections that ask for it.

    What a room is told comes on another connection than what is read of it: a `presence.left` may overtake the state
    that still names the member. So what arrives from the question on is sent once more behind the state.
    """

    def __init__(
        self,
        record: Whereabouts,
        *,
        take: Callable[[Callable[[], None]], None],
        parse: Callable[[dict[str, Any] | Entry], Mapping[str, Any] | None],
        wake: Callable[[], None],
    ) -> None:
        self._record = record
        #: Has something done in its turn among the messages.
        self._take = take
        self._parse = parse
        self._wake = wake
        self._asking: dict[str, dict[RoomSocket, None]] = {}
        #: What has arrived while rooms are read; None else.
        self._arrived: list[Item] | None = None
        self._later: defaultdict[str, list[str]] = defaultdict(list)

    @property
    def is_due(self) -> bool:
        """Whether somebody asks."""
        return bool(self._asking)

    def ask(self, connection: RoomSocket, rooms: Collection[str]) -> None:
        """Have a connection told who is in those of these rooms that it is tracked in."""
        for room in rooms:
            if connection.tracked and room in connection.tracked:
                self._asking.setdefault(room, {})[connection] = None
                self._wake()

    def note(self, item: Item) -> None:
        """Be told of what arrives."""
        if self._arrived is not None:
            self._arrived.append(item)

    async def answer(self) -> None:
        """Answer all who have asked up to now. Raises what Redis raises: they ask on then."""
        asking, self._asking = self._asking, {}
        rooms = list(asking)
        for start in range(0, len(rooms), _ROOMS_AT_ONCE):
            self._arrived = []
            try:
                await self._answer({room: asking[room] for room in rooms[start : start + _ROOMS_AT_ONCE]})
            except BaseException:
                for room in rooms[start:]:
                    self._asking[room] = {**asking[room], **self._asking.get(room, {})}
                raise
            finally:
                self._arrived = None
                self._later.clear()

    async def _answer(self, asking: Mapping[str, Mapping[RoomSocket, None]]) -> None:
        async with within(rooms_settings().send_timeout):
            rolls = await asyncio.gather(*(self._record.read(room, limit=STATE_LIMIT) for room in asking))
        for (room, connections), roll in zip(asking.items(), rolls, strict=True):
            state = _state(room, roll)
            waiting = list(connections)
            for start in range(0, len(waiting), _PER_TURN):
                batch = Batch([state, *self._changes_since(room)])
                self._take(partial(self._write, room, waiting[start : start + _PER_TURN], batch))
                await asyncio.sleep(0)

    def _write(self, room: str, connections: Sequence[RoomSocket], batch: Batch) -> None:
        for connection in connections:
            if not connection.tracked or room not in connection.tracked:
                continue
            if connection.guard is None:
                # First what it missed.
                connection.loop.call_later(_AGAIN, self.ask, connection, [room])
                continue
            try:
                connection.backlog.write(batch)
            except Exception:
                logger.exception("could not write connection=%s", connection.id)
                connection.close_now(CloseCode.ERROR)

    def _changes_since(self, room: str) -> list[str]:
        """What the room was told since it is read; without an id, since its place in history was before."""
        arrived, self._arrived = self._arrived or [], []
        for item in arrived:
            message = self._message(item)
            if message is not None and message.text is not None and message.text.startswith(_CHANGES):
                for each in message.rooms:
                    self._later[each].append(envelope.addressed(message.text, each))
        return self._later[room]

    def _message(self, item: Item) -> envelope.Received | None:
        if callable(item):
            return None
        try:
            event = self._parse(item)
        except Exception:
            # As it is no message of ours, it tells nothing of members.
            return None
        if event is None or event.get("type") != envelope.ROOM_MESSAGE:
            return None
        return envelope.parse(event, item.cursor if isinstance(item, Entry) else None)


def _state(room: str, roll: Roll) -> str:
    return envelope.addressed(envelope.encode(PresenceState(members=list(roll.members), count=roll.count)), room)
