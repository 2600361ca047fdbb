"""Room names and the groups that carry them."""

from __future__ import annotations

import re
import uuid
from types import SimpleNamespace

import pytest
from channels.layers import BaseChannelLayer

from rooms_app import InvalidRoom, group_name, user_room
from rooms_app.rooms import check_rooms, is_reserved

ROOMS = [
    "chat-42",
    "a b",
    "комната",
    "🦊",
    "x" * 90,
    "x" * 91,
    "x" * 255,
    "١٢٣",
    "line\n",
    ".",
    "-",
    "room.a",
    "*",
    "a/b",
]


@pytest.mark.parametrize("room", ROOMS)
def test_a_group_s_name_is_valid_on_every_layer(room: str) -> None:
    """ASCII letters, digits, `-_.`, under 100 characters: as Channels asks, and no digits of other scripts."""
    name = group_name(room)
    assert BaseChannelLayer().require_valid_group_name(name)
    assert re.fullmatch(r"[A-Za-z0-9\-_.]{1,99}", name)


def test_two_rooms_never_share_a_group() -> None:
    """Neither readable with hashed ones, nor one that looks like a group's name."""
    rooms = {*ROOMS, *(group_name(room) for room in ROOMS), "room-a", "a"}
    assert len({group_name(room) for room in rooms}) == len(rooms)


def test_a_readable_room_has_a_readable_group() -> None:
    """So that `redis-cli` shows what is going on."""
    assert group_name("chat-42") == "room.chat-42"


@pytest.mark.parametrize("room", ["", "x" * 256, "\ud800", None, 7, b"bytes"])
def test_anything_else_is_no_room(room: object) -> None:
    """The error says what a room name is, and keeps what was given."""
    with pytest.raises(InvalidRoom) as error:
        group_name(room)  # type: ignore[arg-type]
    assert error.value.room == room


def test_a_bare_string_is_not_a_list_of_rooms() -> None:
    """It would be one room per letter."""
    with pytest.raises(TypeError, match=r"\['chat-42'\]"):
        check_rooms("chat-42")


def test_rooms_named_twice_count_once() -> None:
    """In the order they were first named."""
    assert check_rooms(["b", "a", "b"]) == ["b", "a"]


@pytest.mark.parametrize("pk", [7, uuid.UUID(int=1), "name"])
def test_a_user_s_room_is_made_of_her_primary_key(pk: object) -> None:
    """Of any type; and it is reserved."""
    room = user_room(SimpleNamespace(pk=pk))
    assert room == f"user-{pk}"
    assert is_reserved(room)


def test_an_unsaved_user_has_no_room() -> None:
    """All of them would share "user-None"."""
    with pytest.raises(InvalidRoom):
        user_room(SimpleNamespace(pk=None))
