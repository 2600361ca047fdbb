"""One connection to Redis that many commands share: written as they come, answered in that order.

redis-py's asyncio client takes a connection out of its pool for each command, and waits under two timeouts; here
commands that are sent in the same turn share one write, and one read of their replies.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import hiredis
from redis.exceptions import BusyLoadingError, NoScriptError, ReadOnlyError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from rooms_app.layers.scripts import Argument

_ERRORS: dict[str, type[ResponseError] | type[RedisConnectionError]] = {
    "NOSCRIPT": NoScriptError,
    "READONLY": ReadOnlyError,
    "LOADING": BusyLoadingError,
}


class CommandConnection(asyncio.Protocol):
    """Takes over the transport of a connected redis-py connection."""

    def __init__(self, owner: Any, transport: Any, *, timeout: float) -> None:
        #: redis-py's connection, which closes the socket when it is forgotten.
        self._owner = owner
        self._transport = transport
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(replyError=_error)
        #: Who waits for a reply, in the order of the commands, and since when.
        self._waiting: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._unsent: list[bytes] = []
        self._watchdog: asyncio.TimerHandle | None = None
        self.is_lost = False
        transport.set_protocol(self)

    @classmethod
    async def open(cls, owner: Any, *, timeout: float) -> CommandConnection | None:
        """Connect; None where this redis-py does not let its transport be taken. Raises what redis-py raises."""
        await owner.connect()
        transport: Any = getattr(getattr(owner, "_writer", None), "transport", None)
        if not callable(getattr(transport, "set_protocol", None)):
            await owner.disconnect(nowait=True)
            return None
        return cls(owner, transport, timeout=timeout)

    async def call(self, words: tuple[Argument, ...]) -> Any:
        """Redis's reply. Raises what redis-py raises."""
        if self.is_lost:
            raise RedisConnectionError("The connection to Redis was lost.")
        reply: asyncio.Future[Any] = self._loop.create_future()
        self._waiting.append((reply, self._loop.time()))
        if not self._unsent:
            self._loop.call_soon(self._write)
        self._unsent.append(hiredis.pack_command(words))  # type: ignore[arg-type]  # its stub names one word only
        if self._watchdog is None:
            self._watchdog = self._loop.call_later(self._timeout, self._look)
        return await reply

    def abandon(self) -> None:
        """Give it up; who waits is told."""
        self._lose()

    async def close(self) -> None:
        """End it; who waits is told."""
        self._lose()
        owner, self._owner = self._owner, None
        if owner is not None:
            await owner.disconnect(nowait=True)

    # asyncio's protocol

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not False:
                answer, _ = self._waiting.popleft()
                if answer.done():
                    # Who asked has given up.
                    continue
                if isinstance(reply, Exception):
                    answer.set_exception(reply)
                    if isinstance(reply, ReadOnlyError):
                        # No master any more: the next connection asks for the new one.
                        self._lose()
                else:
                    answer.set_result(reply)
        except (hiredis.ProtocolError, IndexError):
            self._lose()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose()

    def _write(self) -> None:
        unsent, self._unsent = self._unsent, []
        if not self.is_lost:
            self._transport.write(b"".join(unsent))

    def _look(self) -> None:
        """Give the connection up where a reply is overdue: more would only wait behind it."""
        self._watchdog = None
        if not self._waiting:
            return
        overdue_in = self._waiting[0][1] + self._timeout - self._loop.time()
        if overdue_in <= 0:
            self._lose()
        else:
            self._watchdog = self._loop.call_later(overdue_in, self._look)

    def _lose(self) -> None:
        if self.is_lost:
            return
        self.is_lost = True
        self._transport.abort()
        if self._watchdog is not None:
            self._watchdog.cancel()
        waiting, self._waiting = self._waiting, deque()
        for answer, _ in waiting:
            if not answer.done():
                answer.set_exception(RedisConnectionError("The connection to Redis was lost."))


def _error(text: str) -> RedisError:
    """redis-py's exception for an error reply."""
    kind, _, rest = text.partition(" ")
    return _ERRORS[kind](rest) if kind in _ERRORS else ResponseError(text)
