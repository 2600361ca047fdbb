"""What can be done to the TCP socket under an asyncio transport, of asyncio's own or of uvloop."""

from __future__ import annotations

import socket
import struct
from typing import Any

#: SO_LINGER on, 0 s: closing the socket sends RST and frees what the kernel still held.
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def bound_send_buffer(transport: Any, size: int) -> None:
    """Have the kernel hold about so many bytes unsent; 0 leaves it to the kernel."""
    connection = _open_socket(transport)
    if size and connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)


def reset(transport: Any) -> None:
    """Drop what is unsent and end the connection by a reset; nothing where it has ended."""
    connection = _open_socket(transport)
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        transport.abort()


def _open_socket(transport: Any) -> Any:
    connection = transport.get_extra_info("socket")
    return connection if connection is not None and connection.fileno() >= 0 else None
