"""Real processes for the tests: Redis, and the demo's servers. Each ends with the fixture that made it."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import redis

from rooms_app.embedded import find_server
from rooms_app.processes import die_with_parent
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parent.parent


# Below the range that outgoing connections take their ports from, and a part of it per xdist worker: a port that is
# free now is still free when a server binds it.
_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_ports = itertools.cycle(20_000 + 800 * _worker + (os.getpid() + offset) % 800 for offset in range(800))


def free_port() -> int:
    """A TCP port that nobody listens on."""
    for port in _ports:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("unreachable")


class Process:
    """A child process that can be stopped, killed, and held back by SIGSTOP."""

    def __init__(self, command: list[str], *, log: Path, env: dict[str, str] | None = None) -> None:
        self._command = command
        self._env = env
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def spawn(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Fixtures end it; but a test run that is killed runs no fixtures.
                preexec_fn=die_with_parent(signal.SIGKILL),
            )

    def signal(self, number: int) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def stop(self) -> None:
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        self.wait()

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.wait()

    def wait(self) -> None:
        if self.process is None:
            return
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def logged(self) -> str:
        return self.log.read_text(errors="replace")


class RedisServer(Process):
    """A Redis or Valkey server on a TCP port of its own; its data survives `restart`, unless told otherwise."""

    def __init__(self, directory: Path, *, binary: Path | None = None, append_only: bool = False) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.directory = directory
        command = [
            *(
                str(binary or find_server()),
                "--port",
                str(self.port),
                "--bind",
                "127.0.0.1",
                "--dir",
                str(directory),
            ),
            *(
                "--save",
                "",
                "--appendonly",
                "yes" if append_only else "no",
                # A write is with the system before it is answered, so that a killed server keeps it. With the default,
                # everysec, it waits in the server while a slow disk syncs what came before.
                "--appendfsync",
                "no",
                "--maxmemory-policy",
                "noeviction",
            ),
        ]
        super().__init__(command, log=directory / "redis.log")
        self.client = redis.Redis.from_url(self.url, socket_timeout=5)

    def start(self) -> RedisServer:
        self.spawn()
        wait_until(self._answers, what=f"Redis on port {self.port}")
        return self

    def restart(self) -> None:
        """Start again on the same port after `stop` or `kill`."""
        self.start()

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False


class LiveServer(Process):
    """The demo under daphne or uvicorn, as their plain command lines start it."""

    def __init__(
        self,
        kind: str,
        *,
        env: dict[str, str],
        directory: Path,
        application: str = "project.asgi:application",
        options: list[str] | None = None,
    ) -> None:
        self.kind = kind
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.ws_url = f"ws://127.0.0.1:{self.port}"
        address = {
            "daphne": ["-b", "127.0.0.1", "-p", str(self.port)],
            "uvicorn": ["--host", "127.0.0.1", "--port", str(self.port), "--no-access-log"],
        }[kind]
        command = [sys.executable, "-m", kind, *address, *(options or []), application]
        super().__init__(command, log=directory / f"{kind}-{self.port}.log", env={**os.environ, **env})

    def start(self) -> LiveServer:
        self.spawn()
        self.wait_until_up()
        return self

    def wait_until_up(self) -> None:
        wait_until(self._answers, what=f"{self.kind} on port {self.port}", timeout=60)

    def _answers(self) -> bool:
        if self.process is not None and self.process.poll() is not None:
            raise AssertionError(f"{self.kind} ended at once:\n{self.logged()}")
        try:
            return httpx.get(f"{self.url}/health/live", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False


class DemoServers:
    """Some server processes of the demo on one Redis and one database."""

    def __init__(self, servers: list[LiveServer], redis_server: RedisServer, env: dict[str, str]) -> None:
        self.servers = servers
        self.redis = redis_server
        self.env = env

    @property
    def urls(self) -> list[str]:
        return [server.url for server in self.servers]

    @property
    def ws_urls(self) -> list[str]:
        return [server.ws_url for server in self.servers]

    def stop(self, index: int) -> None:
        self.servers[index].stop()

    def restart(self, index: int) -> None:
        """Start a server that was stopped again, on its own port."""
        self.servers[index].start()

    def manage(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a management command beside the servers; fails the test when the command fails."""
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env={**os.environ, **self.env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done


@contextlib.contextmanager
def demo_servers(
    *kinds: str, directory: Path, layer: str = "rooms", env: dict[str, str] | None = None, **options: object
) -> Iterator[DemoServers]:
    """Start a Redis and one server process per kind; all of them are gone at the end."""
    redis_server = RedisServer(directory / "redis")
    whole_env = {
        "DJANGO_SETTINGS_MODULE": "project.settings",
        "REDIS_URL": redis_server.url,
        "CHANNEL_LAYER": layer,
        "DATABASE_FILE": str(directory / "demo.sqlite3"),
        "DJANGO_SECRET_KEY": "only-for-tests",
        **(env or {}),
    }
    demo = DemoServers(
        [LiveServer(kind, env=whole_env, directory=directory, **options) for kind in kinds],  # type: ignore[arg-type]
        redis_server,
        whole_env,
    )
    try:
        redis_server.start()
        for server in demo.servers:
            server.spawn()
        # Beside their start: they need the tables only for who signs in.
        demo.manage("migrate", "--verbosity", "0")
        for server in demo.servers:
            server.wait_until_up()
        yield demo
    finally:
        for process in (*demo.servers, redis_server):
            process.stop()


@contextlib.contextmanager
def short_directory() -> Iterator[Path]:
    """A temporary directory with a path short enough for a unix socket."""
    path = Path(tempfile.mkdtemp(prefix="rooms-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
