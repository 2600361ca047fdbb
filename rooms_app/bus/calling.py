"""Calling a handler: sync ones in this thread, async ones on the process's one background loop."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from asgiref.sync import async_to_sync, sync_to_async
from celery.exceptions import SoftTimeLimitExceeded
from django.db import close_old_connections, connections

from rooms_app.background import background
from rooms_app.bus.broker import KILLED_AFTER
from rooms_app.bus.delivery import MessageOf
from rooms_app.bus.handlers import Handler
from rooms_app.cancelling import within

logger = logging.getLogger(__name__)


def call(handler: Handler, message: MessageOf[Any]) -> None:
    """Have the handler take the message, in a worker; what it raises is raised.

    A sync one that takes too long is interrupted by Celery's soft time limit, in a prefork pool.
    """
    if not handler.is_async:
        handler.call(message)
        return
    try:
        background.run(lambda: _call_async(handler, message))
    except SoftTimeLimitExceeded:
        # The time limit of its process: the kill comes with it. Nothing may be stored before that, as the message
        # comes back.
        time.sleep(KILLED_AFTER)
        raise


def call_eagerly(handler: Handler, message: MessageOf[Any]) -> None:
    """The same in a test's own thread, in its event loop if it has one: there its transaction is open."""
    if handler.is_async:
        async_to_sync(_await_call)(handler, message)
    else:
        handler.call(message)


async def _await_call(handler: Handler, message: MessageOf[Any]) -> None:
    await handler.call(message)


async def _call_async(handler: Handler, message: MessageOf[Any]) -> None:
    async with _orm_connections:
        started = time.monotonic()
        try:
            async with within(handler.timeout):
                await handler.call(message)
        except TimeoutError as error:
            if time.monotonic() - started < handler.timeout:
                # Another one, of the handler's own.
                raise
            raise TimeoutError(f"The handler took longer than its {handler.timeout:g} s.") from error


class _OrmConnections:
    """The database connections of the one thread that the ORM calls of all async handlers run in.

    Around each handler what is old is closed, as Django does it around a request; but only what is broken while
    another one runs, which may be in the middle of a query. `tasks` does it for the thread of a sync handler.

    It is not waited for: what is asked of that thread is done in turn, so before the handler's own calls; and a slow
    query must not hold up a handler that makes none. Unless the handler was cut off: its query may never end, and while
    it is waited for, Celery's time limit has the process killed, with the thread that no other can do without.
    """

    def __init__(self) -> None:
        #: How many handlers run; touched in the background loop alone.
        self._running = 0
        self._closings: set[asyncio.Task[None]] = set()
        #: Which closings are asked for and not begun: one is enough. By whether a handler was alone.
        self._asked: set[bool] = set()

    async def __aenter__(self) -> None:
        self._running += 1
        self._close(is_alone=self._running == 1)
        # Once round the loop, so that it is asked before the handler asks for something.
        await asyncio.sleep(0)

    async def __aexit__(self, kind: object, error: object, traceback: object) -> None:
        self._running -= 1
        self._close(is_alone=not self._running)
        if isinstance(error, TimeoutError):
            await asyncio.wait(tuple(self._closings))

    def _close(self, *, is_alone: bool) -> None:
        if is_alone in self._asked:
            return
        self._asked.add(is_alone)
        closing = asyncio.get_running_loop().create_task(self._ask(is_alone=is_alone), name="rooms-orm-connections")
        self._closings.add(closing)
        closing.add_done_callback(self._closings.discard)

    async def _ask(self, *, is_alone: bool) -> None:
        try:
            await sync_to_async(self._close_here)(is_alone=is_alone)
        except Exception:
            # The next handler's calls find out what is wrong.
            logger.exception("database connections could not be closed")

    def _close_here(self, *, is_alone: bool) -> None:
        self._asked.discard(is_alone)
        if is_alone:
            close_old_connections()
        else:
            _close_broken()


def _close_broken() -> None:
    for connection in connections.all(initialized_only=True):
        if connection.connection is not None and connection.errors_occurred and not connection.is_usable():
            connection.close()


_orm_connections = _OrmConnections()
