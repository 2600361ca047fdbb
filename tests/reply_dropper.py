"""A proxy in front of a Redis that loses a reply: the command was carried out, and its sender never hears."""

from __future__ import annotations

import asyncio
import threading
from typing import Self

import hiredis

from tests.live import RedisServer


class ReplyDropper:
    """Forwards everything between the clients of its `url` and Redis, in a thread of its own, until told otherwise."""

    def __init__(self, server: RedisServer) -> None:
        self._upstream = server.port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None
        #: What the next command must contain to lose its reply; None to lose none.
        self._wanted: bytes | None = None
        #: How many replies were lost.
        self.dropped = 0
        self.url = ""

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        return self

    def __exit__(self, *failure: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def drop_next_reply(self, after: bytes) -> None:
        """Lose the reply to the next command with these bytes in it, unless it is an error, and cut its connection."""
        self._wanted = after

    def send_new_connections_to(self, server: RedisServer) -> None:
        """From now on another server is behind the URL; connections that stand stay where they are."""
        self._upstream = server.port

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_redis, to_redis = await asyncio.open_connection("127.0.0.1", self._upstream)
        connection = _Proxied(self, reader, writer, from_redis, to_redis)
        directions = [asyncio.ensure_future(connection.commands()), asyncio.ensure_future(connection.replies())]
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for direction in directions:
                direction.cancel()
            for each in (writer, to_redis):
                each.close()

    def _take_wanted(self, command: list[bytes]) -> bytes | None:
        wanted = self._wanted
        if wanted is None or not any(wanted in part for part in command):
            return None
        self._wanted = None
        return wanted


class _Proxied:
    """One connection through the dropper; as its replies come in the order of its commands, they are counted."""

    def __init__(
        self,
        dropper: ReplyDropper,
        from_client: asyncio.StreamReader,
        to_client: asyncio.StreamWriter,
        from_redis: asyncio.StreamReader,
        to_redis: asyncio.StreamWriter,
    ) -> None:
        self._dropper = dropper
        self._from_client, self._to_client = from_client, to_client
        self._from_redis, self._to_redis = from_redis, to_redis
        self._commands = self._replies = 0
        #: The number of the command whose reply is lost, and what it was chosen by.
        self._marked: tuple[int, bytes] | None = None

    async def commands(self) -> None:
        parser = hiredis.Reader()
        while data := await self._from_client.read(1 << 16):
            parser.feed(data)
            while (command := parser.gets()) is not False:
                self._commands += 1
                if wanted := self._dropper._take_wanted(command):
                    self._marked = self._commands, wanted
            self._to_redis.write(data)

    async def replies(self) -> None:
        parser = hiredis.Reader()
        while data := await self._from_redis.read(1 << 16):
            parser.feed(data)
            while (reply := parser.gets()) is not False:
                self._replies += 1
                if self._marked is None or self._replies != self._marked[0]:
                    continue
                if not isinstance(reply, hiredis.ReplyError):
                    self._dropper.dropped += 1
                    return
                # NOSCRIPT, say: nothing was carried out, and its sender will try again.
                self._dropper._wanted, self._marked = self._marked[1], None
            self._to_client.write(data)
