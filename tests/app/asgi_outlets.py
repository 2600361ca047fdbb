"""An application for the tests of the outlets: rooms open to everyone, and routes to send and look inside.

`/rooms/<room>` is a consumer; `/chatty/<room>` an endpoint that answers a frame with as many bytes as it
names. Under `/hidden` the same, but a wrapper hides the server's `send`.
"""

import asyncio
import base64
import contextlib
import gc
import json
import os
import resource
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.app.settings_outlets")
django.setup()

from django.urls import path  # noqa: E402

from rooms_app import RoomConsumer, RoomSocket, use_ws_manager, websocket_endpoint  # noqa: E402
from rooms_app.hub import hubs  # noqa: E402
from rooms_app.routing import websocket_application  # noqa: E402
from rooms_app.servers import Batch  # noqa: E402
from tests.app.notes import note  # noqa: E402

#: The close codes that `on_close` saw.
closings: list[int] = []
#: How many WebSocket applications run.
running = 0


class OpenRoom(RoomConsumer):
    """Lets everybody into the room in the URL."""

    async def get_rooms(self) -> list[str]:
        return [self.kwargs["room"]]

    async def can_join(self, room: str) -> bool:
        return True

    async def on_close(self, code: int) -> None:
        closings.append(code)


@websocket_endpoint("chatty/<str:room>")
async def chatty(websocket: RoomSocket, room: str) -> None:
    """Sends traffic of its own past the hub: through the server's `send`, which may wait."""
    await websocket.accept()
    await use_ws_manager().join([room], websocket)
    while True:
        event = await websocket.receive()
        await websocket.send_text("x" * int(event["text"]))


rooms = websocket_application([path("rooms/<str:room>", OpenRoom.as_asgi()), chatty.path])


async def application(scope: Any, receive: Any, send: Any) -> None:
    """The ASGI application."""
    global running
    if scope["type"] == "http":
        await _answer(scope, receive, send)
    elif scope["type"] == "websocket":
        running += 1
        try:
            if scope["path"].startswith("/hidden/"):
                await rooms({**scope, "path": scope["path"].removeprefix("/hidden")}, receive, _wrapped(send))
            else:
                await rooms(scope, receive, send)
        finally:
            running -= 1


def _wrapped(send: Any) -> Any:
    async def hidden(event: Any) -> None:
        await send(event)

    return hidden


async def _send(room: str, first: int, count: int, size: int) -> int:
    """Send so many notes to the room, through the front door."""
    for number in range(first, first + count):
        await note(number, size).send(room)
        # The in-memory layer's queue is bounded: the hub reads as fast as this sends.
        await asyncio.sleep(0)
    return count


async def _write(room: str, payloads: list[dict[str, str]]) -> int:
    """Write raw payloads to the room's connections, in one batch."""
    batch = Batch([item["text"] if "text" in item else base64.b64decode(item["base64"]) for item in payloads])
    (hub,) = hubs()
    connections = tuple(hub.subscriptions.members(room))
    for connection in connections:
        connection.backlog.write(batch)
    return len(connections)


async def _state() -> dict[str, Any]:
    """What the process holds."""
    connections = [connection for hub in hubs() for connection in hub.connections]
    with open("/proc/self/statm") as statm:
        rss = int(statm.read().split()[1]) * resource.getpagesize()
    return {
        "running": running,
        "connections": len(connections),
        "rooms": sorted(room.name for hub in hubs() for room in hub.subscriptions),
        "counts": dict(sum((hub.counts for hub in hubs()), start=type(hubs()[0].counts)()) if hubs() else {}),
        "behind": sum(connection.backlog.is_behind for connection in connections),
        "unsent": max((_unsent(connection) for connection in connections), default=0),
        "slow": sum(connection.closing is not None for connection in connections) + closings.count(4008),
        "closings": closings,
        "transports": _websocket_transports(),
        "rss": rss,
    }


def _unsent(connection: RoomSocket) -> int:
    """The bytes that wait for one client in this process: in our backlog, and in the server's transport."""
    outlet = connection.backlog.outlet
    transport = getattr(outlet, "_transport", None) or getattr(getattr(outlet, "_tcp", None), "_transport", None)
    if transport is None or _is_closed(transport):
        held = 0
    elif hasattr(transport, "get_write_buffer_size"):
        held = transport.get_write_buffer_size()
    else:
        held = len(transport.dataBuffer) - transport.offset + transport._tempDataLen
    return held + connection.backlog._waiting_bytes


def _websocket_transports() -> int:
    """How many transports of WebSockets are still open, whatever became of the applications."""
    protocols = [each for each in gc.get_objects() if type(each).__name__ in _PROTOCOLS]
    return sum(not _is_closed(protocol.transport) for protocol in protocols)


_PROTOCOLS = ("WebSocketsSansIOProtocol", "WebSocketProtocol")


def _is_closed(transport: Any) -> bool:
    if hasattr(transport, "disconnected"):
        return bool(transport.disconnected)
    # A TLS transport that was closed can't say.
    with contextlib.suppress(AttributeError):
        connection = transport.get_extra_info("socket")
        return connection is None or connection.fileno() < 0
    return True


_ROUTES = {"/send": _send, "/write": _write, "/state": _state}


async def _answer(scope: Any, receive: Any, send: Any) -> None:
    body = b""
    while True:
        event = await receive()
        body += event.get("body", b"")
        if not event.get("more_body"):
            break
    route = _ROUTES.get(scope["path"])
    answer = json.dumps(await route(**json.loads(body or b"{}")) if route else "ok").encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})
