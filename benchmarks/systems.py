"""What is measured: each system's servers, its sender and its receivers, with a Redis of its own."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import redis

from benchmarks.processes import Child, Worker, free_port, is_listening
from benchmarks.wire import SHORT_TEXT_BYTES, TEXT_BYTES_VARIABLE
from rooms_app.embedded import find_server

#: What a Redis does for us, and what the receivers' and senders' clients say when they connect, is not counted.
_OWN_COMMANDS = re.compile(r"info|ping|hello|config|client|pubsub|select|command")
#: What the scripts of the layer with history do within their one call.
_WITHIN_SCRIPTS = re.compile(r"time|hset|hget|hlen|hdel|hmget|z[a-z]+|x[a-z]+|get|set|del|pexpire|publish|script")


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A way to serve rooms."""

    name: str
    #: "rooms", "stock", "floor" or "floor-redis".
    kind: str
    #: "daphne" or "uvicorn"; the floor is its own.
    server: str = ""
    #: A kind of `rooms_app.layers.channel_layer`.
    layer: str = ""


SYSTEMS = (
    System(name="rooms-daphne", kind="rooms", server="daphne", layer="rooms"),
    System(name="rooms-uvicorn", kind="rooms", server="uvicorn", layer="rooms"),
    System(name="rooms-daphne-pubsub", kind="rooms", server="daphne", layer="pubsub"),
    System(name="rooms-uvicorn-pubsub", kind="rooms", server="uvicorn", layer="pubsub"),
    System(name="stock-daphne-pubsub", kind="stock", server="daphne", layer="pubsub"),
    System(name="stock-uvicorn-pubsub", kind="stock", server="uvicorn", layer="pubsub"),
    System(name="stock-daphne-classic", kind="stock", server="daphne", layer="classic"),
    System(name="stock-uvicorn-classic", kind="stock", server="uvicorn", layer="classic"),
    System(name="floor", kind="floor"),
    System(name="floor-redis", kind="floor-redis"),
)
FLOOR = "floor"
FLOORS = (FLOOR, "floor-redis")


class Deployment:
    """One system's processes."""

    def __init__(
        self, system: System, directory: Path, *, processes: int, senders: int, loop: str, text_bytes: int
    ) -> None:
        self.system = system
        self.servers: list[Child] = []
        self.receivers: list[Worker] = []
        self._directory = directory
        self._ports = [free_port() for _ in range(processes)]
        self._loop = loop
        self._sizes = {TEXT_BYTES_VARIABLE: str(text_bytes)}
        self._controls = [str(directory / f"control-{index}") for index in range(processes)]
        self.redis: RedisServer | None = None
        self._sender_count = senders
        self._senders: list[Worker] = []
        self._prober: Worker | None = None

    @property
    def senders(self) -> list[Worker]:
        """The processes that send; started on first use, while the servers open connections."""
        while len(self._senders) < self._sender_count:
            number = len(self._senders)
            command = [sys.executable, "-m", "benchmarks.sender", self.system.kind, str(number)]
            if self.system.kind == FLOOR:
                command += self._controls
            self._senders.append(Worker(command, log=self._directory / f"sender-{number}.log", env=self._env))
        return self._senders

    @property
    def prober(self) -> Worker:
        """The process that asks the first server whether it lives; started on first use."""
        if self._prober is None:
            command = [sys.executable, "-m", "benchmarks.prober"]
            self._prober = Worker(command, log=self._directory / "prober.log")
        return self._prober

    @property
    def port(self) -> int:
        """Where the first server listens."""
        return self._ports[0]

    def start(self) -> None:
        """Start everything; `wait` returns when it is up."""
        if self.system.kind != FLOOR:
            self.redis = RedisServer(self._directory)
        for index, port in enumerate(self._ports):
            log = self._directory / f"server-{index}.log"
            self.servers.append(Child(self._command(index, port), log=log, env=self._env))
            log = self._directory / f"receiver-{index}.log"
            self.receivers.append(Worker([sys.executable, "-m", "benchmarks.receiver"], log=log, env=self._sizes))

    def wait(self) -> None:
        """Return when the servers take connections."""
        if self.redis is not None:
            self.redis.wait()
        for server, port in zip(self.servers, self._ports, strict=True):
            server.wait_until(lambda port=port: is_listening(port))

    def open(self, rooms: list[str], connections: int) -> None:
        """Open so many connections to each room, on each server."""
        for receiver, port in zip(self.receivers, self._ports, strict=True):
            receiver.begin("open", port=port, rooms=rooms, connections=connections)
        for receiver in self.receivers:
            receiver.result(timeout=300)

    def cpu_seconds(self) -> float:
        """CPU time of the server processes until now."""
        return sum(server.cpu_seconds() for server in self.servers)

    def rss_bytes(self) -> int:
        """Resident memory of the server processes."""
        return sum(server.rss_bytes() for server in self.servers)

    def stop(self) -> None:
        """Kill everything, the servers first: what they would still say is not wanted."""
        workers = [*self.receivers, *self._senders, *([self._prober] if self._prober else [])]
        for child in (*self.servers, *workers):
            child.stop()
        if self.redis is not None:
            self.redis.stop()

    @property
    def _env(self) -> dict[str, str]:
        if self.redis is None:
            return self._sizes
        return {**self.redis.env(self.system.layer), **self._sizes}

    def _command(self, index: int, port: int) -> list[str]:
        if self.system.kind in FLOORS:
            control = self._controls[index] if self.redis is None else self.redis.url
            return [sys.executable, "-m", "benchmarks.floor", str(port), control]
        application = f"benchmarks.app.{'ours' if self.system.kind == 'rooms' else 'stock'}:application"
        # No pings, access logs or deflate: what is measured is the fan-out.
        if self.system.server == "daphne":
            options = ["-b", "127.0.0.1", "-p", str(port), "--ping-interval", "86400", "-v", "0"]
            return [sys.executable, "-m", "daphne", *options, application]
        options = ["--host", "127.0.0.1", "--port", str(port), "--loop", self._loop, "--log-level", "warning"]
        options += ["--ws-per-message-deflate", "false", "--ws-ping-interval", "0", "--no-access-log"]
        return [sys.executable, "-m", "uvicorn", *options, application]


