"""Daphne: ready frames straight to the Twisted transport of its WebSocket protocol."""

from __future__ import annotations

import asyncio
import functools
import socket
import sys
from collections.abc import Callable
from typing import Any, ClassVar

from rooms_app.servers.frames import Batch, cut_reason
from rooms_app.servers.outlet import nothing


class DaphneOutlet:
    """Writes past Daphne's `send`, which never pushes back: Twisted tells this producer when it holds enough.

    Twisted's producer interface: https://docs.twisted.org/en/stable/core/howto/producers.html
    """

    __slots__ = ("_open_state", "_protocol", "_transport", "on_resume", "paused")

    name: ClassVar[str] = "daphne"

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol
        self._open_state = protocol.STATE_OPEN
        self._transport = protocol.transport
        self.paused = False
        self.on_resume: Callable[[], None] = nothing

    @classmethod
    def fit(cls, send: Any) -> DaphneOutlet | None:
        """An outlet where `send` is Daphne's partial over a known protocol, without TLS and compression."""
        if not isinstance(send, functools.partial) or len(send.args) != 1:
            return None
        (protocol,) = send.args
        known: type | None = getattr(sys.modules.get("daphne.ws_protocol"), "WebSocketProtocol", None)
        tcp: type | None = getattr(sys.modules.get("twisted.internet.tcp"), "Connection", None)
        if known is None or tcp is None or not isinstance(protocol, known):
            return None
        transport = getattr(protocol, "transport", None)
        is_usable = (
            isinstance(transport, tcp)
            and all(hasattr(transport, name) for name in ("socket", "dataBuffer", "_tempDataBuffer"))
            and getattr(protocol, "_perMessageCompress", None) is None
            and hasattr(protocol, "closeHandshakeTimeout")
            and callable(getattr(protocol, "onCloseHandshakeTimeout", None))
        )
        return cls(protocol) if is_usable else None

    @property
    def lost(self) -> bool:
        return bool(self._protocol.state != self._protocol.STATE_OPEN)

    @property
    def has_unsent(self) -> bool:
        transport = self._transport
        return bool(transport.connected and (transport.dataBuffer or transport._tempDataBuffer))

    def opened(self, send_buffer: int) -> None:
        if self.lost:
            return
        if send_buffer:
            self._transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        # The HTTP channel that did the handshake is still registered, and would stop reading from a slow
        # client.
        self._transport.unregisterProducer()
        self._transport.registerProducer(self, streaming=True)

    def write(self, batch: Batch) -> None:
        # As `lost`, without the call: this runs once per delivery.
        if self._protocol.state != self._open_state:
            return
        transport, data = self._transport, batch.wire
        # Twisted's `write` waits for two changes to epoll and another turn of the loop: where nothing is queued,
        # the socket gets it at once. An error is left to Twisted, which meets it in its own write.
        if not transport.dataBuffer and not transport._tempDataBuffer:
            try:
                taken = transport.socket.send(data)
            except OSError:
                taken = 0
            if taken == len(data):
                return
            data = data[taken:]
        transport.write(data)

    def wait(self) -> None:
        """Nothing to do: Twisted calls `resumeProducing`."""

    def close(self, code: int, reason: str, grace: float) -> None:
        if not self.lost:
            # Autobahn resets a connection whose close handshake takes too long. Its own timer cuts the end to a
            # whole second, and so comes up to a second early: 0 switches it off, and ours calls the same.
            self._protocol.closeHandshakeTimeout = 0
            asyncio.get_running_loop().call_later(grace, self._protocol.onCloseHandshakeTimeout)
            # Not `sendClose`, which raises for the codes 1011 to 1013.
            self._protocol.sendCloseFrame(code=int(code), reasonUtf8=cut_reason(reason).encode())

    async def finish(self) -> None:
        """Nothing to wait for: the transport has the close frame."""

    # Twisted's IPushProducer

    def pauseProducing(self) -> None:  # noqa: N802
        self.paused = True

    def resumeProducing(self) -> None:  # noqa: N802
        self.paused = False
        self.on_resume()

    def stopProducing(self) -> None:  # noqa: N802
        self.paused = False
