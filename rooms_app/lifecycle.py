"""A connection from its handshake to its end, the same for consumers and endpoints."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable

from rooms_app.advice import advice
from rooms_app.closing import CloseCode, Refused
from rooms_app.connection import RoomSocket
from rooms_app.context import use_ws_manager
from rooms_app.drain import is_draining
from rooms_app.exceptions import ConnectionClosed, ForbiddenRoom, InvalidRoom, RoomsUnavailable
from rooms_app.hub import hub_of

logger = logging.getLogger(__name__)

#: One line in so many seconds tells that connections are refused, however many are.
_TELL_BUSY_EVERY = 10.0
_told_busy_at = float("-inf")


async def run(websocket: RoomSocket, body: Callable[[], Awaitable[None]], *, name: str) -> None:
    """Run the body of one connection; whatever it raises becomes a close code, and its rooms are always left.

    An error is logged once and not raised again: servers differ in what they then tell the client.
    """
    try:
        await websocket.connected()
        if websocket.options.problem is not None:
            raise Refused(CloseCode.BAD_REQUEST, websocket.options.problem)
        if is_draining():
            raise Refused(CloseCode.BUSY)
        await body()
        await websocket.close()
    except ConnectionClosed:
        pass
    except Refused as refused:
        await refuse(websocket, refused.code, refused.reason)
    except ForbiddenRoom:
        await refuse(websocket, forbidden(websocket))
    except InvalidRoom as error:
        await refuse(websocket, CloseCode.BAD_REQUEST, str(error))
    except RoomsUnavailable as error:
        _tell_busy(error)
        await refuse(websocket, CloseCode.BUSY)
    except Exception:
        logger.exception("%s failed connection=%s", name, websocket.id)
        await refuse(websocket, CloseCode.ERROR)
    finally:
        websocket.ended()
        await use_ws_manager().remove_websocket(websocket)


async def refuse(websocket: RoomSocket, code: CloseCode, reason: str = "") -> None:
    """Close with a code that the client can see: browsers report a refused handshake only as 1006."""
    try:
        if not websocket.is_accepted:
            # What came since it joined is not for it.
            await use_ws_manager().remove_websocket(websocket)
            websocket.backlog.drop()
            await websocket.accept()
        await websocket.close(code, reason or code.reason)
    except ConnectionClosed:
        return


def forbidden(websocket: RoomSocket) -> CloseCode:
    """The code for someone who may not join: the anonymous may sign in and come back."""
    return CloseCode.FORBIDDEN_ROOM if websocket.user_room is not None else CloseCode.NOT_AUTHENTICATED


def was_deaf_at(moment: float, websocket: RoomSocket) -> bool:
    """Whether its process could not hear at that moment, on the loop's clock, who was told to go: it has just begun."""
    hub = hub_of(websocket)
    return websocket.user_room is not None and hub is not None and moment < hub.listens_since


def _tell_busy(error: RoomsUnavailable) -> None:
    global _told_busy_at
    now = time.monotonic()
    if now - _told_busy_at >= _TELL_BUSY_EVERY:
        _told_busy_at = now
        logger.warning("connections are refused as busy (1013): %s%s", error, advice())
