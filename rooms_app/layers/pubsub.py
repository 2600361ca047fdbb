"""One subscribed connection to Redis, read by a protocol of our own.

redis-py's PubSub reconnects by itself inside `get_message`, without a word, and what was published meanwhile is gone.
Here a loss is told. redis-py connects (authentication, TLS, Sentinel), and then hands over its transport.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import hiredis
from redis.exceptions import ResponseError

#: A channel, and what was published on it.
Published = tuple[bytes, bytes]

#: A read of so many bytes was not the last: more waits in the kernel.
_FULL_READ = 64 * 1024
#: How many channels one command names.
_PAGE = 1_000


class PubSubConnection:
    """Subscribes, with a confirmation for each channel; tells what is published, and its own loss, once."""

    def __init__(
        self, *, on_published: Callable[[Sequence[Published]], None], on_lost: Callable[[PubSubConnection], None]
    ) -> None:
        self._on_published = on_published
        self._on_lost = on_lost
        self._reader = hiredis.Reader()
        self._waiting: dict[tuple[bytes, bytes], list[asyncio.Future[None]]] = {}
        self._write: Callable[[bytes], None] | None = None
        self._close: Callable[[], None] | None = None
        #: redis-py's connection, which closes the socket when it is forgotten.
        self._owner: Any = None
        self.is_lost = False
        #: Whether more has been published than was read: it pays to wait for it, and write it together.
        self.is_behind = False

    async def open(self, connection: Any) -> None:
        """Connect by redis-py's connection, and take it over. Raises what redis-py raises."""
        self._owner = connection
        await connection.connect()
        transport: Any = getattr(getattr(connection, "_writer", None), "transport", None)
        if callable(getattr(transport, "set_protocol", None)):
            transport.set_protocol(_Taker(self))
            self._write, self._close = transport.write, transport.abort
        else:
            # Another redis-py than we know: slower, by what it documents.
            pump = _Pump(connection, self)
            self._write, self._close = pump.write, pump.close
        if transport is not None and transport.is_closing():
            self.lost()
            raise ConnectionError("Redis closed the connection.")

    async def subscribe(self, channels: Iterable[str]) -> None:
        """Return once Redis has confirmed each channel. Raises `ConnectionError` when the connection is lost."""
        await self._ask("SUBSCRIBE", channels)

    async def unsubscribe(self, channels: Iterable[str]) -> None:
        """Return once Redis has confirmed each channel. Raises `ConnectionError` when the connection is lost."""
        await self._ask("UNSUBSCRIBE", channels)

    async def ping(self) -> None:
        """Return once everything that Redis published before it answers has been told."""
        token = secrets.token_hex(8).encode()
        answer = self._expect(b"pong", token)
        self._command("PING", token)
        await answer

    def close(self) -> None:
        """End it; `on_lost` is not called."""
        self._on_lost = lambda connection: None
        if self._close is not None:
            self._close()
        self.lost()

    async def dispose(self) -> None:
        """After the end: let redis-py know that its connection is closed."""
        owner, self._owner = self._owner, None
        if owner is not None:
            await owner.disconnect(nowait=True)

    def received(self, data: bytes) -> None:
        """Take bytes from Redis."""
        reader = self._reader
        self.is_behind = len(data) >= _FULL_READ
        reader.feed(data)
        replies = []
        try:
            while (reply := reader.gets()) is not False:
                replies.append(reply)
        except hiredis.ProtocolError:
            if self._close is not None:
                self._close()
            self.lost()
            return
        self.replied(replies)

    def replied(self, replies: Sequence[Any]) -> None:
        """Take replies; what was published is told together, and before anything that came after it."""
        published: list[Published] = []
        for reply in replies:
            if type(reply) is bytes:
                # A PONG, where the connection speaks RESP3.
                kind, name = b"pong", reply
            elif isinstance(reply, list) and len(reply) > 1:
                kind, name = reply[0], reply[1]
            elif isinstance(reply, Exception):
                # Such as NOPERM: which command it answers is not said.
                self._fail_waiting(f"{type(reply).__name__}: {reply}")
                continue
            else:
                continue
            if kind == b"message":
                published.append((name, reply[2]))
                continue
            if published:
                self._on_published(published)
                published = []
            self._confirm((kind, name))
        if published:
            self._on_published(published)

    def _confirm(self, what: tuple[bytes, bytes]) -> None:
        # Each command has a confirmation of its own: that of one which was given up is not the next one's.
        answers = self._waiting.get(what)
        if not answers:
            return
        answer = answers.pop(0)
        if not answers:
            del self._waiting[what]
        if not answer.done():
            answer.set_result(None)

    def lost(self) -> None:
        """The connection has gone."""
        if self.is_lost:
            return
        self.is_lost = True
        self._fail_waiting("The connection to Redis was lost.")
        self._on_lost(self)

    def _fail_waiting(self, reason: str) -> None:
        waiting, self._waiting = self._waiting, {}
        for answers in waiting.values():
            for answer in answers:
                if not answer.done():
                    answer.set_exception(ConnectionError(reason))

    async def _ask(self, command: str, channels: Iterable[str]) -> None:
        names = [channel.encode() for channel in channels]
        answers = [self._expect(command.lower().encode(), name) for name in names]
        for start in range(0, len(names), _PAGE):
            self._command(command, *names[start : start + _PAGE])
        try:
            await asyncio.gather(*answers)
        finally:
            for answer in answers:
                answer.cancel()

    def _expect(self, kind: bytes, name: bytes) -> asyncio.Future[None]:
        answer = asyncio.get_running_loop().create_future()
        self._waiting.setdefault((kind, name), []).append(answer)
        return answer

    def _command(self, *words: str | bytes) -> None:
        if self.is_lost or self._write is None:
            raise ConnectionError("The connection to Redis was lost.")
        self._write(hiredis.pack_command(tuple(words)))  # type: ignore[arg-type]  # its stub names one word only


class _Taker(asyncio.Protocol):
    """Takes what redis-py's own stream reader would."""

    def __init__(self, connection: PubSubConnection) -> None:
        self._connection = connection

    def data_received(self, data: bytes) -> None:
        self._connection.received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.lost()


class _Pump:
    """Reads and writes by redis-py's own methods."""

    def __init__(self, connection: Any, told: PubSubConnection) -> None:
        self._connection = connection
        self._told = told
        # Looked at after each step: redis-py and wait_for can swallow a cancellation.
        self._is_closed = False
        create_task = asyncio.get_running_loop().create_task
        self._unsent: asyncio.Queue[bytes] = asyncio.Queue()
        self._tasks = [create_task(self._run(job), name="rooms-pubsub") for job in (self._read, self._send)]
        self.write = self._unsent.put_nowait

    def close(self) -> None:
        self._is_closed = True
        for task in self._tasks:
            task.cancel()

    async def _run(self, job: Callable[[], Awaitable[None]]) -> None:
        try:
            await job()
        except Exception:
            self._told.lost()
            self.close()
        finally:
            await self._connection.disconnect(nowait=True)

    async def _read(self) -> None:
        while not self._is_closed:
            try:
                # Not None, which stands for the socket's timeout: nobody may have sent anything for long.
                reply = await self._connection.read_response(timeout=math.inf)
            except ResponseError as error:
                reply = error
            self._told.replied([reply])

    async def _send(self) -> None:
        while not self._is_closed:
            await self._connection.send_packed_command([await self._unsent.get()], check_health=False)
