"""`@websocket_endpoint`: the function form of a connection."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, cast

from django.urls import URLPattern, path

from rooms_app import lifecycle
from rooms_app.asgi import Receive, Scope, Send
from rooms_app.connection import RoomSocket
from rooms_app.exceptions import RoomsConfigurationError

Endpoint = Callable[..., Awaitable[None]]


class WebSocketEndpoint:
    """An ASGI application made of a function; `path` is its URL pattern, for `websocket_application`."""

    def __init__(self, route: str, function: Endpoint, *, joins_user_room: bool) -> None:
        if not inspect.iscoroutinefunction(function):
            raise RoomsConfigurationError(f"{function.__qualname__} is a websocket_endpoint, so it must be async def.")
        self._function = function
        self._joins_user_room = joins_user_room
        self.__name__ = function.__name__
        self.__doc__ = function.__doc__
        self.__wrapped__ = function
        # Django's types know views only; Channels routes ASGI applications by the same patterns.
        self.path: URLPattern = path(route, cast(Any, self), name=function.__name__)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        websocket = RoomSocket(scope, receive, send)
        websocket.joins_user_room = self._joins_user_room
        kwargs: dict[str, Any] = websocket.kwargs
        await lifecycle.run(websocket, lambda: self._function(websocket, **kwargs), name=self.__name__)


def websocket_endpoint(route: str, *, joins_user_room: bool = True) -> Callable[[Endpoint], WebSocketEndpoint]:
    """Make a function `async def f(websocket: RoomSocket, **url_parameters)` an endpoint at a Django route.

    It accepts, and joins rooms by `use_ws_manager()`: calling `join` is the decision. When it returns the
    connection is closed and leaves its rooms. A signed-in user's connection is in her own room from
    `add_websocket` on, unless `joins_user_room=False`.
    """

    def decorate(function: Endpoint) -> WebSocketEndpoint:
        return WebSocketEndpoint(route, function, joins_user_room=joins_user_room)

    return decorate
