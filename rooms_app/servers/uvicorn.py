"""uvicorn: ready frames straight to the asyncio transport of its sans-I/O WebSocket protocol."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any, ClassVar

from rooms_app.servers.frames import Batch, close_frame
from rooms_app.servers.outlet import nothing

_PROTOCOL_MODULE = "uvicorn.protocols.websockets.websockets_sansio_impl"
#: SO_LINGER on, 0 s: closing the socket sends RST and frees what the kernel still held.
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class UvicornOutlet:
    """Writes past uvicorn's `send`, which waits for exactly the clients that must not be waited for."""

    __slots__ = ("_protocol", "_transport", "_waiter", "on_resume")

    name: ClassVar[str] = "uvicorn"

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol
        self._transport = protocol.transport
        #: Waits for room in the transport, while the client is slow.
        self._waiter: asyncio.Task[None] | None = None
        self.on_resume: Callable[[], None] = nothing

    @classmethod
    def fit(cls, send: Any) -> UvicornOutlet | None:
        """An outlet where `send` is a known protocol's own method, without TLS and without compression."""
        protocol = getattr(send, "__self__", None)
        module = sys.modules.get(_PROTOCOL_MODULE)
        known: type | None = getattr(module, "WebSocketsSansIOProtocol", None)
        if known is None or not isinstance(protocol, known):
            return None
        transport = getattr(protocol, "transport", None)
        # uvloop's transports are none of asyncio's classes.
        if not all(callable(getattr(transport, name, None)) for name in ("write", "is_closing", "abort")):
            return None
        is_usable = (
            transport.get_extra_info("sslcontext") is None
            and isinstance(getattr(protocol, "writable", None), asyncio.Event)
            and isinstance(getattr(protocol, "close_sent", None), bool)
            and getattr(getattr(protocol, "conn", None), "extensions", None) == []
        )
        return cls(protocol) if is_usable else None

    @property
    def paused(self) -> bool:
        return not self._protocol.writable.is_set()

    @property
    def lost(self) -> bool:
        return self._protocol.close_sent or self._transport.is_closing()

    def opened(self, send_buffer: int) -> None:
        connection = self._transport.get_extra_info("socket")
        if send_buffer and connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)

    def write(self, batch: Batch) -> None:
        if not self.lost:
            self._transport.write(batch.wire)

    def wait(self) -> None:
        if self._waiter is None:
            self._waiter = asyncio.get_running_loop().create_task(self._wait())

    async def _wait(self) -> None:
        await self._protocol.writable.wait()
        self._waiter = None
        self.on_resume()

    def close(self, code: int, reason: str, grace: float) -> None:
        if not self.lost:
            self._transport.write(close_frame(code, reason))
        asyncio.get_running_loop().call_later(grace, self._reset)

    def _reset(self) -> None:
        connection = self._transport.get_extra_info("socket")
        if connection is None or connection.fileno() < 0:
            return
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self._transport.abort()
