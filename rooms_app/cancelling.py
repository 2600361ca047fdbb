"""Cancelling for certain.

redis-py looks for unread data under `asyncio.timeout(0)`, which swallows a cancellation that came just before
(https://github.com/python/cpython/issues/134471): one is not enough.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_AGAIN_AFTER = 0.01
_SECOND_TIMEOUT = 0.1


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """`asyncio.timeout`, with a second one a moment later for when the first is swallowed."""
    async with asyncio.timeout(seconds + _SECOND_TIMEOUT), asyncio.timeout(seconds):
        yield


async def end(*tasks: asyncio.Task[None]) -> None:
    """Cancel tasks again and again until they are done."""
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=_AGAIN_AFTER)
