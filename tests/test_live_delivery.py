"""The main job on real server processes and a real Redis: what is sent anywhere reaches every socket, once."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import websockets
from websockets.asyncio.client import ClientConnection

from tests import live

PAIRS = [("daphne", "daphne"), ("daphne", "uvicorn")]


@pytest.fixture(scope="module", params=PAIRS, ids="+".join)
def demo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[live.DemoServers]:
    """The demo on two real processes."""
    with live.demo_servers(*request.param, directory=tmp_path_factory.mktemp("live")) as servers:
        yield servers


@contextlib.asynccontextmanager
async def sockets(*urls: str) -> AsyncIterator[list[ClientConnection]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(websockets.connect(url, max_queue=None)) for url in urls]


async def frame(socket: ClientConnection) -> dict[str, Any]:
    """The next frame of a client that only knows `JSON.parse`."""
    text = await asyncio.wait_for(socket.recv(), 10)
    assert isinstance(text, str)
    parsed: dict[str, Any] = json.loads(text)
    return parsed


async def contents(socket: ClientConnection, count: int) -> list[str]:
    return [(await frame(socket))["message"]["content"] for _ in range(count)]


@pytest.mark.slow
async def test_a_thousand_posts_reach_the_sockets_of_both_processes(demo: live.DemoServers) -> None:
    """In order, once each, and nothing of it in another room."""
    rooms = [f"{url}/ws/order" for url in demo.ws_urls * 2]
    others = [f"{url}/ws/other" for url in demo.ws_urls]
    expected = [f"message {number}" for number in range(1_000)]
    async with sockets(*rooms, *others) as opened, httpx.AsyncClient() as http:
        for number, content in enumerate(expected):
            url = f"{demo.urls[number % 2]}/chat/order/message"
            response = await http.post(url, json={"content": content})
            assert (response.status_code, response.json()) == (200, {"status": "sent"})
        for socket in opened[:4]:
            assert await contents(socket, 1_000) == expected
        for url in demo.urls:
            await http.post(f"{url}/chat/other/message", json={"content": "the only one"})
        for socket in opened[4:]:
            assert await contents(socket, 2) == ["the only one"] * 2
        for socket in opened[:4]:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(socket.recv(), 0.1)


async def test_a_frame_is_the_documented_json_object(demo: live.DemoServers) -> None:
    """`MESSAGE_ID`, `message`, `room` and, with history, `id`; the time is the server's, with its zone."""
    room = "käse/😀 a"
    path = quote(room)
    async with sockets(*(f"{url}/ws/{path}" for url in demo.ws_urls)) as opened, httpx.AsyncClient() as http:
        response = await http.post(f"{demo.urls[0]}/chat/{path}/message", json={"content": "<b>ü</b>"})
        assert response.status_code == 200
        for socket in opened:
            got = await frame(socket)
            assert list(got) == ["MESSAGE_ID", "message", "room", "id"]
            assert (got["MESSAGE_ID"], got["room"]) == ("chat.message", room)
            assert got["message"]["content"] == "<b>ü</b>"
            assert got["message"]["username"].startswith("guest-")
            assert got["message"]["timestamp"].endswith("Z")


async def test_a_third_process_sends_to_both(demo: live.DemoServers) -> None:
    """`manage.py shell -c`, and a thread in it, with `send_sync`."""
    script = """
import threading
from django.utils import timezone
from project.messages import ChatMessage
def send(content):
    message = ChatMessage(user_id="0", username="shell", content=content, timestamp=timezone.now())
    assert message.send_sync("shell") == "sent"
send("from the shell")
thread = threading.Thread(target=send, args=["from a thread"])
thread.start()
thread.join()
"""
    async with sockets(*(f"{url}/ws/shell" for url in demo.ws_urls)) as opened:
        await asyncio.to_thread(demo.manage, "shell", "-c", script)
        for socket in opened:
            assert await contents(socket, 2) == ["from the shell", "from a thread"]


async def test_a_post_in_the_moment_the_socket_opens_is_delivered(demo: live.DemoServers) -> None:
    """To a room that nobody was in before, through the other process: the join stands before the accept."""
    async with httpx.AsyncClient() as http:
        for number in range(40):
            async with sockets(f"{demo.ws_urls[number % 2]}/ws/fresh-{number}") as (socket,):
                url = f"{demo.urls[(number + 1) % 2]}/chat/fresh-{number}/message"
                await http.post(url, json={"content": "at once"})
                assert await contents(socket, 1) == ["at once"]


async def test_health_says_live_and_ready(demo: live.DemoServers) -> None:
    """On each process."""
    async with httpx.AsyncClient() as http:
        for url in demo.urls:
            assert (await http.get(f"{url}/health/live")).status_code == 200
            assert (await http.get(f"{url}/health/ready")).json()["status"] == "ready"


async def test_a_foreign_origin_is_refused_with_403(demo: live.DemoServers) -> None:
    """Our own passes, and so does a client that is no browser."""
    for url, http_url in zip(demo.ws_urls, demo.urls, strict=True):
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with websockets.connect(f"{url}/ws/lobby", origin="https://evil.example"):
                pass
        assert refused.value.response.status_code == 403
        async with websockets.connect(f"{url}/ws/lobby", origin=http_url):
            pass


async def test_a_reserved_room_is_refused_with_a_code(demo: live.DemoServers) -> None:
    """4500 for a guest: a browser would see a refused handshake only as 1006."""
    for url in demo.ws_urls:
        async with websockets.connect(f"{url}/ws/user-1") as socket:
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await socket.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 4500


async def test_nothing_was_logged_as_an_error(demo: live.DemoServers) -> None:
    """By any of the tests above: bad requests and refusals are not the server's errors."""
    async with httpx.AsyncClient() as http:
        for url in demo.urls:
            for body in (
                b"{",
                b"{}",
                b'{"content": 7}',
                b'{"content": ""}',
                json.dumps({"content": "x" * 4001}),
            ):
                assert (await http.post(f"{url}/chat/a/message", content=body, headers=JSON)).status_code == 400
            too_long = f"{url}/chat/{'x' * 256}/message"
            assert (await http.post(too_long, content=b'{"content": "x"}', headers=JSON)).status_code == 400
            assert (await http.post(f"{url}/chat/user-1/message", json={"content": "x"})).status_code == 403
    for server in demo.servers:
        log = server.logged()
        assert "Traceback" not in log, log
        assert "ERROR" not in log, log


JSON = {"content-type": "application/json"}
