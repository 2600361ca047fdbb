"""Who is in a room now, in all processes; on a layer without history in this one."""

from __future__ import annotations

from collections.abc import Sequence

from rooms_app.background import background
from rooms_app.breaker import Breaker
from rooms_app.connection import HasConnection
from rooms_app.hub import hub_of
from rooms_app.members import Member, PresenceJoined, PresenceLeft, PresenceState, member_of
from rooms_app.rooms import check_room, check_rooms
from rooms_app.transport import channel_layer
from rooms_app.whereabouts import whereabouts_for

__all__ = [
    "Member",
    "PresenceJoined",
    "PresenceLeft",
    "PresenceState",
    "count",
    "count_sync",
    "members",
    "members_sync",
    "track",
]

#: Its own: a page that shows who is there is not to wait for a Redis that is away, nor to count as a send.
_breaker = Breaker(what="looks at who is present")


async def members(room: str) -> list[Member]:
    """The members of a room, in the order of their names. Raises `RoomsUnavailable`, `InvalidRoom`."""
    name = check_room(room)
    roll = await _breaker.read(lambda: whereabouts_for(channel_layer()).read(name))
    return list(roll.members)


async def count(room: str) -> int:
    """How many members a room has. Raises `RoomsUnavailable`, `InvalidRoom`."""
    name = check_room(room)
    roll = await _breaker.read(lambda: whereabouts_for(channel_layer()).read(name, limit=0))
    return roll.count


def members_sync(room: str) -> list[Member]:
    """`members` for sync code."""
    return background.run(lambda: members(room))


def count_sync(room: str) -> int:
    """`count` for sync code."""
    return background.run(lambda: count(room))


async def track(rooms: Sequence[str], websocket: HasConnection, member: Member | None = None) -> None:
    """Count a connection as a member of rooms that it has joined, and send it `presence.state` of each.

    The member is the signed-in user unless another is given. Without either the connection is nobody, and is sent the
    state all the same. Rooms that it is not in are ignored. Raises `InvalidRoom`.
    """
    track_as(member or member_of(websocket.connection.user), rooms, websocket)


def track_as(member: Member | None, rooms: Sequence[str], websocket: HasConnection) -> None:
    """`track`, with None for nobody."""
    names = check_rooms(rooms)
    hub = hub_of(websocket.connection)
    if hub is not None:
        hub.track(websocket.connection, names, member)
