"""Calling a handler: sync ones in this thread, async ones on the process's one background loop."""

from __future__ import annotations

import time
from typing import Any

from asgiref.sync import async_to_sync, sync_to_async
from django.db import close_old_connections

from rooms_app.background import background
from rooms_app.bus.delivery import MessageOf
from rooms_app.bus.handlers import Handler
from rooms_app.cancelling import within


def call(handler: Handler, message: MessageOf[Any]) -> None:
    """Have the handler take the message, in a worker; what it raises is raised.

    A sync one that takes too long is interrupted by Celery's soft time limit, in a prefork pool.
    """
    if handler.is_async:
        background.run(lambda: _call_async(handler, message))
    else:
        handler.call(message)


def call_eagerly(handler: Handler, message: MessageOf[Any]) -> None:
    """The same in a test's own thread, in its event loop if it has one: there its transaction is open."""
    if handler.is_async:
        async_to_sync(_await_call)(handler, message)
    else:
        handler.call(message)


async def _await_call(handler: Handler, message: MessageOf[Any]) -> None:
    await handler.call(message)


async def _call_async(handler: Handler, message: MessageOf[Any]) -> None:
    # In the thread that its ORM calls run in; `tasks` does it for the one that a sync handler runs in.
    await sync_to_async(close_old_connections)()
    started = time.monotonic()
    try:
        async with within(handler.timeout):
            await handler.call(message)
    except TimeoutError as error:
        if time.monotonic() - started < handler.timeout:
            # Another one, of the handler's own.
            raise
        raise TimeoutError(f"The handler took longer than its {handler.timeout:g} s.") from error
    finally:
        await sync_to_async(close_old_connections)()
