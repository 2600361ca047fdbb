"""Room names: what is one, which are reserved, and the Channels group that carries each."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import StringConstraints

from rooms_app.exceptions import InvalidRoom, MessageTooLarge

#: The room that every connection is in: what a typed broadcast is sent to.
EVERYONE = "*"

#: Longest room name, in characters.
MAX_LENGTH = 255

#: How many rooms one send goes to: each of its copies, one for each room, names them all.
MAX_ROOMS_PER_SEND = 1_000

#: A room name as a Pydantic type, for bodies and for URL parameters of a `PydanticAPIView`.
RoomName = Annotated[str, StringConstraints(min_length=1, max_length=MAX_LENGTH)]

_USER_ROOM = "user-"
# Stricter than Channels' own pattern, whose \d takes any script's digits and whose $ takes a final newline.
_READABLE = re.compile(r"[A-Za-z0-9\-_.]{1,90}")


def check_room(room: object) -> str:
    """The room name itself. Raises `InvalidRoom` for anything else than 1 to 255 characters of Unicode text."""
    if not isinstance(room, str) or not 0 < len(room) <= MAX_LENGTH:
        raise InvalidRoom(room)
    if room.isascii():
        return room
    try:
        room.encode()
    except UnicodeEncodeError as error:
        raise InvalidRoom(room, "A room name can't hold half of a surrogate pair.") from error
    return room


def check_rooms(rooms: Iterable[object]) -> list[str]:
    """The room names without repeats, in order. Raises `InvalidRoom`; `TypeError` for a bare string."""
    if isinstance(rooms, str | bytes):
        raise TypeError(f"rooms is a list of room names, not {rooms!r}: write [{rooms!r}].")
    return list(dict.fromkeys([check_room(room) for room in rooms]))


def check_audience(rooms: Iterable[object]) -> list[str]:
    """`check_rooms`, for a send. Raises `MessageTooLarge` besides, where it would go to too many."""
    names = check_rooms(rooms)
    if len(names) > MAX_ROOMS_PER_SEND:
        raise MessageTooLarge(
            f"The message goes to {len(names):,} rooms, and one send to {MAX_ROOMS_PER_SEND:,} at most, as each copy "
            "names them all: send in parts, or to a room that all of them are in."
        )
    return names


def group_name(room: str) -> str:
    """The Channels group of a room, valid on every channel layer: ASCII, under 100 characters.

    Readable where the room's name can be used as it is (`room.chat-42`), else a hash of it (`room-5f1c…`).
    The two forms can't meet, and neither meets a group of a project's own that has no such prefix.
    """
    if isinstance(room, str) and _READABLE.fullmatch(room):
        return f"room.{room}"
    check_room(room)
    return f"room-{hashlib.sha256(room.encode()).hexdigest()[:48]}"


def user_room(user: Any) -> str:
    """The room of one user's connections: `user-<pk>`, for a user object with any kind of primary key."""
    if user.pk is None:
        raise InvalidRoom(None, "A user without a primary key has no room.")
    return check_room(f"{_USER_ROOM}{user.pk}")


def is_reserved(room: str) -> bool:
    """Whether only rooms_app itself, or a user's own connections, may be in this room."""
    return room == EVERYONE or room.startswith(_USER_ROOM)
