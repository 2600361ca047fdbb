"""The jitter test: numbered messages to clients that come and go, through two servers whose connections are cut.

    python -m tests.jitter --seconds 60

One daphne, one uvicorn and one Redis; a process that sends. Each 0.3 s Redis cuts everyone who is subscribed,
every client is cut every few seconds and stays away up to 2 s, and one server is killed midway. At the end
each client must have got every message of its rooms once and in order, with no reset.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.jitter_client import JitterClient
from tests.jitter_report import Report
from tests.live import LiveServer, Process
from tests.redis_faults import PersistentRedis, kill_pubsub
from tests.waiting import until

_SECONDS_BETWEEN_CUTS = 0.3
_SECONDS_TO_SETTLE = 20.0
_PROBLEMS_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Storm:
    """How hard it blows."""

    clients: int = 30
    rooms: int = 6
    #: Messages per second, over all rooms.
    rate: float = 120.0
    seconds: float = 25.0
    layer: str = "rooms"
    is_encrypted: bool = False
    #: What is broken in the servers on purpose: see `tests.app.jitter_app.sabotage`.
    sabotage: str = ""


class _Scene:
    """The processes and clients of one run."""

    def __init__(self, storm: Storm, directory: Path) -> None:
        self.storm = storm
        self.redis = PersistentRedis(directory / "redis")
        env = {
            "DJANGO_SETTINGS_MODULE": "tests.app.jitter_app.settings",
            "REDIS_URL": self.redis.url,
            "JITTER_LAYER": storm.layer,
            "JITTER_KEY": "only-for-tests" if storm.is_encrypted else "",
            "JITTER_SABOTAGE": storm.sabotage,
        }
        application = "tests.app.jitter_app.asgi:application"
        self.servers = [
            LiveServer(kind, env=env, directory=directory, application=application, options=quiet)
            for kind, quiet in (("daphne", ["-v", "0"]), ("uvicorn", ["--log-level", "warning"]))
        ]
        self.rooms = [f"room-{number}" for number in range(storm.rooms)]
        self.sent = directory / "sent.json"
        command = ["-m", "tests.app.jitter_app.sender", *self.rooms, "--rate", str(storm.rate)]
        self.sender = Process(
            [sys.executable, *command, "--report", str(self.sent)],
            log=directory / "sender.log",
            env={**os.environ, **env},
        )
        ws_urls = [server.ws_url for server in self.servers]
        self.clients = [
            JitterClient(f"client-{number}", random.sample(self.rooms, random.randint(1, 3)), ws_urls)
            for number in range(storm.clients)
        ]
        self.faults = Counter({"subscriptions cut": 0, "servers killed": 0})

    def start(self) -> None:
        self.redis.start()
        for server in self.servers:
            server.spawn()
        for server in self.servers:
            server.wait_until_up()

    def stop(self) -> None:
        for process in (self.sender, *self.servers, self.redis):
            process.stop()

    async def run(self) -> Report:
        """Let it blow, and wait until the clients have what was sent."""
        half = len(self.clients) // 2
        tasks = [asyncio.create_task(client.run()) for client in self.clients[:half]]
        late = asyncio.create_task(self._come_later(self.clients[half:], tasks))
        try:
            await until(lambda: _have_started(self.clients[:half]), what="the first clients to get sys.resumed")
            self.sender.spawn()
            weather = [asyncio.create_task(self._cut_subscriptions()), asyncio.create_task(self._kill_a_server())]
            # Its end comes in the storm too: nothing sent later tells of what its last messages miss.
            await asyncio.sleep(self.storm.seconds)
            self.sender.signal(signal.SIGTERM)
            await until(lambda: self.sender.process.poll() is not None, what="the sender to end")
            await _end(weather)
            sent = json.loads(self.sent.read_text()) if self.sent.exists() else self._no_report()
            seconds = await self._settle(sent["numbers"])
        finally:
            await _end([late, *tasks])
        logs = {server.kind: server.logged() for server in self.servers}
        return Report(clients=self.clients, sent=sent, faults=self.faults, seconds_to_settle=seconds, logs=logs)

    async def _come_later(self, clients: list[JitterClient], tasks: list[asyncio.Task[None]]) -> None:
        """Start these clients one by one in the first half of the storm."""
        for client in clients:
            await asyncio.sleep(random.uniform(0, self.storm.seconds / len(clients)))
            tasks.append(asyncio.create_task(client.run()))

    async def _cut_subscriptions(self) -> None:
        while True:
            await asyncio.sleep(_SECONDS_BETWEEN_CUTS)
            self.faults["subscriptions cut"] += kill_pubsub(self.redis.client)

    async def _kill_a_server(self) -> None:
        await asyncio.sleep(self.storm.seconds / 2)
        server = random.choice(self.servers)
        server.kill()
        self.faults["servers killed"] += 1
        server.spawn()
        await asyncio.Event().wait()

    async def _settle(self, numbers: dict[str, int]) -> float:
        """Wait until all clients have the last number of each room, as long as there is hope; the seconds it took."""
        started = time.monotonic()
        for client in self.clients:
            client.is_in_storm = False
        while not all(client.has_all(numbers) for client in self.clients):
            if time.monotonic() - started > _SECONDS_TO_SETTLE:
                break
            await asyncio.sleep(0.05)
        seconds = time.monotonic() - started
        # What is delivered twice may come a little later.
        await asyncio.sleep(1)
        return seconds

    def _no_report(self) -> None:
        raise AssertionError(f"the sender failed:\n{self.sender.logged()}")


def _have_started(clients: list[JitterClient]) -> bool:
    return all(client.started_at is not None for client in clients)


async def _end(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel what still runs; raises what went wrong in a task."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome


async def run(storm: Storm, directory: Path) -> Report:
    """Run the jitter test; the directory takes data and logs."""
    scene = _Scene(storm, directory)
    try:
        scene.start()
        return await scene.run()
    except AssertionError as error:
        for process in (*scene.servers, scene.sender):
            error.add_note(f"{process.log.name}:\n{process.logged()[-4000:] if process.log.exists() else ''}")
        raise
    finally:
        scene.stop()


def parse(arguments: list[str] | None = None) -> Storm:
    """The storm that the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.jitter", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slow", action="store_true", help="200 clients, 2 messages a second, 160 s")
    parser.add_argument("--clients", type=int, help="how many (30)")
    parser.add_argument("--rooms", type=int, help="how many; each client is in 1 to 3 of them (6)")
    parser.add_argument("--rate", type=float, help="messages per second, over all rooms (120)")
    parser.add_argument("--seconds", type=float, help="how long the storm lasts (25)")
    parser.add_argument("--layer", help="the channel layer: rooms or pubsub (rooms)")
    parser.add_argument("--encryption", action="store_true", dest="is_encrypted", help="encrypt what crosses Redis")
    broken = parser.add_mutually_exclusive_group()
    for name in ("no-repair", "early-live"):
        text = f"break the servers by JITTER_SABOTAGE={name}: the test has to fail"
        broken.add_argument(f"--{name}", action="store_const", const=name, dest="sabotage", help=text)
    options = vars(parser.parse_args(arguments))
    base = {"clients": 200, "rate": 2.0, "seconds": 160.0} if options.pop("slow") else {}
    return Storm(**base | {name: value for name, value in options.items() if value})


def main() -> int:
    """Run it, and print the table; 0 when everything arrived."""
    storm = parse()
    print(storm)
    with tempfile.TemporaryDirectory(prefix="rooms-jitter-") as directory:
        report = asyncio.run(run(storm, Path(directory)))
    print(report.table())
    problems = report.problems()
    for problem in problems[:_PROBLEMS_SHOWN]:
        print(problem)
    for kind, log in report.logs.items() if problems else ():
        print(f"\n{kind} logged last:\n{log[-4000:]}")
    print(f"FAILED: {len(problems)} problems" if problems else "everything arrived, once and in order")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
