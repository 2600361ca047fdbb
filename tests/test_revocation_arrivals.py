"""Kicks and removals that come while a connection is on its way in: what it was asked for is true no more."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from django.contrib.auth.models import User

from rooms_app import CloseCode, Refused, RoomConsumer, RoomSocket, use_ws_manager, websocket_endpoint
from tests.app.messages import Note
from tests.clients import Client, client, clients, signed_in, the_hub
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("layer")

ANN = User(pk=7, username="ann")


class Door:
    """Where those who may come in are looked up, which takes until the door is opened."""

    def __init__(self) -> None:
        self.members = {"a", "slow"}
        self.asked = asyncio.Event()
        self.opened = asyncio.Event()

    async def admits(self, room: str) -> bool:
        is_member = room in self.members
        if room == "slow":
            self.asked.set()
            await self.opened.wait()
        return is_member


door: Door


class Guarded(RoomConsumer):
    async def get_rooms(self) -> list[str]:
        return ["a", "slow"]

    async def can_join(self, room: str) -> bool:
        return await door.admits(room)


@websocket_endpoint("endpoint")
async def endpoint(websocket: RoomSocket) -> None:
    await websocket.accept()
    await use_ws_manager().add_websocket(websocket)
    if await door.admits("a") and await door.admits("slow"):
        await use_ws_manager().join(["a", "slow"], websocket)
    await websocket.wait_closed()


FORMS = ("class", "function")


@pytest.fixture(autouse=True)
async def _closed_door() -> None:
    global door
    door = Door()


def application(form: str) -> Any:
    return signed_in(Guarded if form == "class" else endpoint, ANN)


@contextlib.asynccontextmanager
async def arriving(form: str) -> AsyncIterator[Client]:
    """A client of Ann's that has been let into one of its rooms, and is asked for the other."""
    arriving = client("/", application=application(form))
    opening = asyncio.create_task(arriving.open())
    try:
        await asyncio.wait_for(door.asked.wait(), 5)
        yield arriving
    finally:
        door.opened.set()
        await opening
        await arriving.disconnect(timeout=10)


async def heard(orders: int = 1) -> None:
    await until(lambda: len(the_hub().roster._told_to_go) == orders, what="the orders to be heard")


@pytest.mark.parametrize("form", FORMS)
async def test_who_is_taken_out_of_a_room_on_her_way_into_it_comes_again(form: str) -> None:
    """Then it is looked again whether she may; here she may not."""
    async with clients("/rooms/a") as (other,):
        async with arriving(form) as ann:
            door.members.discard("a")
            await use_ws_manager().remove_user(ANN, "a")
            await heard()
            door.opened.set()
            assert await ann.closed() == 4011
        await Note(number=1).send("a")
        assert await other.numbers(1) == [1]


async def test_a_room_of_a_later_call_is_no_exception() -> None:
    """As long as the connection is not accepted."""

    @websocket_endpoint("endpoint")
    async def step_by_step(websocket: RoomSocket) -> None:
        await use_ws_manager().join(["a"], websocket)
        if await door.admits("slow"):
            await use_ws_manager().join(["slow"], websocket)
        await websocket.accept()
        await websocket.wait_closed()

    async with clients("/rooms/a"):
        ann = client("/", application=signed_in(step_by_step, ANN))
        opening = asyncio.create_task(ann.open())
        await asyncio.wait_for(door.asked.wait(), 5)
        await use_ws_manager().remove_user(ANN, "slow")
        await heard()
        door.opened.set()
        await opening
        assert await ann.closed() == 4011
        await ann.disconnect(timeout=10)


@pytest.mark.parametrize("form", FORMS)
async def test_who_is_kicked_on_her_way_in_is_out(form: str) -> None:
    """As if she had been there."""
    async with clients("/rooms/a"), arriving(form) as ann:
        await use_ws_manager().disconnect_user(ANN)
        await heard()
        door.opened.set()
        assert await ann.closed() == 4503


async def test_the_first_connection_of_a_process_is_asked_for_again() -> None:
    """Nobody in the process could hear of it: it listens from the first connection on. She gets nothing of the room."""
    async with arriving("class") as ann:
        door.members.discard("a")
        await use_ws_manager().remove_user(ANN, "a")
        door.opened.set()
        assert await ann.closed() == 4507


async def test_who_is_refused_after_she_has_joined_gets_nothing_of_the_room() -> None:
    """It came while she was asked for."""

    @websocket_endpoint("endpoint")
    async def too_early(websocket: RoomSocket) -> None:
        await use_ws_manager().join(["a"], websocket)
        await door.admits("slow")
        raise Refused(CloseCode.FORBIDDEN_ROOM)

    async with clients("/rooms/a") as (other,):
        ann = client("/", application=signed_in(too_early, ANN))
        opening = asyncio.create_task(ann.open())
        await asyncio.wait_for(door.asked.wait(), 5)
        await Note(number=1).send("a")
        assert await other.numbers(1) == [1]
        door.opened.set()
        await opening
        assert await ann.closed() == 4507
        await ann.disconnect(timeout=10)


async def test_who_comes_after_it_is_let_in() -> None:
    """She was asked for after it: who was kicked or removed may have been let in again."""
    door.opened.set()
    async with clients("/rooms/a") as (other,):
        await use_ws_manager().remove_user(ANN, "a")
        await use_ws_manager().disconnect_user(ANN)
        await heard(orders=2)
        async with clients("/", application=application("class")) as (ann,):
            await Note(number=1).send("a")
            assert await ann.numbers(1) == await other.numbers(1) == [1]


async def test_who_is_in_another_room_may_be_put_back_at_once() -> None:
    """Her connection is not on its way in."""
    door.opened.set()
    async with clients("/", application=application("class")) as (ann,):
        await use_ws_manager().remove_user(ANN, "a")
        (connection,) = the_hub().connections
        await until(lambda: "a" not in connection.rooms, what="ann to be out of a")
        await use_ws_manager().join(["a"], connection)
        await Note(number=1).send("a")
        assert await ann.numbers(1) == [1]
