"""Commands of the project as in a terminal: each in a new checkout, and with all that it starts in turn."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import redis

from rooms_app.embedded import EmbeddedRedis
from tests.live import ROOT, free_port
from tests.waiting import wait_until

READY = "Ctrl-C stops everything."
_PR_SET_CHILD_SUBREAPER = 36

needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


def children_of(parent: int) -> dict[int, str]:
    """The children of a process with their command lines, which are empty for those that have ended."""
    found = {}
    for directory in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if directory.name.isdecimal():
                # After the command, which stands in parentheses and may hold anything: state, parent, …
                state, of, *_ = (directory / "stat").read_text().rpartition(")")[2].split()
                if int(of) == parent:
                    line = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    found[int(directory.name)] = "" if state in "ZX" else line
    return found


class Command:
    """A management command that runs in a checkout, and what it has written."""

    def __init__(self, checkout: Path, arguments: tuple[str, ...], env: dict[str, str]) -> None:
        self.checkout = checkout
        self._log = checkout / f"{arguments[0]}.log"
        self._start = self._log.stat().st_size if self._log.exists() else 0
        ours = ("DJANGO_", "REDIS_", "CHANNEL_", "DATABASE_", "RUN_MAIN", "ROOMS_")
        environment = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", *arguments],
                cwd=checkout,
                env={**environment, **env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def output(self) -> str:
        return self._log.read_bytes()[self._start :].decode()

    def wait_for(self, text: str) -> None:
        """Until it has written this."""
        wait_until(lambda: text in self.output() or self.process.poll() is not None, what=text, timeout=30)
        assert text in self.output(), self.output()

    def wait_for_exit(self) -> int:
        return self.process.wait(timeout=20)

    def end(self, signum: int) -> int:
        self.process.send_signal(signum)
        return self.wait_for_exit()

    def child(self, part: str) -> int:
        """The pid of the child that has this in its command line."""
        (found,) = [pid for pid, line in children_of(self.process.pid).items() if part in line]
        return found


class Family:
    """What a test starts, and what that starts in turn: who loses its parent becomes the test's child."""

    def __init__(self) -> None:
        self._before = children_of(os.getpid())
        self._commands: list[Command] = []

    def start(self, checkout: Path, *arguments: str, **env: str) -> Command:
        self._commands.append(Command(checkout, arguments, env))
        return self._commands[-1]

    def left(self) -> list[str]:
        """The command lines of those that still run."""
        return [line for pid, line in self._all().items() if line]

    def end(self) -> None:
        while everyone := self._all():
            for pid, line in everyone.items():
                if line:
                    os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)

    def _all(self) -> dict[int, str]:
        for command in self._commands:
            command.process.poll()
        return {pid: line for pid, line in children_of(os.getpid()).items() if pid not in self._before}


@pytest.fixture
def family() -> Iterator[Family]:
    """Starts commands, and ends all that is left of them."""
    prctl = ctypes.CDLL(None).prctl
    prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    started = Family()
    yield started
    started.end()
    prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@pytest.fixture
def new_checkout(tmp_path: Path) -> Callable[[str], Path]:
    """Makes copies of the project as a fresh clone has it: no database, nothing in .rooms."""

    def make(name: str) -> Path:
        for part in ("project", "rooms_app"):
            shutil.copytree(ROOT / part, tmp_path / name / part)
        shutil.copy2(ROOT / "manage.py", tmp_path / name)
        return tmp_path / name

    return make


@pytest.fixture
def checkout(new_checkout: Callable[[str], Path]) -> Path:
    return new_checkout("checkout")


@pytest.fixture
def ports() -> list[str]:
    return [str(free_port()), str(free_port())]


def answers(port: str) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health/live", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def process_at(port: str) -> str:
    """The id of the process that serves there."""
    return str(httpx.get(f"http://127.0.0.1:{port}/health/live", timeout=5).json()["process"])


def bundled(checkout: Path) -> redis.Redis:
    """The bundled Redis of a checkout."""
    return redis.Redis.from_url(EmbeddedRedis(checkout / ".rooms").url)
