"""Child processes: servers, and workers that take commands. None outlives the benchmark."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rooms_app.processes import die_with_parent

ROOT = Path(__file__).resolve().parent.parent
#: What the largest scenario needs in one process: 5,000 connections and some.
FILES_NEEDED = 6_000


class BenchmarkError(Exception):
    """The benchmark can't go on; the message says why."""


def raise_file_limit() -> None:
    """Allow this process the open files that the scenarios need. Raises `BenchmarkError`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = hard if hard != resource.RLIM_INFINITY else FILES_NEEDED
    if soft < FILES_NEEDED:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < FILES_NEEDED:
        raise BenchmarkError(f"The benchmark opens up to {FILES_NEEDED:,} files: raise the limit with `ulimit -Hn`.")


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Child:
    """A process of ours; killed with this one, whatever happens to it."""

    def __init__(self, command: list[str], *, log: Path, env: dict[str, str] | None = None) -> None:
        self.command = command
        self.log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **(env or {})},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if self._answers else output,
                stderr=output,
                preexec_fn=die_with_parent(signal.SIGKILL),
            )

    _answers = False

    @property
    def pid(self) -> int:
        return self.process.pid

    def cpu_seconds(self) -> float:
        """User and system time that the process has used until now.

        The sum of utime and stime of /proc/<pid>/stat, read from the process's CPU clock, which does not round it
        to ticks of 10 ms. See clock_getcpuclockid(3) for the number of that clock.
        """
        return time.clock_gettime((~self.pid << 3) | 2)

    def rss_bytes(self) -> int:
        """Its resident memory."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize()

    def hold(self) -> None:
        """Stop it where it is, until `resume`."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)

    def check(self) -> None:
        """Raises `BenchmarkError` with the end of its log if it has ended."""
        if self.process.poll() is not None:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
            raise BenchmarkError(f"{' '.join(self.command[:6])} … ended with {self.process.returncode}:\n{tail}")

    def wait_until(self, is_up: Callable[[], bool], *, timeout: float = 60) -> None:
        """Wait for it to come up. Raises `BenchmarkError`."""
        deadline = time.monotonic() + timeout
        while not is_up():
            self.check()
            if time.monotonic() > deadline:
                raise BenchmarkError(f"{' '.join(self.command[:6])} … did not come up in {timeout:.0f} s")
            time.sleep(0.02)

    def stop(self) -> None:
        """Kill it: there is nothing to save."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


class Worker(Child):
    """A child that takes commands: a JSON line in, a JSON line out."""

    _answers = True

    def begin(self, name: str, **arguments: Any) -> None:
        """Give a command; `result` waits for it."""
        if self.process.stdin is None:
            raise BenchmarkError("The worker has no stdin.")
        try:
            self.process.stdin.write(json.dumps([name, arguments]).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            self.process.wait()
            self.check()

    def result(self, *, timeout: float = 120) -> dict[str, Any]:
        """What the command came to. Raises `BenchmarkError`."""
        output = self.process.stdout
        if output is None:
            raise BenchmarkError("The worker has no stdout.")
        if not select.select([output], [], [], timeout)[0]:
            raise BenchmarkError(f"{' '.join(self.command[:4])} did not answer in {timeout:.0f} s")
        line = output.readline()
        if not line:
            self.process.wait()
            self.check()
            raise BenchmarkError(f"{' '.join(self.command[:4])} ended")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise BenchmarkError(f"{' '.join(self.command[1:4])}:\n{answer['error']}")
        return answer

    def call(self, name: str, *, timeout: float = 120, **arguments: Any) -> dict[str, Any]:
        """Give a command and wait for it."""
        self.begin(name, **arguments)
        return self.result(timeout=timeout)


def serve_commands(worker: Any) -> None:
    """The worker's side: call its public methods as told, until stdin ends."""
    for line in sys.stdin:
        name, arguments = json.loads(line)
        try:
            answer = getattr(worker, name)(**arguments)
        except Exception:
            answer = {"error": traceback.format_exc(limit=-4)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def is_listening(port: int) -> bool:
    """Whether someone accepts TCP connections there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
