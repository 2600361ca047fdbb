"""Whether a user may join a room: what the project's own consumers answer, asked without a connection."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from channels.routing import ProtocolTypeRouter, get_default_application
from django.core.exceptions import ImproperlyConfigured

from rooms_app.connection import RoomSocket
from rooms_app.consumers import RoomConsumer
from rooms_app.endpoints import WebSocketEndpoint
from rooms_app.rooms import EVERYONE, check_rooms, is_reserved


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """What can be said of one route."""

    #: The route's pattern, or "" where there is none to ask.
    route: str
    #: None where it can't be told.
    may_join: bool | None
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """A route, and the parameters that a path gives it."""

    pattern: str
    application: Any
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any]


async def admissions(user: Any, room: str, path: str | None) -> list[Admission]:
    """What the consumer at a path says; without a path, what each consumer says that needs no parameters."""
    try:
        application: Any = get_default_application()
    except ImproperlyConfigured as error:
        return [Admission(route="", may_join=None, why=str(error))]
    if isinstance(application, ProtocolTypeRouter):
        application = application.application_mapping.get("websocket")
    routes = getattr(application, "routes", None)
    if routes is None:
        why = "the routes of ASGI_APPLICATION are not to be seen: something wraps websocket_application"
        return [Admission(route="", may_join=None, why=why)]
    if path is None:
        every = [await _ask(found, user, room, path=None) for found in _all(routes)]
        return every or [Admission(route="", may_join=None, why="ASGI_APPLICATION has no WebSocket route")]
    found = _match(routes, unquote(path.partition("?")[0]).lstrip("/"))
    if found is None:
        return [Admission(route="", may_join=False, why=f"no route leads to {path}")]
    return [await _ask(found, user, room, path=path)]


def _all(routes: Sequence[Any], before: str = "") -> Iterator[_Found]:
    for route in routes:
        pattern = f"{before}{route.pattern}"
        inner = getattr(route.callback, "routes", None)
        if inner is None:
            yield _Found(pattern=pattern, application=route.callback, kwargs={})
        else:
            yield from _all(inner, pattern)


def _match(routes: Sequence[Any], path: str, outer: _Found | None = None) -> _Found | None:
    """The first route that fits, as Channels' URLRouter looks for it."""
    for route in routes:
        match = route.pattern.match(path)
        if match is None:
            continue
        rest, args, kwargs = match
        found = _Found(
            pattern=f"{outer.pattern if outer else ''}{route.pattern}",
            application=route.callback,
            args=(*(outer.args if outer else ()), *args),
            kwargs={**(outer.kwargs if outer else {}), **kwargs, **route.default_args},
        )
        inner = getattr(route.callback, "routes", None)
        if inner is None:
            return found
        if (deeper := _match(inner, rest.lstrip("/"), found)) is not None:
            return deeper
    return None


async def _ask(found: _Found, user: Any, room: str, *, path: str | None) -> Admission:
    def answer(may_join: bool | None, why: str) -> Admission:
        return Admission(route=found.pattern, may_join=may_join, why=why)

    if isinstance(found.application, WebSocketEndpoint):
        return answer(None, f"{found.application.__name__} decides by calling join: it can't be asked")
    consumer_class = getattr(found.application, "consumer_class", None)
    if consumer_class is None or not issubclass(consumer_class, RoomConsumer):
        return answer(None, "this is no RoomConsumer: it can't be asked")
    name = consumer_class.__qualname__
    consumer = consumer_class(**found.application.consumer_initkwargs)
    consumer.scope = _scope(found, user, path)
    consumer.websocket = RoomSocket(consumer.scope, _nothing_comes, _nothing_goes)
    try:
        return answer(*await _verdict(consumer, room))
    except Exception as error:
        # Of the project's own code; without the parameters of a path it often can't answer.
        advice = "" if path is not None else "; give --path"
        return answer(None, f"{name} raised {type(error).__name__}: {error}{advice}")


async def _verdict(consumer: RoomConsumer, room: str) -> tuple[bool, str]:
    """As the consumer itself lets a connection in: to all of its rooms, or not at all."""
    name, own = type(consumer).__qualname__, consumer.websocket.user_room
    rooms = check_rooms(await consumer.get_rooms())
    joined_anyway = {EVERYONE, own if consumer.joins_user_room else EVERYONE}
    if room not in rooms and room not in joined_anyway:
        return False, f"{name}.get_rooms() does not name this room"
    for each in rooms:
        if is_reserved(each) and each != own:
            return False, f"{each} is reserved"
        if not await consumer.can_join(each):
            return False, f"{name}.can_join({each!r}) says no"
    return True, f"{name}.can_join says yes" if room in rooms else "every connection of hers is in this room"


def _scope(found: _Found, user: Any, path: str | None) -> dict[str, Any]:
    before, _, query = (path or "").partition("?")
    return {
        "type": "websocket",
        "path": unquote(before),
        "query_string": query.encode(),
        "headers": [],
        "subprotocols": [],
        "session": {},
        "user": user,
        "url_route": {"args": found.args, "kwargs": found.kwargs},
    }


async def _nothing_comes() -> dict[str, Any]:
    never: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
    return await never


async def _nothing_goes(event: dict[str, Any]) -> None:
    """Nobody is there to send to."""
