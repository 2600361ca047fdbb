"""Who gets what of a batch: order, unions, exclusions. Pure: no loop, no layer."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rooms_app.cursor import Cursor
from rooms_app.envelope import Received
from rooms_app.fanout import Payload, plan


@dataclass(frozen=True)
class Member:
    """A connection, as far as the plan needs it."""

    id: str


A, B, C = (Member(name) for name in "abc")


def message(number: int, *rooms: str, exclude: str | None = None, **kept: Any) -> Received:
    """A typed message with a number."""
    return Received(list(rooms), f'{{"n":{number}}}', None, None, exclude, **kept)


def raw(payload: str | bytes, *rooms: str) -> Received:
    """A message that goes out as it is."""
    return Received(list(rooms), None, payload, None, None)


def delivered(messages: list[Received], rooms: Mapping[str, Collection[Member]]) -> dict[str, list[Payload]]:
    """What each connection gets, in order, by its id."""
    inboxes: dict[str, list[Payload]] = {}
    for connections, payloads in plan(messages, lambda room: rooms.get(room, ())):
        for connection in connections:
            assert connection.id not in inboxes, "one write for each connection"
            inboxes[connection.id] = list(payloads)
    return inboxes


def numbers(inboxes: Mapping[str, list[Payload]]) -> dict[str, list[tuple[int, str]]]:
    """Number and room of each message that was delivered."""
    decoded = {id: [json.loads(payload.data) for payload in payloads] for id, payloads in inboxes.items()}
    return {id: [(each["n"], each["room"]) for each in envelopes] for id, envelopes in decoded.items()}


def test_a_room_gets_its_messages_in_order() -> None:
    rooms = {"r": [A, B]}
    inboxes = delivered([message(n, "r") for n in range(5)], rooms)
    assert numbers(inboxes) == {id: [(n, "r") for n in range(5)] for id in "ab"}


def test_disjoint_rooms_get_one_delivery_each() -> None:
    """As many deliveries as rooms, however many connections: that is what makes a batch cheap."""
    rooms = {"r": {A: None, B: None}, "s": {C: None}}
    messages = [message(1, "r"), message(2, "s"), message(3, "r")]
    deliveries = list(plan(messages, rooms.__getitem__))
    assert [connections for connections, _ in deliveries] == [rooms["r"], rooms["s"]]
    assert numbers(delivered(messages, rooms)) == {
        "a": [(1, "r"), (3, "r")],
        "b": [(1, "r"), (3, "r")],
        "c": [(2, "s")],
    }


def test_a_connection_in_two_rooms_of_a_batch_gets_both_in_the_order_they_were_sent() -> None:
    """Not room by room."""
    rooms = {"r": [A, B], "s": [B, C]}
    inboxes = delivered([message(1, "r"), message(2, "s"), message(3, "r"), message(4, "s")], rooms)
    assert numbers(inboxes) == {
        "a": [(1, "r"), (3, "r")],
        "b": [(1, "r"), (2, "s"), (3, "r"), (4, "s")],
        "c": [(2, "s"), (4, "s")],
    }


def test_a_message_to_several_rooms_reaches_their_union_once() -> None:
    """Each connection through the first of the rooms that it is in."""
    inboxes = delivered([message(1, "s", "r", "unknown")], {"r": [A, B], "s": [B, C]})
    assert numbers(inboxes) == {"a": [(1, "r")], "b": [(1, "s")], "c": [(1, "s")]}


def test_a_room_that_is_named_twice_gets_it_once() -> None:
    assert numbers(delivered([message(1, "r", "r")], {"r": [A]})) == {"a": [(1, "r")]}


def test_exclude_leaves_out_one_connection_of_one_message() -> None:
    """Its neighbours in the batch still reach it."""
    messages = [message(1, "r"), message(2, "r", exclude="a"), message(3, "r", exclude="nobody")]
    inboxes = delivered(messages, {"r": [A, B]})
    assert numbers(inboxes) == {"a": [(1, "r"), (3, "r")], "b": [(1, "r"), (2, "r"), (3, "r")]}


def test_equal_texts_of_two_messages_are_two() -> None:
    """Also for connections that get different parts of a batch."""
    messages = [message(1, "r"), message(1, "r", exclude="a")]
    assert numbers(delivered(messages, {"r": [A, B]})) == {"a": [(1, "r")], "b": [(1, "r"), (1, "r")]}


def test_a_payload_is_made_once_per_message_and_room() -> None:
    """Those who get the same share one list of the same objects: one `Batch`, encoded once."""
    rooms = {"r": [A, B], "s": [C]}
    deliveries = [each for each in plan([message(1, "r", "s"), message(2, "r", "s")], rooms.__getitem__) if each[0]]
    assert [list(connections) for connections, _ in deliveries] == [[A, B], [C]]
    shared = [(message(1, "r", exclude="c")), message(2, "r")]
    first, second = [payloads for connections, payloads in plan(shared, lambda _: [A, C]) if connections]
    assert first[1] is second[0]


@pytest.mark.parametrize("payload", ["as it is", b"\xff\x00", "", b""])
def test_raw_payloads_go_out_as_they_are(payload: str | bytes) -> None:
    assert delivered([raw(payload, "*")], {"*": [A]}) == {"a": [Payload(payload)]}
    assert delivered([raw(payload, "*", "r")], {"*": [A], "r": [A]}) == {"a": [Payload(payload)]}


def test_a_payload_knows_its_place_in_history_and_whether_it_may_be_dropped() -> None:
    """The frame says the place to the client, the number beside it to the connection's guard."""
    messages = [message(1, "r", cursor=Cursor("e", 7)), message(2, "r", is_volatile=True)]
    for rooms in ({"r": [A]}, {"r": [A, B]}):
        for payloads in delivered(messages, rooms).values():
            assert payloads == [
                Payload('{"n":1,"room":"r","id":"e-7"}', 7),
                Payload('{"n":2,"room":"r"}', 0, is_volatile=True),
            ]


