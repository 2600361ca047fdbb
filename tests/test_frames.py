"""Frames and batches: their bytes, against another implementation and the RFC's own examples."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from rooms_app.fanout import Payload
from rooms_app.servers import Batch, batches
from rooms_app.servers.frames import MAX_BATCH_BYTES, cut_reason

PAYLOADS = st.lists(st.text(max_size=200) | st.binary(max_size=200), max_size=8)


def reference(payload: str | bytes) -> bytes:
    """The frame as the websockets library makes it."""
    if isinstance(payload, str):
        return Frame(Opcode.TEXT, payload.encode()).serialize(mask=False)
    return Frame(Opcode.BINARY, payload).serialize(mask=False)


def test_the_examples_of_the_rfc() -> None:
    """RFC 6455, section 5.7: unmasked text, 256 bytes of binary, and 64 KiB of binary."""
    assert Batch(["Hello"]).wire == bytes([0x81, 0x05, 0x48, 0x65, 0x6C, 0x6C, 0x6F])
    assert Batch([bytes(256)]).wire == bytes([0x82, 0x7E, 0x01, 0x00]) + bytes(256)
    assert Batch([bytes(65536)]).wire == bytes([0x82, 0x7F, 0, 0, 0, 0, 0, 1, 0, 0]) + bytes(65536)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 200_000])
def test_the_length_has_the_shortest_of_its_three_forms(size: int) -> None:
    """Also where the text is longer in bytes than in characters."""
    for payload in ("x" * size, b"\xff" * size, "ü" * (size // 2) + "x" * (size % 2)):
        batch = Batch([payload])
        assert batch.wire == reference(payload)
        assert batch.size == size


@given(PAYLOADS)
def test_a_batch_is_its_frames_joined_on_every_path(payloads: list[str | bytes]) -> None:
    """The wire's bytes and the ASGI messages say the same, in the same order."""
    batch = Batch(payloads)
    assert batch.wire == b"".join(map(reference, payloads))
    assert len(batch) == len(batch.asgi) == len(payloads)
    for payload, event in zip(payloads, batch.asgi, strict=True):
        key = "text" if isinstance(payload, str) else "bytes"
        assert event == {"type": "websocket.send", key: payload}
    assert batch.size == sum(len(p.encode()) if isinstance(p, str) else len(p) for p in payloads)


def test_a_batch_is_made_ready_once() -> None:
    """All connections of a room share its bytes."""
    batch = Batch(["a", b"b"])
    assert batch.wire is batch.wire
    assert batch.asgi is batch.asgi


@given(st.lists(st.integers(0, MAX_BATCH_BYTES + 1000), max_size=12))
def test_batches_keep_order_lose_nothing_and_stay_under_the_cap(sizes: list[int]) -> None:
    """A message that is larger than the cap goes alone."""
    payloads = [bytes(size) for size in sizes]
    made = list(batches(map(Payload, payloads)))
    assert [payload for batch in made for payload in batch.payloads] == payloads
    assert all(batch.size <= MAX_BATCH_BYTES or len([p for p in batch.payloads if p]) == 1 for batch in made)
    # As few as possible: no batch would have had room for the next one's first message.
    for batch, following in itertools.pairwise(made):
        assert batch.size + len(following.payloads[0]) > MAX_BATCH_BYTES


def test_what_fits_into_one_write_is_one_batch() -> None:
    """And nothing is none."""
    (batch,) = batches([Payload("a"), Payload("b")])
    assert batch.payloads == ["a", "b"]
    assert list(batches([])) == []


def test_a_batch_knows_the_last_place_in_history_among_its_frames() -> None:
    """A replay that covers it lets it be dropped as a whole; 0 is no place."""
    (batch,) = batches([Payload("a", 3), Payload("b", 5), Payload("raw")])
    assert batch.id == 5
    (batch,) = batches([Payload("raw")])
    assert batch.id == 0


def test_what_may_be_dropped_is_in_batches_of_its_own() -> None:
    """A slow connection goes without them, and not without their neighbours."""
    payloads = [Payload("a", 1), Payload("b", is_volatile=True), Payload("c", is_volatile=True), Payload("d", 2)]
    made = list(batches(payloads))
    assert [(batch.payloads, batch.is_volatile, batch.id) for batch in made] == [
        (["a"], False, 1),
        (["b", "c"], True, 0),
        (["d"], False, 2),
    ]


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("slow", "slow"),
        ("", ""),
        ("x" * 200, "x" * 123),
        ("ü" * 100, "ü" * 61),
        ("x" + "€" * 100, "x" + "€" * 40),
    ],
)
def test_a_close_reason_is_cut_between_characters(reason: str, expected: str) -> None:
    """A close frame holds 125 bytes; half a character would make it invalid."""
    assert cut_reason(reason) == expected
