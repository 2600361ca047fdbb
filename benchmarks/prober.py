"""Asks a server whether it lives, over plain HTTP, while it is busy: a process of its own.

    python -m benchmarks.prober

It takes commands as JSON lines: start asking a port, stop. One question at a time on a kept connection, so a long
answer counts once: the greatest is what says how long the server looked at nothing else.
"""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from typing import Any

from benchmarks.processes import serve_commands

_PATH = "/health/live"
_PAUSE = 0.005


class Prober:
    """Asks until told to stop."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        #: When it asked and when the answer was there, in ns on the clock that all processes share.
        self._answers: list[tuple[int, int]] = []

    def start(self, *, port: int) -> dict[str, Any]:
        """Begin to ask; the first answer, for which the server loads its views, does not count."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._ask(connection)
        self._stop.clear()
        self._answers = []
        self._thread = threading.Thread(target=self._run, args=(connection,), daemon=True)
        self._thread.start()
        return {}

    def stop(self) -> dict[str, Any]:
        """End after the answer that is due; what was answered, and when."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error
        return {"answers": self._answers}

    def _run(self, connection: http.client.HTTPConnection) -> None:
        try:
            while not self._stop.wait(_PAUSE):
                self._answers.append(self._ask(connection))
        except Exception as error:
            self._error = error
        finally:
            connection.close()

    def _ask(self, connection: http.client.HTTPConnection) -> tuple[int, int]:
        asked = time.monotonic_ns()
        connection.request("GET", _PATH)
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise ConnectionError(f"{_PATH} answered {answer.status}")
        return asked, time.monotonic_ns()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        serve_commands(Prober())
