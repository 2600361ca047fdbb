"""A slow client on a server that nobody knows, which never says that the client has gone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from django.urls import path

from rooms_app import RoomSocket, use_ws_manager, websocket_endpoint
from rooms_app.exceptions import ConnectionClosed
from rooms_app.hub import hubs
from rooms_app.routing import websocket_application
from tests.app.messages import Note
from tests.clients import HEADERS, OpenRoom, the_hub
from tests.waiting import until


class UnknownServer:
    """One that waits for its client in `send`, and never says that it has gone."""

    def __init__(self, application: Any, url: str) -> None:
        self.events: list[str] = []
        self.is_stalled = asyncio.Event()
        events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        events.put_nowait({"type": "websocket.connect"})
        scope = {"type": "websocket", "path": url, "query_string": b"", "subprotocols": [], "headers": HEADERS}
        self.application = asyncio.ensure_future(application(scope, events.get, self._send))

    async def _send(self, event: dict[str, Any]) -> None:
        self.events.append(event["type"])
        if event["type"] == "websocket.send":
            self.is_stalled.set()
            await asyncio.Event().wait()


@pytest.fixture
def in_this_process(settings: Any) -> None:
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    settings.ROOMS = {"max_unsent_messages": 3, "slow_grace": 0.1}


async def overflow_here(server: UnknownServer) -> None:
    """Send to the room until the client of a server in this process is closed."""
    await Note(number=0).send("r")
    await asyncio.wait_for(server.is_stalled.wait(), 10)
    for number in range(1, 6):
        await Note(number=number).send("r")
    await until(lambda: the_hub().counts["messages"] == 6, what="the fan-out")


@pytest.mark.usefixtures("in_this_process")
async def test_on_a_server_that_says_nothing_the_application_ends_all_the_same() -> None:
    """Soon after the grace, as if the server had reported it; `on_close` sees 4008."""
    closed: list[int] = []

    class Told(OpenRoom):
        async def on_close(self, code: int) -> None:
            closed.append(code)

    server = UnknownServer(websocket_application([path("<str:rooms>", Told.as_asgi())]), "/r")
    await until(lambda: "websocket.accept" in server.events, what="the accept")
    await overflow_here(server)
    await asyncio.wait_for(server.application, 10)
    assert (closed, hubs()) == ([4008], [])


@pytest.mark.usefixtures("in_this_process")
async def test_an_application_at_work_of_its_own_is_not_cut_off() -> None:
    """It hears of the end when it asks for the next frame, however long that takes."""
    work, heard = asyncio.Event(), []

    @websocket_endpoint("busy")
    async def busy(websocket: RoomSocket) -> None:
        await websocket.accept()
        await use_ws_manager().join(["r"], websocket)
        await work.wait()
        try:
            await websocket.receive()
        except ConnectionClosed as closed:
            heard.append(closed.code)

    server = UnknownServer(websocket_application([busy.path]), "/busy")
    await until(lambda: any(hub.subscriptions.members("r") for hub in hubs()), what="the join")
    await overflow_here(server)
    # Past the grace and the second after it.
    await asyncio.sleep(1.5)
    assert not server.application.done()
    work.set()
    await asyncio.wait_for(server.application, 10)
    assert heard == [4008]
