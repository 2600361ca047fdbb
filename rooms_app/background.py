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
    raise SynchronousOnlyOperation(f"{name}() can't be called from async code: await {name.removesuffix('_sync')}().")


class BackgroundLoop:
    """An event loop in a daemon thread, started on first use; a forked child starts its own."""

    def __init__(self) -> None:
        self._forget()
        # A fork takes along neither the thread nor, perhaps, whoever held the lock.
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def run(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The coroutine's result, or the exception it raised."""
        future: Future[T] = asyncio.run_coroutine_threadsafe(call(), self._get_loop())
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """End the loop; channel layers close their connections with it."""
        loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        self._loop = None
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=2)

    def _get_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=_serve, args=[self._loop], name="rooms-background", daemon=True)
                self._thread.start()
            return self._loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.close()


#: The process's background loop.
background = BackgroundLoop()
atexit.register(background.close)
