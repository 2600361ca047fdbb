"""What is on the wire: a stamp of fixed size in a text of fixed size, so that a byte offset tells which frame it is.

All systems of a run send frames of one size. A stamp says which message of its room it is, and when it was sent, on
the machine's monotonic clock, which all processes share.
"""

from __future__ import annotations

import os
import re
import struct
import time

from rooms_app.cursor import new_epoch

#: The environment variable by which a scenario gives its workers another size.
TEXT_BYTES_VARIABLE = "BENCH_TEXT_BYTES"
SHORT_TEXT_BYTES = 200
#: A message with its envelope, in bytes: a line of a chat, as a rule. The frame is four more.
TEXT_BYTES = int(os.environ.get(TEXT_BYTES_VARIABLE, SHORT_TEXT_BYTES))
FRAME_BYTES = TEXT_BYTES + 4
HEADER = struct.pack("!BBH", 0x81, 126, TEXT_BYTES)

#: The most messages that one sender sends to a room in a run.
MOST_NUMBERS = 10**7
#: As long as the id of a frame.
_ID = f',"id":"{new_epoch()}-{time.time_ns() // 1000}"'
_STAMP = re.compile(rb"#(\d{9})@(\d{19})")


def room_name(index: int) -> str:
    """The names of a run's rooms, all of one length."""
    return f"bench-{index:05d}"


def stamp(number: int, *, sender: int = 0, overhead: int) -> str:
    """The content of a sender's message, now: `overhead` is what the system adds to it, in bytes."""
    return f"#{sender:02d}{number:07d}@{time.monotonic_ns():019d}".ljust(TEXT_BYTES - overhead, "x")


def read_stamp(text: bytes | bytearray | memoryview) -> tuple[int, int] | None:
    """The message's number, which begins with its sender's, and when it was sent, in ns; None without a stamp."""
    match = _STAMP.search(text)
    return (int(match[1]), int(match[2])) if match else None


def rooms_text(room: str, content: str) -> str:
    """The text that rooms_app sends for a `BenchMessage`; the floor sends the very same."""
    return f'{{"MESSAGE_ID":"bench.chat","message":{{"content":"{content}"}},"room":"{room}"}}'


def stock_text(content: str) -> str:
    """The text that the tutorial's consumer sends."""
    return f'{{"message": "{content}"}}'


def rooms_overhead(*, has_id: bool = False) -> int:
    """What rooms_app's envelope adds to a content, in bytes; with history also an id."""
    return len(rooms_text(room_name(0), "")) + (len(_ID) if has_id else 0)


def stock_overhead() -> int:
    """What the tutorial's JSON adds to a content, in bytes."""
    return len(stock_text(""))


def floor_record(room: str, text: str) -> bytes:
    """What the floor's publisher writes: a length, the room's name of fixed size, the text."""
    body = room.encode() + text.encode()
    return struct.pack("!I", len(body)) + body
