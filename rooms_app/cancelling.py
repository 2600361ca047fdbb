"""Ending tasks for certain."""

from __future__ import annotations

import asyncio

_AGAIN_AFTER = 0.01


async def end(*tasks: asyncio.Task[None]) -> None:
    """Cancel tasks until they are done.

    Again and again: redis-py looks for unread data under `asyncio.timeout(0)`, which swallows a cancellation that
    came just before (https://github.com/python/cpython/issues/134471).
    """
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=_AGAIN_AFTER)
