"""The socket of the admin's live rooms pages: what a page shows is told again when it has changed.

However many pages are open, a process reads for them once a second at most, and not at all for none.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from channels.db import database_sync_to_async
from django.apps import apps
from django.http import HttpRequest, QueryDict

from rooms_app import envelope, lifecycle
from rooms_app.asgi import Receive, Scope, Send
from rooms_app.cancelling import end
from rooms_app.closing import CloseCode, Refused
from rooms_app.conf import rooms_settings
from rooms_app.connection import RoomSocket
from rooms_app.context import use_ws_manager
from rooms_app.exceptions import RoomsError
from rooms_app.live_views import View, views_of
from rooms_app.servers import Batch

logger = logging.getLogger(__name__)

#: Where `websocket_application` has the socket, after the project's own routes.
PATH = "rooms-admin/live"
#: One read in so many seconds; and a pause of up to so many where it was work for Redis.
_PAUSE, _LONGEST_PAUSE = 1.0, 30.0


def may_watch(user: Any) -> bool:
    """Whether this user may see the page, as the admin itself says."""
    # Not at the top: asgi.py may import this before the apps are loaded.
    from django.contrib import admin

    model = apps.get_model("rooms_app", "LiveRoom")
    request = HttpRequest()
    request.user = user
    if not admin.site.has_permission(request) or not admin.site.is_registered(model):
        return False
    return admin.site.get_model_admin(model).has_view_permission(request)


async def live_rooms(scope: Scope, receive: Receive, send: Send) -> None:
    """The ASGI application of the socket: for who may see the page, and closed when she no longer may."""
    websocket = RoomSocket(scope, receive, send)
    # It is in no room, so that it is none of the rooms that it shows.
    websocket.joins_user_room = False
    await lifecycle.run(websocket, lambda: _serve(websocket), name="live_rooms")


async def _serve(websocket: RoomSocket) -> None:
    if websocket.user_room is None or not await _still_may_watch(websocket):
        raise Refused(lifecycle.forbidden(websocket))
    await use_ws_manager().add_websocket(websocket)
    await websocket.accept()
    recheck = asyncio.get_running_loop().create_task(_recheck(websocket), name="rooms-watching")
    try:
        with ExitStack() as shown:
            for view in views_of(QueryDict(websocket.scope.get("query_string", b""))):
                shown.enter_context(_lookout().shown_to(websocket, view))
            await websocket.wait_closed()
    finally:
        await end(recheck)


async def _recheck(websocket: RoomSocket) -> None:
    """Close it once the permission is gone: unlike the end of a sign-in, nothing else sees that."""
    while True:
        await asyncio.sleep(rooms_settings().sign_in_check)
        try:
            may_watch_on = await _still_may_watch(websocket)
        except Exception as error:
            # A database that is away takes no permission from anybody.
            logger.debug("could not look for the permission connection=%s error=%r", websocket.id, error)
            continue
        if not may_watch_on:
            websocket.close_now(CloseCode.FORBIDDEN_ROOM)


@database_sync_to_async
def _still_may_watch(websocket: RoomSocket) -> bool:
    from django.contrib.auth import get_user_model

    # Anew: a user keeps the permissions that she was first asked for.
    user = get_user_model()._default_manager.filter(pk=websocket.user.pk).first()
    return user is not None and may_watch(user)


@dataclass(slots=True)
class _Shown:
    """What the open pages of one view show."""

    pages: dict[RoomSocket, None] = field(default_factory=dict)
    #: What they were last told, as it goes out; "" before the first time.
    text: str = ""
    #: When it was last read, on the loop's clock.
    read_at: float = 0.0


class Lookout:
    """Reads for the pages that are open in one event loop, one view after the other."""

    def __init__(self) -> None:
        self._views: dict[View, _Shown] = {}
        self._task: asyncio.Task[None] | None = None
        #: When the next read may be, on the loop's clock.
        self._next_at = 0.0

    @contextmanager
    def shown_to(self, connection: RoomSocket, view: View) -> Iterator[None]:
        """Tell a connection what there is in the view, and again whenever that has changed."""
        shown = self._views.setdefault(view, _Shown())
        shown.pages[connection] = None
        if shown.text:
            connection.backlog.write(Batch([shown.text]))
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="rooms-lookout")
        try:
            yield
        finally:
            del shown.pages[connection]
            if not shown.pages:
                del self._views[view]
            if not self._views and self._task is not None:
                self._task.cancel()
                self._task = None

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._next_at - loop.time())
            if not self._views or self._task is not asyncio.current_task():
                # It was cancelled, of which it may not have heard.
                return
            # The one that has waited longest; a new one comes first.
            view, shown = min(self._views.items(), key=lambda item: item[1].read_at)
            shown.read_at = loop.time()
            self._next_at = shown.read_at + _PAUSE
            text = await _read(view)
            respite = view.respite * (loop.time() - shown.read_at)
            self._next_at = max(self._next_at, loop.time() + min(respite, _LONGEST_PAUSE))
            if text == shown.text:
                continue
            shown.text = text
            batch = Batch([text])
            for connection in tuple(shown.pages):
                _write(connection, batch)


def _write(connection: RoomSocket, batch: Batch) -> None:
    try:
        connection.backlog.write(batch)
    except Exception:
        # The other pages are to be told.
        logger.exception("could not write connection=%s", connection.id)
        connection.close_now(CloseCode.ERROR)


async def _read(view: View) -> str:
    try:
        return envelope.encode(await view.read())
    except RoomsError:
        return envelope.encode(view.unread)
    except Exception as error:
        # A database that is away, when a user is looked for.
        logger.debug("could not read for a page view=%s error=%r", view, error)
        return envelope.encode(view.unread)


_lookouts: WeakKeyDictionary[asyncio.AbstractEventLoop, Lookout] = WeakKeyDictionary()


def _lookout() -> Lookout:
    return _lookouts.setdefault(asyncio.get_running_loop(), Lookout())
