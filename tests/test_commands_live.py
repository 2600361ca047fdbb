"""The commands for operators beside two live servers, one on daphne and one on uvicorn."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import websockets
from websockets.asyncio.client import ClientConnection

from tests.live import ROOT, DemoServers, Process
from tests.waiting import until

FIELDS = ("user_id=7", "username=Ann", "timestamp=2026-01-01T00:00:00Z")


async def manage(demo: DemoServers, *arguments: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(demo.manage, *arguments)


async def send(demo: DemoServers, content: str, *audience: str) -> Any:
    """Send a chat message by the command; its JSON."""
    fields = [f"--set={field}" for field in (*FIELDS, f"content={content}")]
    return json.loads((await manage(demo, "rooms_send", "chat.message", *audience, *fields, "--json")).stdout)


async def content(socket: ClientConnection) -> str:
    text = json.loads(await asyncio.wait_for(socket.recv(), 10))["message"]["content"]
    return str(text)


@contextlib.asynccontextmanager
async def one_on_each(demo: DemoServers, room: str) -> AsyncIterator[list[ClientConnection]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(websockets.connect(f"{url}/ws/{room}")) for url in demo.ws_urls]


async def test_what_is_sent_reaches_both_processes_and_the_room_is_listed_and_closed(
    demo_servers: DemoServers,
) -> None:
    """The counts are those of all processes, and a room that is closed has none left."""
    async with one_on_each(demo_servers, "ops") as sockets:
        await send(demo_servers, "hello", "--room=ops")
        assert [await content(socket) for socket in sockets] == ["hello"] * 2
        listed: dict[str, Any] = {}
        async with asyncio.timeout(20):
            # Counts are about a second old.
            while listed.get("connections") != 2:
                listed = json.loads((await manage(demo_servers, "rooms_list", "--match", "o*", "--json")).stdout)
        assert listed["rooms"] == [{"room": "ops", "connections": 2}]
        assert [process["connections"] for process in listed["processes"]] == [1, 1]
        answer = await send(demo_servers, "again", "--broadcast")
        assert answer["rooms"] == [{"room": "*", "connections": 2}]
        assert [await content(socket) for socket in sockets] == ["again"] * 2
        kicked = await manage(demo_servers, "rooms_kick", "--room", "ops", "--all")
        assert kicked.stdout == "All processes are told: 2 connections of everyone in ops.\n"
        for socket in sockets:
            await asyncio.wait_for(socket.wait_closed(), 10)
            assert socket.close_code == 4503


SIGN_IN = """
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
ann = User.objects.create_user("ann")
backend = "django.contrib.auth.backends.ModelBackend"
session = SessionStore()
session.update({SESSION_KEY: str(ann.pk), BACKEND_SESSION_KEY: backend, HASH_SESSION_KEY: ann.get_session_auth_hash()})
session.save()
print(session.session_key)
"""


async def test_a_user_is_found_on_both_processes_sent_to_and_closed(demo_servers: DemoServers) -> None:
    """And nobody else is."""
    key = (await manage(demo_servers, "shell", "-v0", "-c", SIGN_IN)).stdout.strip()
    headers = {"Cookie": f"sessionid={key}"}
    async with contextlib.AsyncExitStack() as stack:
        guests = await stack.enter_async_context(one_on_each(demo_servers, "desk"))
        hers = [
            await stack.enter_async_context(websockets.connect(f"{url}/ws/desk", additional_headers=headers))
            for url in demo_servers.ws_urls
        ]
        explained = json.loads((await manage(demo_servers, "rooms_explain", "ann", "desk", "--json")).stdout)
        assert len({report["process"] for report in explained["connections"]}) == 2
        assert ["desk" in report["rooms"] for report in explained["connections"]] == [True, True]
        assert [answer["may_join"] for answer in explained["may_join"]] == [None]
        answer = await send(demo_servers, "for you", "--user=ann")
        assert answer["rooms"][0]["room"] == explained["user_room"]
        assert [await content(socket) for socket in hers] == ["for you"] * 2
        kicked = await manage(demo_servers, "rooms_kick", "--user=ann", "--room=desk")
        assert kicked.stdout == "All processes are told: 2 connections of ann in desk.\n"
        for socket in hers:
            await asyncio.wait_for(socket.wait_closed(), 10)
            assert socket.close_code == 4507
        await send(demo_servers, "for the others", "--room=desk")
        assert [await content(socket) for socket in guests] == ["for the others"] * 2


@pytest.mark.slow
async def test_who_listens_sees_what_clients_see_until_ctrl_c(demo_servers: DemoServers, tmp_path: Path) -> None:
    """In a terminal of its own; Ctrl-C is no failure, nor is SIGTERM, and both leave nothing on record."""
    command = [sys.executable, "manage.py", "rooms_listen", "hall"]
    env = {**os.environ, **demo_servers.env}
    listeners = [Process(command, log=tmp_path / f"listener-{number}.log", env=env) for number in range(2)]
    try:
        for listener in listeners:
            listener.spawn()
        both = "both commands to listen"
        await until(lambda: all("Listening to 1 room" in each.logged() for each in listeners), what=both, timeout=30)
        async with one_on_each(demo_servers, "hall") as sockets:
            await send(demo_servers, "hello", "--room=hall")
            frames = [await asyncio.wait_for(socket.recv(), 10) for socket in sockets]
        assert frames[0] == frames[1]
        await until(lambda: all("hello" in each.logged() for each in listeners), what="the frame")
        for listener, number in zip(listeners, (signal.SIGINT, signal.SIGTERM), strict=True):
            listener.signal(number)
            assert listener.process is not None
            assert await asyncio.to_thread(listener.process.wait, 10) == 0
            # Its own word, and the frame: no traceback.
            assert listener.logged().splitlines()[1:] == frames[:1]
        async with asyncio.timeout(10):
            while json.loads((await manage(demo_servers, "rooms_list", "--match=hall", "--json")).stdout)["rooms"]:
                pass
    finally:
        for listener in listeners:
            await asyncio.to_thread(listener.stop)


async def test_who_reads_the_first_line_only_leaves_no_complaint(demo_servers: DemoServers) -> None:
    """As `rooms_messages | head -0`: the reader has gone before the first line."""
    command = f"{sys.executable} manage.py rooms_messages | true; echo ${{PIPESTATUS[0]}}"
    done = await asyncio.to_thread(
        subprocess.run,
        ["bash", "-c", command],
        cwd=ROOT,
        env={**os.environ, **demo_servers.env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("0\n", "")