def test_a_room_without_members_is_no_error() -> None:
    assert delivered([message(1, "empty")], {}) == {}
    assert delivered([message(1, "empty", "r")], {"r": [A]}).keys() == {"a"}
    assert delivered([], {}) == {}


def test_there_is_a_place_to_pause_in_a_batch_of_many_rooms() -> None:
    """The hub gives the loop back there: an empty delivery for each room looked at."""
    rooms = {str(n): [A] for n in range(50)}
    empty = [each for each in plan([message(n, str(n)) for n in range(50)], rooms.__getitem__) if not each[0]]
    assert len(empty) == 50


ROOM_NAMES = st.sampled_from(["r", "s", "t", "u"])
MESSAGES = st.lists(
    st.tuples(st.lists(ROOM_NAMES, min_size=1, max_size=3), st.sampled_from([None, "0", "3"])), max_size=12
)
ROOMS = st.dictionaries(ROOM_NAMES, st.sets(st.integers(0, 5)))


@given(MESSAGES, ROOMS)
def test_a_plan_is_what_one_by_one_would_be(
    sent: list[tuple[list[str], str | None]], rooms: dict[str, set[int]]
) -> None:
    """Every connection gets every message of its rooms, once, in order, through the first room it is in."""
    members = {room: [Member(str(number)) for number in sorted(ids)] for room, ids in rooms.items()}
    messages = [message(n, *names, exclude=exclude) for n, (names, exclude) in enumerate(sent)]
    expected: dict[str, list[tuple[int, str]]] = {}
    for number, (names, exclude) in enumerate(sent):
        for id in {id for name in names for id in rooms.get(name, ())}:
            if str(id) != exclude:
                first = next(name for name in names if id in rooms.get(name, ()))
                expected.setdefault(str(id), []).append((number, first))
    assert numbers(delivered(messages, members)) == expected