class RedisServer:
    """A Redis of one system, on a TCP port; the bundled one where that is installed."""

    def __init__(self, directory: Path) -> None:
        port = free_port()
        self.url = f"redis://127.0.0.1:{port}/0"
        options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory), "--save", ""]
        # A slow subscriber must lag behind, and not be cut.
        options += ["--appendonly", "no", "--client-output-buffer-limit", "pubsub", "0", "0", "0"]
        self._child = Child([str(find_server()), *options], log=directory / "redis.log")
        self._client = redis.Redis.from_url(self.url, socket_timeout=10)

    def wait(self) -> None:
        """Return when it answers."""
        self._child.wait_until(self._answers)

    def env(self, layer: str) -> dict[str, str]:
        """The environment of a process that uses it through a kind of layer."""
        names = {"DJANGO_SETTINGS_MODULE": "benchmarks.app.settings", "REDIS_URL": self.url, "BENCH_LAYER": layer}
        return {**os.environ, **names}

    def commands(self, layer: str = "") -> int:
        """How many commands it has carried out until now, apart from what clients say to connect and keep alive."""
        stats: dict[str, dict[str, int]] = self._client.info("commandstats")  # type: ignore[assignment]
        names = {name.removeprefix("cmdstat_"): counts["calls"] for name, counts in stats.items()}
        if layer == "rooms":
            names = {name: calls for name, calls in names.items() if not _WITHIN_SCRIPTS.fullmatch(name)}
        return sum(calls for name, calls in names.items() if not _OWN_COMMANDS.match(name))

    def subscriptions(self) -> int:
        """How many channels its clients are subscribed to, in all."""
        clients: list[dict[str, str]] = self._client.client_list()  # type: ignore[assignment]
        return sum(int(client["sub"]) for client in clients)

    def stop(self) -> None:
        self._client.close()
        self._child.stop()

    def _answers(self) -> bool:
        try:
            return bool(self._client.ping())
        except redis.RedisError:
            return False


@contextlib.contextmanager
def deployed(
    systems: list[System], *, processes: int, senders: int, loop: str, text_bytes: int = SHORT_TEXT_BYTES
) -> Iterator[dict[str, Deployment]]:
    """Start these systems, side by side; all of their processes are gone at the end."""
    root = Path(tempfile.mkdtemp(prefix="bench-"))
    deployments: dict[str, Deployment] = {}
    try:
        for system in systems:
            directory = root / system.name
            directory.mkdir()
            deployments[system.name] = Deployment(
                system, directory, processes=processes, senders=senders, loop=loop, text_bytes=text_bytes
            )
            deployments[system.name].start()
        for deployment in deployments.values():
            deployment.wait()
        yield deployments
    finally:
        for deployment in deployments.values():
            deployment.stop()
        shutil.rmtree(root, ignore_errors=True)


def installed(systems: list[System]) -> tuple[list[System], str]:
    """The systems that can run here, and a line about what is left out."""
    try:
        import picows  # noqa: F401
        import uvloop  # noqa: F401
    except ImportError as error:
        left = [system for system in systems if system.name not in FLOORS]
        return left, f"The floor is left out: {error}. pip install -r requirements-bench.txt"
    return systems, ""
