"""uvicorn: ready frames straight to the asyncio transport of its sans-I/O WebSocket protocol."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any, ClassVar

from rooms_app.servers.asgi import AsgiOutlet
from rooms_app.servers.frames import Batch
from rooms_app.servers.outlet import nothing
from rooms_app.servers.sockets import Tcp

_PROTOCOL_MODULE = "uvicorn.protocols.websockets.websockets_sansio_impl"


class UvicornOutlet:
    """Writes past uvicorn's `send`, which waits for exactly the clients that must not be waited for."""

    __slots__ = ("_protocol", "_tcp", "_transport", "_waiter", "on_resume")

    name: ClassVar[str] = "uvicorn"

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol
        self._transport = protocol.transport
        self._tcp = Tcp(protocol.transport)
        #: Waits for room in the transport, while the client is slow.
        self._waiter: asyncio.Task[None] | None = None
        self.on_resume: Callable[[], None] = nothing

    @classmethod
    def fit(cls, send: Any) -> UvicornOutlet | AsgiOutlet | None:
        """An outlet where `send` is a known protocol's own; the portable one for TLS and compression."""
        protocol = getattr(send, "__self__", None)
        module = sys.modules.get(_PROTOCOL_MODULE)
        known: type | None = getattr(module, "WebSocketsSansIOProtocol", None)
        if known is None or not isinstance(protocol, known):
            return None
        transport: Any = getattr(protocol, "transport", None)
        # uvloop's transports are none of asyncio's classes.
        is_known = (
            all(callable(getattr(transport, name, None)) for name in ("write", "is_closing", "abort"))
            and isinstance(getattr(protocol, "writable", None), asyncio.Event)
            and isinstance(getattr(protocol, "close_sent", None), bool)
        )
        if not is_known:
            return None
        is_plain = (
            transport.get_extra_info("sslcontext") is None
            and getattr(getattr(protocol, "conn", None), "extensions", None) == []
        )
        return cls(protocol) if is_plain else AsgiOutlet(send, tcp=Tcp(transport))

    @property
    def paused(self) -> bool:
        return not self._protocol.writable.is_set()

    @property
    def lost(self) -> bool:
        return bool(self._protocol.close_sent or self._transport.is_closing())

    @property
    def has_unsent(self) -> bool:
        return bool(self._transport.get_write_buffer_size())

    def opened(self, send_buffer: int) -> None:
        self._tcp.bound_send_buffer(send_buffer)

    def write(self, batch: Batch) -> None:
        # As `lost`, without the call: this runs once per delivery.
        transport = self._transport
        if not (self._protocol.close_sent or transport.is_closing()):
            transport.write(batch.wire)

    def wait(self) -> None:
        if self._waiter is None:
            self._waiter = asyncio.get_running_loop().create_task(self._wait())

    async def _wait(self) -> None:
        await self._protocol.writable.wait()
        self._waiter = None
        self.on_resume()

    def close(self, code: int, reason: str, grace: float) -> None:
        # By uvicorn's own `send`, so that it knows: else it answers the client's close frame by a second one,
        # which browsers report as 1006. That `send` waits for room first, so here there is room.
        closer = AsgiOutlet(self._protocol.send, tcp=self._tcp)
        closer.lost = self.lost
        is_full = self.paused
        self._protocol.writable.set()
        closer.close(code, reason, grace)
        if is_full:
            self._protocol.writable.clear()

    async def finish(self) -> None:
        """Nothing to wait for: the transport has the close frame."""
