"""Places in history: what an `id` on the wire is, and the stamp that an entry carries on the channel layer. Pure.

A cursor is epoch + id. Ids grow in the order of publishing, and mean something only within their epoch: a Redis that
lost data, or a replica that took over, begins a new one, so that nobody takes a gap for completeness.
"""

from __future__ import annotations

import re
import secrets
from typing import NamedTuple

#: What a stamped entry begins with: a byte that neither msgpack, JSON nor an encrypted payload begins with.
MARK = b"\xc1"

_STAMP = re.compile(rb"\xc1([a-z0-9]{1,32}):([0-9]{1,16}):[0-9]{1,16}\n")
_CURSOR = re.compile(r"([a-z0-9]{1,32})-([0-9]{1,16})")


class Cursor(NamedTuple):
    """A place in history; its text is the opaque `id` of a frame."""

    epoch: str
    id: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.id}"

    @classmethod
    def parse(cls, text: str) -> Cursor | None:
        """The cursor of a text, or None where it is none."""
        match = _CURSOR.fullmatch(text)
        return cls(match[1], int(match[2])) if match else None


class Entry(NamedTuple):
    """A message as it lies in history, and as it is published."""

    #: None where it was sent without history.
    cursor: Cursor | None
    #: The serialised message.
    payload: bytes


def new_epoch() -> str:
    """A random epoch."""
    return secrets.token_hex(5)


def unstamp(data: bytes) -> Entry:
    """An entry from what was published: stamped by us, or a stock layer's bare payload."""
    stamp = _STAMP.match(data)
    if stamp is None:
        return Entry(None, data)
    return Entry(Cursor(stamp[1].decode(), int(stamp[2])), data[stamp.end() :])
