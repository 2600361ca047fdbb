"""Tells every process's hub whom to close, within a second: users, rooms, ended sessions."""

from __future__ import annotations

import logging
from typing import Any

from rooms_app.background import background
from rooms_app.breaker import Breaker
from rooms_app.exceptions import InvalidRoom, RoomsUnavailable
from rooms_app.orders import Order
from rooms_app.rooms import EVERYONE, check_room, is_reserved, user_room
from rooms_app.transport import channel_layer, group_send

logger = logging.getLogger(__name__)

#: Its own: a logout is not to wait for a Redis that is away, nor to count as a send.
_breaker = Breaker(what="logouts and kicks")


async def give(order: Order) -> None:
    """Have every hub heed an order. Raises `RoomsUnavailable`, which means perhaps heeded."""
    with _breaker.attempt():
        await group_send(channel_layer(), order.message())


def kick_order(user: Any) -> Order:
    """Close all connections of a user, with 4503."""
    return Order(user=user_room(user))


def removal_order(user: Any, room: str) -> Order:
    """Take a user's connections out of a room; those that are in no other are closed with 4507.

    Raises `InvalidRoom`, for a reserved room too: she is in those as long as she is connected.
    """
    if is_reserved(check_room(room)):
        raise InvalidRoom(room, f"Nobody can be taken out of {room!r}, which is reserved: disconnect the user instead.")
    return Order(user=user_room(user), room=room)


def close_order(room: str) -> Order:
    """Close all connections in a room, with 4503. Raises `InvalidRoom`, for the room of everyone too."""
    if check_room(room) == EVERYONE:
        raise InvalidRoom(room, f"{EVERYONE!r} is every connection, and can't be closed: to restart, drain.")
    return Order(room=room)


async def announce_session_ended(digest: str) -> None:
    """Close the connections of a session, named by the digest of its key, with 4005. Never raises."""
    await _try_to_give(Order(session=digest))


def announce_session_ended_sync(digest: str) -> None:
    """`announce_session_ended` for sync code."""
    background.run(lambda: _try_to_give(Order(session=digest)))


def announce_user_changed_sync(user: str) -> None:
    """Close the connections of the user with this primary key that are signed in no more, with 4005. Never raises."""
    background.run(lambda: _try_to_give(Order(user=f"user-{user}", recheck=True)))


async def _try_to_give(order: Order) -> None:
    try:
        await give(order)
    except RoomsUnavailable as error:
        # The next look at who is signed in finds it out.
        logger.debug("an order was not given error=%r", error)
    except Exception:
        logger.exception("an order was not given")
