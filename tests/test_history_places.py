"""Places in history: what an `id` promises, whoever gets it, however far behind the fan-out is."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rooms_app import WebSocketMessage, use_ws_manager
from rooms_app.outflow import Outflow
from tests.app.messages import Note
from tests.clients import client, clients, the_hub
from tests.conftest import use_layer
from tests.histories import LATEST, Stop, come_and_go, id_of, next_of, resumed, send
from tests.waiting import until


class Headline(WebSocketMessage):
    """In history, and kept for those who join later."""

    MESSAGE_ID = "tests.headline"
    RETAIN = True

    number: int


@pytest.fixture(autouse=True)
def history_layer(request: pytest.FixtureRequest, settings: Any) -> None:
    """The layer with history; the hub looks for trouble by itself only once a minute."""
    use_layer("rooms", request, settings)
    settings.ROOMS = {"heartbeat": 60.0}


async def test_a_ping_never_takes_back_what_was_promised() -> None:
    """The hub has heard nothing since before its room was joined; the client has been told more by its replay."""
    async with clients("/rooms/elsewhere" + LATEST) as (other,):
        await resumed(other)
        since = await come_and_go("/rooms/a")
        await until(lambda: not the_hub().subscriptions.members("a"), what="the leave")
        await send(1)
        async with clients(f"/rooms/a?since={since}&ping=1") as (receiver,):
            assert await receiver.numbers(1) == [1]
            answer = await resumed(receiver)
            ping, numbers = await next_of(receiver, "sys.ping")
            assert numbers == []
            assert id_of(ping) >= id_of(answer)
        async with clients(f"/rooms/a?since={ping['id']}") as (receiver,):
            await resumed(receiver)


async def test_a_retained_message_is_no_place_to_go_on_from() -> None:
    """It is older than what its client has already: who comes back with the last id seen gets nothing twice."""
    await Headline(number=1).send("b")
    async with clients("/rooms/a" + LATEST) as (receiver,):
        await resumed(receiver)
        await send(2)
        last = (await receiver.frame())["id"]
        (connection,) = the_hub().connections
        await use_ws_manager().join(["b"], connection)
        frame = await receiver.frame()
        assert frame["message"]["number"] == 1
        last = frame.get("id", last)
    async with clients(f"/rooms/a?since={last}") as (receiver,):
        assert (await resumed(receiver))["message"] == {"replayed": 0}


@pytest.mark.parametrize("rooms", [["a", "loose"], ["loose", "a"]])
async def test_a_message_that_only_one_of_its_rooms_keeps_comes_once(rooms: list[str], settings: Any) -> None:
    """Live with the id that it has in that room, and never again by a replay."""
    settings.ROOMS = {"heartbeat": 60.0, "history": {"loose": (0, 0)}}
    since = await come_and_go("/rooms/a,loose")
    async with clients("/rooms/a,loose" + LATEST) as (receiver,):
        await resumed(receiver)
        await send(1, rooms=rooms)
        last = (await receiver.frame())["id"]
    async with clients(f"/rooms/a,loose?since={last}") as (receiver,):
        await resumed(receiver)
    async with clients(f"/rooms/a?since={since}") as (receiver,):
        assert await receiver.numbers(1) == [1]
        await resumed(receiver)


async def test_a_replay_and_a_fan_out_that_is_behind_it_bring_each_message_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What waits in the inbox has been read from history meanwhile."""
    since = await come_and_go("/rooms/a,b")
    async with clients("/rooms/a" + LATEST, "/rooms/b") as (live, other):
        await resumed(live)
        behind: list[Any] = []
        take = Outflow.take
        late = client(f"/rooms/a,b?since={since}")
        monkeypatch.setattr(Outflow, "take", lambda outflow, item: behind.append(item))
        await send(0, 1)
        await send(2, rooms=["a", "b"])
        joining = asyncio.create_task(late.open())
        await until(lambda: len(behind) == 4, what="the messages, and the join")
        await send(3, rooms=["b", "a"])
        monkeypatch.setattr(Outflow, "take", take)
        for item in behind:
            the_hub().take(item)
        await joining
        await send(4, rooms=["b", "a"])
        assert await live.numbers(5) == [0, 1, 2, 3, 4]
        assert await other.numbers(3) == [2, 3, 4]
        answer, numbers = await next_of(late, "sys.resumed")
        assert [*numbers, *(await late.numbers(5 - len(numbers)))] == [0, 1, 2, 3, 4]
        assert answer["message"]["replayed"] == len(numbers)
        assert await late.silent()
        await late.disconnect()


async def test_a_first_position_given_during_a_fan_out_covers_all_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes back with it gets exactly what she did not get."""
    async with clients("/rooms/a") as (live,):
        behind: list[Any] = []
        take = Outflow.take
        monkeypatch.setattr(Outflow, "take", lambda outflow, item: behind.append(item))
        await send(0, 1, 2)
        first = client("/rooms/a" + LATEST)
        joining = asyncio.create_task(first.open())
        await until(lambda: len(behind) > 3, what="the join")
        await send(3)
        await until(lambda: len(behind) > 4, what="the last")
        monkeypatch.setattr(Outflow, "take", take)
        for item in behind:
            the_hub().take(item)
        await joining
        answer, before = await next_of(first, "sys.resumed")
        after = await first.numbers(4 - len(before)) if 3 not in before else []
        assert [*before, *after][-1] == 3
        assert await live.numbers(4) == [0, 1, 2, 3]
        assert await first.silent()
        await first.disconnect()
    async with clients(f"/rooms/a?since={answer['id']}") as (back,):
        assert (await next_of(back, "sys.resumed"))[1] == after


async def test_what_is_retained_and_in_history_comes_once_to_who_resumes() -> None:
    """By the replay, where she missed it."""
    since = await come_and_go("/rooms/a")
    await Headline(number=1).send("a")
    async with clients(f"/rooms/a?since={since}") as (receiver,):
        _answer, numbers = await next_of(receiver, "sys.resumed")
        assert numbers == [1]
        await Headline(number=2).send("a")
        assert await receiver.numbers(1) == [2]
    async with clients("/rooms/a" + LATEST) as (receiver,):
        assert (await next_of(receiver, "sys.resumed"))[1] == [2]
    async with clients("/rooms/a?since=other-1") as (receiver,):
        assert (await next_of(receiver, "sys.reset"))[1] == [2]
        assert await receiver.silent()


async def test_a_room_joined_while_since_is_answered_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer covers the rooms of the first join; the other one's messages are live."""
    since = await come_and_go("/rooms/a")
    async with clients("/rooms/a,b") as (other,):
        stop = Stop("tick", monkeypatch)
        late = client(f"/rooms/a?since={since}")
        joining = asyncio.create_task(late.open())
        await stop.reached.wait()
        connection = next(each for each in the_hub().connections if each.options.since)
        await use_ws_manager().join(["b"], connection)
        await send(1, rooms=["b"])
        assert await other.numbers(1) == [1]
        stop.go_on()
        await joining
        _answer, numbers = await next_of(late, "sys.resumed")
        assert numbers or await late.numbers(1) == [1]
        await late.disconnect()


async def test_an_idempotency_key_used_again_has_no_place_of_its_own() -> None:
    """The second send is none, also for who resumes."""
    since = await come_and_go("/rooms/a")
    for _ in range(2):
        assert await Note(number=1).send("a", "a", idempotency_key="k") == "sent"
    async with clients(f"/rooms/a?since={since}") as (receiver,):
        assert (await next_of(receiver, "sys.resumed"))[1] == [1]
