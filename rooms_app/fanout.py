"""Who gets what of a batch of messages: pure, so that its order and its unions can be tested without a loop."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol, TypeVar

from rooms_app.envelope import Received, addressed


class Payload(NamedTuple):
    """A frame's content as the connections of one room get it."""

    data: str | bytes
    #: Its place in history; 0 for none.
    id: int = 0
    #: Whether a slow connection may go without it.
    is_volatile: bool = False


class Member(Hashable, Protocol):
    """A connection, as far as the plan needs it."""

    id: str


C = TypeVar("C", bound=Member)

#: Connections, and the payloads that each of them gets, in order. An empty one is a place to pause.
Delivery = tuple[Collection[C], Sequence[Payload]]


def plan(messages: Sequence[Received], members: Callable[[str], Collection[C]]) -> Iterator[Delivery[C]]:
    """The deliveries of one batch. A connection in several of the rooms gets each message once, in order.

    Payloads are made once per message and room. `members` gives a room's connections in this process.
    """
    by_room = _by_single_room(messages)
    if by_room is not None and _are_disjoint([members(room) for room in by_room]):
        for room, group in by_room.items():
            yield members(room), [payload_for(message, room) for message in group]
    else:
        yield from _plan_by_connection(messages, members)


def _by_single_room(messages: Iterable[Received]) -> dict[str, list[Received]] | None:
    """The messages by room, or None where one names several rooms or leaves a connection out."""
    by_room: dict[str, list[Received]] = {}
    for message in messages:
        if len(message.rooms) > 1 or message.exclude is not None:
            return None
        by_room.setdefault(message.rooms[0], []).append(message)
    return by_room


def _are_disjoint(rooms: Sequence[Collection[C]]) -> bool:
    # Only the rooms that this batch touches are compared: user rooms put everyone into two.
    return len(rooms) < 2 or len(set().union(*rooms)) == sum(map(len, rooms))


def _plan_by_connection(messages: Iterable[Received], members: Callable[[str], Collection[C]]) -> Iterator[Delivery[C]]:
    due: dict[C, list[Payload]] = {}
    for message in messages:
        reached: set[C] = set()
        for room in message.rooms:
            connections = members(room)
            if not connections:
                continue
            payload = payload_for(message, room)
            for connection in connections:
                if connection not in reached and connection.id != message.exclude:
                    reached.add(connection)
                    due.setdefault(connection, []).append(payload)
            yield (), ()
    same: dict[tuple[int, ...], tuple[list[C], list[Payload]]] = {}
    for connection, payloads in due.items():
        # Payloads are compared by identity: equal texts of two messages stay two.
        same.setdefault(tuple(map(id, payloads)), ([], payloads))[0].append(connection)
    yield from same.values()


def payload_for(message: Received, room: str) -> Payload:
    """The frame of a message as the connections of a room get it."""
    number = message.cursor.id if message.cursor is not None else 0
    if message.text is not None:
        return Payload(addressed(message.text, room, message.cursor), number, message.is_volatile)
    return Payload(message.raw if message.raw is not None else b"", number, message.is_volatile)
