"""`websocket_application`: the Origin check, then session auth, then routes, in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from channels.auth import AuthMiddlewareStack
from channels.routing import URLRouter
from django.apps import apps
from django.urls import path, re_path

from rooms_app import lifecycle, watching
from rooms_app.asgi import Application, Receive, Scope, Send
from rooms_app.closing import CloseCode, Refused
from rooms_app.conf import session_cookie_name
from rooms_app.connection import RoomSocket
from rooms_app.exceptions import RoomsConfigurationError
from rooms_app.origin import OriginCheck
from rooms_app.registry import registry
from rooms_app.servers import SERVER_SEND


def websocket_application(routes: Sequence[Any]) -> Application:
    """The application for Channels' `ProtocolTypeRouter`: routes are `path(…, Consumer.as_asgi())` or `endpoint.path`.

    Stock Channels consumers can stand among them. With Django's admin installed there is one route more, behind
    them: the live rooms page's. Raises `RoomsConfigurationError` where a message class is
    ill-defined, so that a server that runs no system checks does not start without it.
    """
    if registry.errors:
        raise RoomsConfigurationError(str(registry.errors[0])) from registry.errors[0]
    # Django's and Channels' types know neither each other's patterns nor plain ASGI applications.
    catch_all = re_path(r"", cast(Any, _refuse_unknown_path))
    # After the project's own, which it must not shadow.
    own = path(watching.PATH, cast(Any, _live_rooms))
    router = URLRouter(cast(Any, [*routes, own, catch_all]))
    return RoomsApplication(OriginCheck(SessionAuth(router)), routes)


class RoomsApplication:
    """Outermost, it sees the server's own `send`, which the session middleware wraps; it keeps the `routes`."""

    def __init__(self, application: Application, routes: Sequence[Any]) -> None:
        self._application = application
        #: As they were given, for `rooms_explain`.
        self.routes = tuple(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._application({**scope, SERVER_SEND: send}, receive, send)


class SessionAuth:
    """Channels' session auth; who has no session cookie is anonymous without a thread or a query."""

    def __init__(self, application: Any) -> None:
        self._application = application
        self._stack: Any = AuthMiddlewareStack(application)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if _has_session_cookie(scope):
            await self._stack(scope, receive, send)
            return
        # Not at the top: importing the user model needs the apps, and asgi.py may import this before them.
        from django.contrib.auth.models import AnonymousUser

        await self._application({**scope, "user": AnonymousUser()}, receive, send)


def _has_session_cookie(scope: Scope) -> bool:
    name = session_cookie_name().encode()
    return any(key == b"cookie" and name in value for key, value in scope.get("headers", []))


async def _live_rooms(scope: Scope, receive: Receive, send: Send) -> None:
    # Asked now: when the routes are made, the apps may not be loaded yet.
    has_page = apps.is_installed("django.contrib.admin") and apps.is_installed("rooms_app")
    application = watching.live_rooms if has_page else _refuse_unknown_path
    await application(scope, receive, send)


async def _refuse_unknown_path(scope: Scope, receive: Receive, send: Send) -> None:
    websocket = RoomSocket(scope, receive, send)

    async def refuse() -> None:
        raise Refused(CloseCode.BAD_REQUEST, "no such path")

    await lifecycle.run(websocket, refuse, name="websocket_application")
