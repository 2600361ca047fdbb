"""The TCP socket under an asyncio transport, of asyncio's own or of uvloop."""

from __future__ import annotations

import socket
import struct
from typing import Any

#: SO_LINGER on, 0 s: closing the socket sends RST and frees what the kernel still held.
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Tcp:
    """What can be done to a connection below its transport; nothing, once it has ended."""

    __slots__ = ("_socket", "_transport")

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        # Asked for now: a TLS transport that was closed raises AttributeError.
        self._socket = transport.get_extra_info("socket")

    def bound_send_buffer(self, size: int) -> None:
        """Have the kernel hold about so many bytes unsent; 0 leaves it to the kernel."""
        if size and self._is_open:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)

    def reset(self) -> None:
        """Drop what is unsent, and end the connection by a reset."""
        if self._is_open:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self._transport.abort()

    @property
    def _is_open(self) -> bool:
        return self._socket is not None and self._socket.fileno() >= 0
