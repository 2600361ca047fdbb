"""Cursors and stamped entries: what goes out comes back, and nothing else is taken for one. Pure."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rooms_app.cursor import MARK, Cursor, Entry, new_epoch, unstamp

EPOCHS = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=32)
IDS = st.integers(0, 10**16 - 1)


@given(EPOCHS, IDS)
def test_a_cursor_is_its_text(epoch: str, number: int) -> None:
    """At most 64 characters: what `?since=` takes."""
    cursor = Cursor(epoch, number)
    assert Cursor.parse(str(cursor)) == cursor
    assert len(str(cursor)) <= 64


@pytest.mark.parametrize(
    "text",
    [
        *("", "latest", "-", "abc", "abc-", "-1", "abc-1-2", "a-b-1", "abc-1x", "abc--1", "abc-1.5"),
        *("ABC-1", "ä-1", "abc-\u0661", " abc-1", "abc-1 ", "abc-1\n", "a" * 33 + "-1", "abc-" + "1" * 17),
    ],
)
def test_another_text_is_no_cursor(text: str) -> None:
    """It is a client's to choose: it becomes a reset, not an error."""
    assert Cursor.parse(text) is None


@given(st.text())
def test_a_text_that_is_taken_is_what_its_cursor_says(text: str) -> None:
    """Up to zeros in front."""
    cursor = Cursor.parse(text)
    if cursor is not None:
        epoch, _, number = text.partition("-")
        assert cursor == Cursor(epoch, int(number))


def test_a_new_epoch_is_another_each_time_and_part_of_a_cursor() -> None:
    epochs = {new_epoch() for _ in range(100)}
    assert len(epochs) == 100
    assert all(Cursor.parse(f"{epoch}-1") for epoch in epochs)


@given(EPOCHS, IDS, IDS, st.binary())
def test_a_stamped_entry_gives_its_cursor_and_its_payload(epoch: str, id: int, previous: int, payload: bytes) -> None:
    """Also where the payload has line ends, colons and markers of its own."""
    stamped = MARK + f"{epoch}:{id}:{previous}\n".encode() + payload
    assert unstamp(stamped) == Entry(Cursor(epoch, id), payload)


@given(st.dictionaries(st.text(), st.text() | st.integers(0, 2**64 - 1)) | st.text() | st.binary())
def test_what_a_stock_layer_publishes_has_no_mark(message: object) -> None:
    """So that its sends arrive beside ours. 0xC1 is the one byte that msgpack never uses."""
    packed = msgpack.packb(message)
    assert unstamp(packed) == Entry(None, packed)


@pytest.mark.parametrize("data", [b"", MARK, MARK + b">x\ny", MARK + b"e:1\nx", MARK + b"e:x:1\ny", MARK + b"e:2:1"])
def test_what_is_no_stamp_is_an_entry_without_a_place(data: bytes) -> None:
    """Anyone may publish."""
    assert unstamp(data) == Entry(None, data)
