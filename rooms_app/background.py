"""One long-lived event loop per process for sync code that has to call async code: never a loop per call."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from django.core.exceptions import SynchronousOnlyOperation

T = TypeVar("T")


def refuse_in_event_loop(name: str) -> None:
    """Raises Django's `SynchronousOnlyOperation` in a thread whose event loop is running."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    advice = f"await {name.removesuffix('_sync')}()"
    raise SynchronousOnlyOperation(f"{name}() can't be called from async code: {advice}.")


def after_fork_in_child(call: Callable[[], None]) -> None:
    """Have this called in each forked child, on systems that fork."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=call)


class BackgroundLoop:
    """An event loop in a daemon thread, started on first use; a forked child starts its own."""

    def __init__(self) -> None:
        self._forget()
        # A fork takes along neither the thread nor, perhaps, whoever held the lock.
        after_fork_in_child(self._forget)

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def run(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The coroutine's result, or the exception it raised. It sees the context variables of the caller."""
        loop = self._get_loop()
        future: Future[T] = asyncio.run_coroutine_threadsafe(call(), loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """End the loop: what is under way is cancelled, and channel layers close their connections to it."""
        with self._lock:
            loop, self._loop = self._loop, None
            thread, self._thread = self._thread, None
        if loop is None or thread is None:
            return
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=2)

    def _get_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                thread = threading.Thread(target=_serve, args=[loop], name="rooms-background", daemon=True)
                thread.start()
                self._loop, self._thread = loop, thread
            return self._loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    # A Runner for its end alone: it cancels what is under way, so that no thread waits for that for ever.
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.get_loop().run_forever()


#: The process's background loop.
background = BackgroundLoop()
atexit.register(background.close)
