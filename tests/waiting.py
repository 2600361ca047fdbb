"""Waiting for what happens elsewhere, with a deadline and a name for what did not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


def wait_until(condition: Callable[[], object], *, what: str, timeout: float = 10) -> None:
    """Poll until the condition holds; fails the test with `what` after so many seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout} s in vain for: {what}"
        time.sleep(0.02)


async def until(condition: Callable[[], object], *, what: str, timeout: float = 10) -> None:
    """`wait_until` for async tests: the event loop goes on meanwhile."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout} s in vain for: {what}"
        await asyncio.sleep(0.01)
