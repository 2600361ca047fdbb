"""What arrived, checked exactly and cheaply: pure, so that it can be tested without a socket.

All connections of a room in one server process are due the same bytes. The first to receive a byte sets it down in
the room's reference; all others are compared with that, by memcmp. Only the reference, and a connection that
differs from it, are read frame by frame, at the end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from benchmarks.wire import FRAME_BYTES, HEADER, MOST_NUMBERS, TEXT_BYTES, read_stamp


@dataclass(slots=True)
class Tally:
    """What went wrong with deliveries, and how many there were."""

    delivered: int = 0
    lost: int = 0
    duplicated: int = 0
    out_of_order: int = 0
    #: Frames that are none of ours, such as a close frame, and what a connection ended in the middle of.
    malformed: int = 0

    def add(self, other: Tally, *, times: int = 1) -> None:
        """Count another tally in, for so many connections."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + times * getattr(other, name))

    @property
    def is_clean(self) -> bool:
        """Whether every message arrived once, in order, and nothing else did."""
        return not (self.lost or self.duplicated or self.out_of_order or self.malformed)


def audit(numbers: Sequence[int], due: int, senders: int = 1) -> Tally:
    """Compare what one connection received with what is due from each sender: 0 to `due` - 1, in order.

    Senders do not wait for each other, so there is no order between theirs.
    """
    by_sender: list[list[int]] = [[] for _ in range(senders)]
    total = Tally()
    for number in numbers:
        sender, own = divmod(number, MOST_NUMBERS)
        if sender < senders and own < due:
            by_sender[sender].append(own)
        else:
            total.malformed += 1
    for own_numbers in by_sender:
        total.add(_audit_one(own_numbers, due))
    return total


def _audit_one(numbers: Sequence[int], due: int) -> Tally:
    seen: set[int] = set()
    highest = -1
    out_of_order = 0
    for number in numbers:
        # A second copy is a duplicate, and no disorder besides.
        if number < highest and number not in seen:
            out_of_order += 1
        seen.add(number)
        highest = max(highest, number)
    return Tally(
        delivered=len(seen), lost=due - len(seen), duplicated=len(numbers) - len(seen), out_of_order=out_of_order
    )


def frames(data: bytes | bytearray) -> Iterator[tuple[int, int] | None]:
    """The stamps of a stream's frames; None for what is no frame of ours, and for a rest that is no whole frame."""
    position = 0
    while position < len(data):
        if data.startswith(HEADER, position) and len(data) - position >= FRAME_BYTES:
            yield read_stamp(data[position + FRAME_BYTES - TEXT_BYTES : position + FRAME_BYTES])
            position += FRAME_BYTES
        else:
            yield None
            length = data[position + 1] if len(data) > position + 1 else 127
            # A control frame, which is short, is skipped; of anything else the rest can't be read.
            position = position + 2 + length if length < 126 else len(data)


@dataclass(slots=True)
class Room:
    """The reference of one room: what every connection in it must receive."""

    bytes: bytearray = field(default_factory=bytearray)
    #: What was read: when, and which part of the stream that was.
    reads: list[tuple[int, int, int]] = field(default_factory=list)
    streams: list[Stream] = field(default_factory=list)

    def clear(self) -> None:
        """Forget a run, before the next."""
        self.bytes = bytearray()
        self.reads = []
        for stream in self.streams:
            stream.position = 0
            stream.own = None


@dataclass(slots=True)
class Stream:
    """One connection's part."""

    room: Room
    position: int = 0
    #: All that it received, once that differs from the reference.
    own: bytearray | None = None

    def take(self, chunk: memoryview, at: int) -> None:
        """Note what was read, and when, in ns."""
        start = self.position
        self.position = end = start + len(chunk)
        if self.own is not None:
            self.own += chunk
            return
        reference = self.room.bytes
        known = len(reference)
        if end <= known:
            is_same = reference.startswith(chunk, start)
        else:
            is_same = start == known or reference.startswith(chunk[: known - start], start)
            if is_same:
                reference += chunk[known - start :]
        if is_same:
            self.room.reads.append((at, start, end))
        else:
            self.own = reference[:start] + chunk


def check(room: Room, due: int, senders: int = 1) -> Tally:
    """What the connections of a room received of the messages due to each of them, so many from each sender."""
    total = Tally()
    followers = Counter(stream.position for stream in room.streams if stream.own is None)
    for position, connections in followers.items():
        total.add(_audit_bytes(room.bytes[:position], due, senders), times=connections)
    for stream in room.streams:
        if stream.own is not None:
            total.add(_audit_bytes(stream.own, due, senders))
    return total


def _audit_bytes(data: bytes | bytearray, due: int, senders: int) -> Tally:
    stamps = list(frames(data))
    tally = audit([stamp[0] for stamp in stamps if stamp is not None], due, senders)
    tally.malformed += stamps.count(None)
    return tally


def latencies(room: Room, *, stride: int = 1) -> tuple[list[int], int]:
    """Every `stride`-th delivery's latency and the greatest of all, in ns, of connections that follow the reference."""
    sent = [stamp[1] for stamp in frames(room.bytes) if stamp is not None]
    found: list[int] = []
    greatest = 0
    phase = 0
    for at, start, end in room.reads:
        first, last = start // FRAME_BYTES, min(end // FRAME_BYTES, len(sent))
        if first >= last:
            continue
        # Those read together arrived together: the first of them has waited longest.
        greatest = max(greatest, at - sent[first])
        found.extend(at - sent[index] for index in range(first + phase, last, stride))
        phase = (phase - (last - first)) % stride
    return found, greatest
