"""Child processes that run together: a signal ends all, the end of one is noticed, none outlives us."""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, Any, Self

from rooms_app.processes import die_with_parent

#: How long children may take to end by themselves.
_GRACE = 5.0
#: No pipe holds more, so one read empties it.
_PIPE_SIZE = 1024 * 1024


class Stopped(Exception):  # noqa: N818 - reads as the sentence it is
    """Ctrl-C or a signal asks this process to end."""


class ChildEnded(Exception):  # noqa: N818
    """A child process ended by itself."""


def how(exit_code: int) -> str:
    """An exit code in words: "with exit code 1", "by SIGKILL"."""
    return f"by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"with exit code {exit_code}"


class Children:
    """The children of one `with` block; `show` is given each line they write, after their name.

    Within the block, signals raise nothing where they arrive, where they could interrupt a start halfway:
    `check` and `wait` raise `Stopped`.
    """

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show
        self._children: list[_Child] = []
        self._selector = selectors.DefaultSelector()
        # What a signal writes to, so that it ends a wait: the children's ends come as signals, too.
        self._alarm, self._bell = socket.socketpair()
        self._asked_to_stop = False
        self._handlers: dict[int, Any] = {}
        self._wakeup = -1

    def __enter__(self) -> Self:
        self._alarm.setblocking(False)
        self._bell.setblocking(False)
        self._selector.register(self._alarm, selectors.EVENT_READ)
        self._wakeup = signal.set_wakeup_fd(self._bell.fileno(), warn_on_full_buffer=False)
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signum != signal.SIGHUP or signal.getsignal(signum) != signal.SIG_IGN:  # as under nohup
                self._handlers[signum] = signal.signal(signum, self._ask_to_stop)
        # Without a handler of Python's, a signal does not reach the bell.
        for signum in (signal.SIGCHLD, signal.SIGUSR1):
            self._handlers[signum] = signal.signal(signum, lambda *_: None)
        return self

    def __exit__(self, *failure: object) -> None:
        self.stop()
        for signum, handler in self._handlers.items():
            # Who is asked to stop is about to end: a second Ctrl-C must not make a failure of that.
            signal.signal(signum, signal.SIG_IGN if self._asked_to_stop and signum != signal.SIGCHLD else handler)
        signal.set_wakeup_fd(self._wakeup)
        self._selector.close()
        self._alarm.close()
        self._bell.close()

    def start(self, name: str, command: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> int:
        """Start a child, in a process group of its own: a Ctrl-C in the terminal is for us to pass on. Its pid."""
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,
            preexec_fn=die_with_parent(signal.SIGKILL),
        )
        child = _Child(name, process)
        self._children.append(child)
        self._selector.register(child.output, selectors.EVENT_READ, child)
        return process.pid

    def check(self) -> None:
        """Raise `Stopped` if a signal has come, `ChildEnded` if a child has gone."""
        if self._asked_to_stop:
            raise Stopped
        for child in self._children:
            if (exit_code := child.process.poll()) is not None:
                self._forget(child)
                raise ChildEnded(f"{child.name} ended unexpectedly, {how(exit_code)}.")

    def wait(self, timeout: float | None = None) -> None:
        """Show output until the time is over or something happens, and `check` what it is; SIGUSR1 ends it too."""
        self.check()
        self._pump(timeout)
        self.check()

    def stop_one(self, name: str) -> None:
        """End this child, as `stop` does all."""
        self._stop([child for child in self._children if child.name == name])

    def stop(self) -> None:
        """End all children, those that don't heed SIGTERM by SIGKILL; signals to us don't interrupt it."""
        self._stop(self._children.copy())

    def _stop(self, children: Sequence[_Child]) -> None:
        _signal(children, signal.SIGTERM)
        deadline = time.monotonic() + _GRACE
        while _running(children) and (left := deadline - time.monotonic()) > 0:
            self._pump(left)
        _signal(children, signal.SIGKILL)
        for child in children:
            child.process.wait()
            self._forget(child)

    def _ask_to_stop(self, signum: int, frame: FrameType | None) -> None:
        self._asked_to_stop = True

    def _pump(self, timeout: float | None) -> None:
        for key, _ in self._selector.select(timeout):
            if key.data is None:
                self._alarm.recv(4096)
            else:
                self._show_output(key.data)

    def _show_output(self, child: _Child) -> None:
        for line in filter(None, child.read()):
            self._show(f"{child.name}: {line}")
        if child.at_end:
            self._selector.unregister(child.output)

    def _forget(self, child: _Child) -> None:
        if not child.at_end:
            child.at_end = True  # whoever else has its output open, nothing more is waited for
            self._show_output(child)
        child.output.close()
        self._children.remove(child)


def _running(children: Sequence[_Child]) -> list[_Child]:
    return [child for child in children if child.process.poll() is None]


def _signal(children: Sequence[_Child], signum: int) -> None:
    for child in _running(children):
        # To its group, an id that nobody else can get before we have waited for its leader.
        os.killpg(child.process.pid, signum)


class _Child:
    """A child process and what is known of its output."""

    def __init__(self, name: str, process: subprocess.Popen[bytes]) -> None:
        self.name = name
        self.process = process
        self.output: IO[bytes] = process.stdout  # type: ignore[assignment]  # it is a pipe
        # Whether the output has been read to its end.
        self.at_end = False
        # The beginning of a line whose end is still to come.
        self._begun = b""
        os.set_blocking(self.output.fileno(), False)

    def read(self) -> list[str]:
        """The lines that have come in; at the end, the last one whole or not."""
        try:
            chunk = os.read(self.output.fileno(), _PIPE_SIZE)
            self.at_end = self.at_end or not chunk
        except BlockingIOError:
            chunk = b""
        *lines, self._begun = (self._begun + chunk).split(b"\n")
        if self.at_end and self._begun:
            lines.append(self._begun)
        return [line.decode(errors="replace") for line in lines]
