"""WebSocket frames as a server sends them (RFC 6455, section 5.2): unmasked, unfragmented, uncompressed."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, Protocol

_FIN_TEXT = 0x81
_FIN_BINARY = 0x82

#: A close frame holds at most 125 bytes, two of which are the code.
_MAX_REASON_BYTES = 123


def frame(first_byte: int, payload: bytes) -> bytes:
    """One frame with its length in the shortest of the three forms."""
    size = len(payload)
    if size < 126:
        return bytes((first_byte, size)) + payload
    if size < 65_536:
        return struct.pack("!BBH", first_byte, 126, size) + payload
    return struct.pack("!BBQ", first_byte, 127, size) + payload


def cut_reason(reason: str) -> str:
    """As much of a close reason as its frame has room for."""
    return reason.encode()[:_MAX_REASON_BYTES].decode(errors="ignore")


class Batch:
    """Messages that go to a connection in one write, each made ready once for all connections that get it."""

    def __init__(self, payloads: Sequence[str | bytes], *, id: int = 0, is_volatile: bool = False) -> None:
        #: A text frame each, or a binary one where the payload is bytes.
        self.payloads = payloads
        #: The greatest place in history among them; 0 for none.
        self.id = id
        #: Whether a slow connection may go without it.
        self.is_volatile = is_volatile

    def __len__(self) -> int:
        return len(self.payloads)

    @cached_property
    def wire(self) -> bytes:
        """The frames, joined, as they go to a transport."""
        return b"".join(
            frame(_FIN_TEXT, payload.encode()) if isinstance(payload, str) else frame(_FIN_BINARY, payload)
            for payload in self.payloads
        )

    @cached_property
    def asgi(self) -> list[dict[str, Any]]:
        """The messages as they go to an ASGI `send`."""
        return [
            {"type": "websocket.send", "text": payload}
            if isinstance(payload, str)
            else {"type": "websocket.send", "bytes": payload}
            for payload in self.payloads
        ]

    @cached_property
    def size(self) -> int:
        """The payloads' bytes, for the bound of a connection that can't take them yet."""
        return sum(len(payload.encode()) if isinstance(payload, str) else len(payload) for payload in self.payloads)


class Sendable(Protocol):
    """What a batch is made of."""

    @property
    def data(self) -> str | bytes:
        """Text, or bytes for a binary frame."""

    @property
    def id(self) -> int:
        """Its place in history; 0 for none."""

    @property
    def is_volatile(self) -> bool:
        """Whether a slow connection may go without it."""


#: The most that one joined write holds, in bytes; a single message may be larger.
MAX_BATCH_BYTES = 256 * 1024


def batches(payloads: Iterable[Sendable]) -> Iterator[Batch]:
    """The payloads in order, in as few batches as the cap of one write, and what may be dropped, allow."""
    run: list[str | bytes] = []
    size = number = 0
    is_volatile = False
    for payload in payloads:
        if run and (size + len(payload.data) > MAX_BATCH_BYTES or payload.is_volatile != is_volatile):
            yield Batch(run, id=number, is_volatile=is_volatile)
            run, size, number = [], 0, 0
        run.append(payload.data)
        size += len(payload.data)
        number = payload.id or number
        is_volatile = payload.is_volatile
    if run:
        yield Batch(run, id=number, is_volatile=is_volatile)
