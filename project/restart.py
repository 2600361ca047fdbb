"""The restart of one server of a running demo: asked for in one terminal, done by the demo in another."""

from __future__ import annotations

import http.client
import json
import os
import signal
import time
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rooms_app.processes import ProcessLock

#: How long a server may take until it answers.
START_TIMEOUT = 30.0
#: How long connections may linger after the time in which they are closed.
_GRACE = 5.0
_LOOK_EVERY = 0.1


class NoRestart(Exception):  # noqa: N818 - reads as the sentence it is
    """A server can't be restarted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a server answers on this machine."""

    host: str
    port: int

    def ask(self, path: str) -> dict[str, Any]:
        """The JSON that a view answers, whatever its status; nothing where there is no answer."""
        with closing(http.client.HTTPConnection(self.host, self.port, timeout=2)) as connection:
            try:
                connection.request("GET", path)
                answer = json.loads(connection.getresponse().read())
            except (OSError, http.client.HTTPException, ValueError):
                return {}
        return answer if isinstance(answer, dict) else {}

    def process(self) -> str | None:
        """The id of the process that serves there; None while none does."""
        process = self.ask("/health/live").get("process")
        return process if isinstance(process, str) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningDemo:
    """What a demo that is up leaves in its directory for those who ask it to restart a server."""

    pid: int
    host: str
    ports: list[int]

    def write(self, directory: Path) -> None:
        """Say that it is up; requests from before are void."""
        withdraw(directory)
        _notice(directory).write_text(json.dumps(asdict(self)))

    @classmethod
    def find(cls, directory: Path, lock: ProcessLock) -> RunningDemo:
        """The demo of this directory. Raises `NoRestart` where none is up."""
        if lock.acquire():
            lock.release()
            raise NoRestart("No demo is running here: start one by `python manage.py demo`.")
        try:
            return cls(**json.loads(_notice(directory).read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise NoRestart("The demo is about to start or to end: try again in a moment.") from error

    def address(self, port: int) -> Address:
        """Where the server on this port answers. Raises `NoRestart` where the demo has none."""
        if port not in self.ports:
            ports = ", ".join(map(str, self.ports))
            raise NoRestart(f"The demo has no server on port {port}, but on {ports}.")
        return Address(host=self.host, port=port)


def withdraw(directory: Path) -> None:
    """Say that the demo of this directory is up no more."""
    _notice(directory).unlink(missing_ok=True)
    take_requests(directory)


def take_requests(directory: Path) -> list[int]:
    """The ports whose servers are to be restarted, each told once."""
    requests = [path for path in directory.glob("restart-*") if path.name.removeprefix("restart-").isdecimal()]
    for request in requests:
        request.unlink(missing_ok=True)
    return [int(request.name.removeprefix("restart-")) for request in requests]


def wait_until_drained(address: Address, window: float) -> None:
    """Return when a server that was told to drain has no connections left, or the time for that is over."""
    deadline = time.monotonic() + window + _GRACE
    while time.monotonic() < deadline:
        # One that did not hear of it, as it has no connections, says that it is ready.
        answer = address.ask("/health/ready")
        if answer.get("status") != "draining" or not answer.get("connections"):
            return
        time.sleep(_LOOK_EVERY)


def ask_for_restart(directory: Path, lock: ProcessLock, port: int, before: str) -> str:
    """Have the demo restart the server on this port, the process `before`; the id of the new one.

    Raises `NoRestart`.
    """
    demo = RunningDemo.find(directory, lock)
    address = demo.address(port)
    (directory / f"restart-{port}").touch()
    with suppress(ProcessLookupError):
        os.kill(demo.pid, signal.SIGUSR1)
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        # Looked at first: a demo whose server can't start again ends.
        RunningDemo.find(directory, lock)
        process = address.process()
        if process is not None and process != before:
            return process
        time.sleep(_LOOK_EVERY)
    raise NoRestart(f"The server on port {port} doesn't answer after {START_TIMEOUT:g} s.")


def _notice(directory: Path) -> Path:
    return directory / "demo.json"
