"""How many connections rooms have, in all processes; on a layer without history in this one."""

from __future__ import annotations

from collections.abc import Sequence

from rooms_app.background import background
from rooms_app.breaker import Breaker
from rooms_app.ledger import Listing, ProcessCount, RoomCount, ledger_for
from rooms_app.rooms import check_rooms
from rooms_app.transport import channel_layer

__all__ = [
    "Listing",
    "ProcessCount",
    "RoomCount",
    "count_connections",
    "count_connections_sync",
    "list_rooms",
    "list_rooms_sync",
]

#: Its own: a page that shows counts is not to wait for a Redis that is away, nor to count as a send.
_breaker = Breaker(what="counts of connections")


async def count_connections(rooms: Sequence[str]) -> dict[str, int]:
    """The connections of each room, about a second old; of all that there are for `"*"`.

    One Redis command, whatever the rooms' sizes. Raises `RoomsUnavailable`, `InvalidRoom`.
    """
    names = check_rooms(rooms)
    return await _breaker.read(lambda: ledger_for(channel_layer()).count(names))


async def list_rooms(*, match: str | None = None, limit: int = 100, offset: int = 0) -> Listing:
    """The rooms with most connections, and each process's; `match` is a pattern such as `chat-*`.

    Raises `RoomsUnavailable`.
    """
    return await _breaker.read(lambda: ledger_for(channel_layer()).list(match=match, offset=offset, limit=limit))


def count_connections_sync(rooms: Sequence[str]) -> dict[str, int]:
    """`count_connections` for sync code."""
    return background.run(lambda: count_connections(rooms))


def list_rooms_sync(*, match: str | None = None, limit: int = 100, offset: int = 0) -> Listing:
    """`list_rooms` for sync code."""
    return background.run(lambda: list_rooms(match=match, limit=limit, offset=offset))
