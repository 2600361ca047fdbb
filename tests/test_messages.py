"""Message classes: their MESSAGE_IDs, their envelope, and what a send says of itself."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Generic, TypeVar

import pytest
from pydantic import ValidationError

from rooms_app import (
    InvalidRoom,
    MessageDefinitionError,
    MessageTooLarge,
    SendOutcome,
    UnknownMessage,
    WebSocketMessage,
)
from rooms_app.envelope import addressed, encode, parse, raw_broadcast, room_message
from rooms_app.registry import registry
from tests.app.messages import Note

T = TypeVar("T")


def test_messages_of_installed_apps_are_found() -> None:
    """Their `messages.py` is imported; a type is looked up by its MESSAGE_ID."""
    assert registry.get("tests.note") is Note
    assert registry.get("chat.message").__module__ == "project.messages"
    with pytest.raises(UnknownMessage, match=r"tests\.note"):
        registry.get("no.such")


@pytest.mark.parametrize("message_id", [None, "", 7, "x" * 101, "sys.hello", "tests.note"])
def test_a_message_id_that_is_missing_reserved_or_taken_is_an_error(message_id: object) -> None:
    """When the class is made, with its name in it."""
    namespace = {"__module__": "elsewhere", "MESSAGE_ID": message_id} if message_id is not None else {}
    with pytest.raises(MessageDefinitionError, match="Wrong"):
        type("Wrong", (WebSocketMessage,), namespace)


def test_a_subclass_needs_a_message_id_of_its_own() -> None:
    """Else a client could not tell the two; a base that is not sent says so."""
    with pytest.raises(MessageDefinitionError):

        class Longer(Note):
            more: int

    class Base(WebSocketMessage, abstract=True):
        at: datetime

    class Concrete(Base):
        MESSAGE_ID = "tests.concrete"

    assert registry.get("tests.concrete") is Concrete


def test_the_same_definition_again_replaces_the_one_before() -> None:
    """As a reload does."""

    def make() -> type[WebSocketMessage]:
        class Made(WebSocketMessage):
            MESSAGE_ID = "tests.made"

        return Made

    first, second = make(), make()
    assert registry.get("tests.made") is second is not first


def test_a_generic_message_is_entered_once() -> None:
    """Its parametrised forms are the same message on the wire."""

    class Box(WebSocketMessage, Generic[T]):
        MESSAGE_ID = "tests.box"
        value: T

    assert encode(Box[int](value=3)) == '{"MESSAGE_ID":"tests.box","message":{"value":3}}'
    assert registry.get("tests.box") is Box


def test_an_envelope_is_valid_json_whatever_is_in_it() -> None:
    """Quotes in names, infinities, times."""

    class Odd(WebSocketMessage):
        MESSAGE_ID = 'tests."odd"\\'
        at: datetime
        number: float

    text = encode(Odd(at=datetime(2026, 1, 2, tzinfo=UTC), number=math.inf))
    frame = json.loads(addressed(text, 'a "room"\u2028'))
    assert frame["MESSAGE_ID"] == 'tests."odd"\\'
    assert frame["room"] == 'a "room"\u2028'
    assert frame["message"] == {"at": "2026-01-02T00:00:00Z", "number": None}


@pytest.mark.parametrize("data", [b"text", "ü".encode(), b"\xff", b""])
def test_raw_bytes_survive_the_channel_layer(data: bytes) -> None:
    """As text, so that a layer with a JSON serializer takes them too."""
    event = json.loads(json.dumps(raw_broadcast(data)))
    received = parse(event)
    assert received is not None
    assert received.raw in (data, data.decode(errors="replace"))


def test_what_crosses_the_layer_is_as_documented() -> None:
    """`type`, `rooms`, `uid`, `text`; `exclude` only where one is left out."""
    message = room_message(["a", "b"], "{}", exclude=None)
    assert set(message) == {"type", "rooms", "uid", "text"}
    assert (message["type"], message["rooms"], message["text"]) == ("room.message", ["a", "b"], "{}")
    assert room_message(["a"], "{}")["uid"] != message["uid"]


async def test_bad_input_is_an_error_at_the_call() -> None:
    """It names the field or the limit, and nothing is sent."""
    with pytest.raises(ValidationError, match="number"):
        Note(number="seven")  # type: ignore[arg-type]
    with pytest.raises(InvalidRoom):
        await Note().send("a", "")
    with pytest.raises(MessageTooLarge, match="524,288"):
        await Note(text="x" * 600_000).send("a")


async def test_a_send_to_no_room_is_sent() -> None:
    """A list that happens to be empty is no error."""
    assert await Note().send() is SendOutcome.SENT
