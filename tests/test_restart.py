"""A restart of one server of two costs its clients nothing: they go to the other, and miss no message.

By a drain, which spreads them over a while, and by a bare SIGTERM, which sends them all at once.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.jitter_client import JitterClient
from tests.jitter_report import Report
from tests.live import ROOT, LiveServer, Process, RedisServer
from tests.waiting import until

pytestmark = pytest.mark.slow

CLIENTS = 2_000
ROOMS = [f"room-{number}" for number in range(20)]
#: Messages per second, over all rooms.
RATE = 20
WINDOW = 4.0
#: A client that was closed waits at most so long before it comes back.
FIRST_WAIT = 2.0
#: How long after the window, and the time for the handshakes themselves, all are to be on the other server.
GRACE = 5.0


class Visitor(JitterClient):
    """Is cut by nobody but the servers, and remembers which process it is on."""

    def __init__(self, name: str, rooms: list[str], ws_urls: list[str]) -> None:
        super().__init__(name, rooms, ws_urls)
        self.is_in_storm = False
        #: The process of the last `sys.hello` …
        self._hello = ""
        #: … and of the last `sys.resumed`: it is in.
        self.process = ""

    async def run(self) -> None:
        """As the client's rule says, with waits that grow: else a slow server gets ever more to do."""
        wait = FIRST_WAIT
        while True:
            connected = self.counts["connected"]
            code = await self._connect_once()
            if code == 1000 or code >= 4500:
                self.counts["stopped"] += 1
                return
            wait = FIRST_WAIT if self.counts["connected"] > connected else min(2 * wait, 30.0)
            await asyncio.sleep(random.uniform(0, wait))

    def take(self, frame: dict[str, Any]) -> None:
        super().take(frame)
        if frame["MESSAGE_ID"] == "sys.resumed":
            self.process = self._hello
        elif frame["MESSAGE_ID"] == "sys.hello":
            self._hello = frame["message"]["process"]
        elif frame["MESSAGE_ID"] == "sys.closing":
            self.counts[f"told_{frame['message']['code']}"] += 1


class Scene:
    """Two servers, one of them with all the clients, and a process that sends."""

    def __init__(self, directory: Path) -> None:
        self.redis = RedisServer(directory / "redis")
        self.env = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.app.jitter_app.settings",
            "REDIS_URL": self.redis.url,
            "JITTER_LAYER": "rooms",
        }
        application = "tests.app.jitter_app.asgi:application"
        options = {
            "daphne": ["-v", "0"],
            "uvicorn": ["--log-level", "warning", "--ws-per-message-deflate", "false"],
        }
        self.servers = {
            kind: LiveServer(kind, env=self.env, directory=directory, application=application, options=quiet)
            for kind, quiet in options.items()
        }
        self._sent = directory / "sent.json"
        command = ["-m", "tests.app.jitter_app.sender", *ROOMS, "--rate", str(RATE), "--report", str(self._sent)]
        self._sender = Process([sys.executable, *command], log=directory / "sender.log", env=self.env)
        #: Where a load balancer sends who comes.
        self._ws_urls = [self.servers["daphne"].ws_url]
        self.clients = [
            Visitor(f"client-{number}", [ROOMS[number % len(ROOMS)]], self._ws_urls) for number in range(CLIENTS)
        ]
        self._tasks: list[asyncio.Task[None]] = []
        #: How long it took to let them all in at first, as fast as this machine does.
        self.seconds_to_fill = 0.0

    def start(self) -> None:
        self.redis.start()
        for server in self.servers.values():
            server.spawn()
        for server in self.servers.values():
            server.wait_until_up()

    async def fill(self) -> None:
        """Have all clients on the one server, and messages sent to them."""
        began = time.monotonic()
        for first in range(0, CLIENTS, 100):
            chunk = self.clients[first : first + 100]
            self._tasks += [asyncio.create_task(client.run()) for client in chunk]
            await until(lambda chunk=chunk: all(client.process for client in chunk), what="them to be in", timeout=30)
        self.seconds_to_fill = time.monotonic() - began
        self._sender.spawn()
        room = self.clients[0]
        await until(lambda: room.received[room.rooms[0]], what="the first messages")

    async def move(self, kind: str, *, drains: bool) -> float:
        """Restart this server; the seconds until all its clients were on the other."""
        server = self.servers[kind]
        (other,) = (each for each in self.servers.values() if each is not server)
        here, there = process_of(server), process_of(other)
        assert {client.process for client in self.clients} == {here}
        self._ws_urls[:] = [other.ws_url]
        began = time.monotonic()
        if drains:
            await asyncio.to_thread(self._drain, here)
        else:
            server.signal(signal.SIGTERM)
        await until(lambda: self._are_on(there), what=f"all to leave {kind}", timeout=60)
        seconds = time.monotonic() - began
        await asyncio.to_thread(server.stop)
        server.spawn()
        await asyncio.to_thread(server.wait_until_up)
        return seconds

    async def report(self) -> Report:
        """What became of each message."""
        self._sender.signal(signal.SIGTERM)
        await until(lambda: self._sender.process.poll() is not None, what="the sender to end")
        sent = json.loads(self._sent.read_text())
        began = time.monotonic()
        await until(lambda: all(client.has_all(sent["numbers"]) for client in self.clients), what="the last messages")
        logs = {kind: server.logged() for kind, server in self.servers.items()}
        settled = time.monotonic() - began
        return Report(clients=self.clients, sent=sent, faults=Counter(), seconds_to_settle=settled, logs=logs)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for process in (self._sender, *self.servers.values(), self.redis):
            await asyncio.to_thread(process.stop)

    def _drain(self, process: str) -> None:
        command = [sys.executable, "manage.py", "rooms_drain", "--process", process, "--window", str(WINDOW), "--json"]
        done = subprocess.run(command, cwd=ROOT, env=self.env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["processes"] == [{"process": process, "connections": CLIENTS}]

    def _are_on(self, process: str) -> bool:
        return all(client.process == process for client in self.clients)


def process_of(server: LiveServer) -> str:
    """The id of a server's process."""
    return str(httpx.get(f"{server.url}/health/live").json()["process"])


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    """With room for as many connections as the system allows."""
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    made = Scene(tmp_path)
    try:
        made.start()
        await made.fill()
        yield made
    finally:
        await made.stop()
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))


@pytest.mark.parametrize("drains", [True, False], ids=["drain", "SIGTERM"])
async def test_all_are_soon_on_the_other_server_and_nothing_is_lost(scene: Scene, drains: bool) -> None:
    """Each of them is closed with 1012 once per restart, daphne's first and then uvicorn's."""
    window = WINDOW if drains else 0.0
    seconds = [await scene.move("daphne", drains=drains), await scene.move("uvicorn", drains=drains)]
    report = await scene.report()
    assert report.problems() == [], report.table()
    counts = sum((client.counts for client in scene.clients), start=Counter())
    assert {name: count for name, count in counts.items() if name.startswith("closed_")} == {"closed_1012": 2 * CLIENTS}
    # uvicorn closes them itself at SIGTERM, and knows nothing of `sys.closing`.
    assert counts["told_1012"] == (2 if drains else 1) * CLIENTS
    assert "Traceback" not in "".join(report.logs.values())
    # Where the machine has so much other work that handshakes time out, what they take says nothing of the restart.
    if not any(name.startswith("refused_") for name in counts):
        assert max(seconds) < window + GRACE + scene.seconds_to_fill, seconds
