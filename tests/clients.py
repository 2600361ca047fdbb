"""Clients in the test's own process: a real consumer or endpoint behind Channels' WebsocketCommunicator."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from channels.testing import WebsocketCommunicator
from django.contrib.auth.models import AnonymousUser
from django.urls import path

from rooms_app import RoomConsumer, RoomSocket, use_ws_manager, websocket_endpoint
from rooms_app.hub import Hub, hubs
from rooms_app.routing import websocket_application

HEADERS = [(b"host", b"localhost")]


class OpenRoom(RoomConsumer):
    """Lets everybody into the rooms named in the URL, separated by commas."""

    async def get_rooms(self) -> list[str]:
        return self.kwargs["rooms"].split(",")

    async def can_join(self, room: str) -> bool:
        return True


@websocket_endpoint("endpoint/<str:room>")
async def common_endpoint(websocket: RoomSocket, room: str) -> None:
    """The form that everyone writes first: accept, add, join, and a loop in a `try` that removes."""
    await websocket.accept()
    ws_manager = use_ws_manager()
    await ws_manager.add_websocket(websocket)
    await ws_manager.join([room], websocket)
    try:
        while True:
            await websocket.receive()
    except Exception:
        await ws_manager.remove_websocket(websocket)


APPLICATION = websocket_application([path("rooms/<str:rooms>", OpenRoom.as_asgi()), common_endpoint.path])


class Client(WebsocketCommunicator):
    """A communicator that knows the frames of the wire."""

    async def open(self) -> None:
        is_open, detail = await self.connect(timeout=5)
        assert is_open, detail

    async def frame(self) -> dict[str, Any]:
        """The next frame, as JSON."""
        frame: dict[str, Any] = await self.receive_json_from(timeout=5)
        return frame

    async def numbers(self, count: int) -> list[int]:
        """The `number` of the next so many notes."""
        return [(await self.frame())["message"]["number"] for _ in range(count)]

    async def closed(self) -> int:
        """The close code; fails when a frame comes instead."""
        event = await self.receive_output(timeout=5)
        assert event["type"] == "websocket.close", event
        return int(event["code"])

    async def silent(self) -> bool:
        """Whether nothing has come, and nothing is on its way in this process."""
        return bool(await self.receive_nothing(timeout=0.2))


def client(url: str, *, application: Any = None, user: Any = None, **kwargs: Any) -> Client:
    """A client of the test application, not yet open; `user` is put past the session auth."""
    kwargs.setdefault("headers", HEADERS)
    communicator = Client(application or APPLICATION, url, **kwargs)
    if user is not None:
        communicator.scope["user"] = user
    return communicator


@contextlib.asynccontextmanager
async def clients(*urls: str, **kwargs: Any) -> AsyncIterator[Sequence[Client]]:
    """Open clients, one per URL, and disconnected at the end."""
    opened = [client(url, **kwargs) for url in urls]
    try:
        for each in opened:
            await each.open()
        yield opened
    finally:
        await asyncio.gather(*(each.disconnect(timeout=10) for each in opened))


def signed_in(consumer: Any, user: Any = None, **kwargs: Any) -> Any:
    """The ASGI application of a consumer for one user: what session auth would put into the scope."""
    inner = consumer.as_asgi() if hasattr(consumer, "as_asgi") else consumer

    async def application(scope: Any, receive: Any, send: Any) -> None:
        route = {"args": (), "kwargs": kwargs}
        await inner({**scope, "user": user or AnonymousUser(), "url_route": route}, receive, send)

    return application


def the_hub() -> Hub:
    """The one hub of the test."""
    (hub,) = hubs()
    return hub
