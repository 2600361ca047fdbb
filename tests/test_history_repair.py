"""A hub that lost its subscriptions: what was sent meanwhile, and whom it tells what it can't know."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rooms_app import WebSocketMessage
from rooms_app.feeds.reading import HistoryReader
from rooms_app.layers import channel_layer
from rooms_app.outflow import Outflow
from tests.clients import client, clients, the_hub
from tests.histories import (
    LATEST,
    Deafness,
    Stop,
    come_and_go,
    id_of,
    lost_subscription,
    next_of,
    reset,
    resumed,
    send,
)
from tests.live import RedisServer
from tests.redis_faults import kill_pubsub
from tests.waiting import until

NUMBERS = list(range(10))


class LastWord(WebSocketMessage):
    """Kept for those who join later, and in no history."""

    MESSAGE_ID = "tests.last_word"
    HISTORY = False
    RETAIN = True

    number: int


@pytest.fixture(autouse=True)
def history_layer(own_redis: RedisServer, settings: Any) -> None:
    """The layer with history on a Redis of the test's own; the hub looks for trouble by itself only once a minute."""
    settings.CHANNEL_LAYERS = {"default": channel_layer("rooms", own_redis.url)}
    settings.ROOMS = {"heartbeat": 60.0}


async def test_what_was_sent_while_the_subscription_was_lost_is_delivered(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order and once, also what comes while it is repaired, and to each room."""
    async with clients("/rooms/a" + LATEST, "/rooms/a,b", "/rooms/b") as (first, both, other):
        await resumed(first)
        async with lost_subscription(own_redis, monkeypatch):
            await send(*NUMBERS)
            await send(10, rooms=("b",))
            await send(11, rooms=("a", "b"))
        await send(12, rooms=("b", "a"))
        assert await first.numbers(12) == [*NUMBERS, 11, 12]
        assert await both.numbers(13) == [*NUMBERS, 10, 11, 12]
        assert await other.numbers(3) == [10, 11, 12]
        assert the_hub().counts["reset_events"] == the_hub().counts["resets"] == 0


@pytest.mark.parametrize("is_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("method", ["settle", "read"])
async def test_what_is_sent_during_a_repair_is_delivered(
    method: str, is_after: bool, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the repair stands; what it read already comes once."""
    async with clients("/rooms/a,b" + LATEST, "/rooms/b") as (both, other):
        await resumed(both)
        stop = Stop(method, monkeypatch, is_after=is_after)
        kill_pubsub(own_redis.client)
        await send(1)
        await stop.reached.wait()
        await send(2, rooms=("a", "b"))
        await send(3, rooms=("b",))
        stop.go_on()
        await send(4, rooms=("a", "b"))
        assert await both.numbers(4) == [1, 2, 3, 4]
        assert await other.numbers(3) == [2, 3, 4]
        assert await both.silent()


async def test_without_a_repair_there_is_a_gap(own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the other tests show is the repair's doing: a hub that goes on at once, reading nothing, misses some."""

    async def read_nothing(*args: Any) -> Any:
        return [], set()

    monkeypatch.setattr(HistoryReader, "read", read_nothing)
    async with clients("/rooms/a" + LATEST) as (receiver,):
        await resumed(receiver)
        async with lost_subscription(own_redis, monkeypatch):
            await send(1)
        await send(2)
        assert await receiver.numbers(1) == [2], "there was no gap to be repaired"


async def test_a_second_loss_during_a_repair(own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it has read, and after: the repair begins again, and nothing is missed or doubled."""
    async with clients("/rooms/a" + LATEST) as (receiver,):
        await resumed(receiver)
        for first, method in ((0, "settle"), (10, "read")):
            stop = Stop(method, monkeypatch, is_after=True)
            losses = the_hub().counts["losses"]
            kill_pubsub(own_redis.client)
            await send(*range(first, first + 5))
            await stop.reached.wait()
            assert kill_pubsub(own_redis.client) == 1
            await send(*range(first + 5, first + 10))
            await until(lambda losses=losses: the_hub().counts["losses"] == losses + 2, what="the second loss")  # type: ignore[misc]
            stop.go_on()
            assert await receiver.numbers(10) == list(range(first, first + 10))
        assert await receiver.silent()
        assert the_hub().counts["reset_events"] == the_hub().counts["resets"] == 0


async def test_more_than_can_be_held_is_read_instead(own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What arrives during a long repair takes no more memory than that."""
    monkeypatch.setattr("rooms_app.feeds.flow._MAX_HELD", 3)
    async with clients("/rooms/a,b" + LATEST) as (receiver,):
        await resumed(receiver)
        stop = Stop("settle", monkeypatch, is_after=True)
        kill_pubsub(own_redis.client)
        await stop.reached.wait()
        await send(*NUMBERS, rooms=("b", "a"))
        stop.go_on()
        await send(10)
        assert await receiver.numbers(11) == [*NUMBERS, 10]
        assert await receiver.silent()


async def test_a_repair_goes_on_after_an_error_that_nobody_foresaw(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hub that gave up would be silent for ever."""
    read, fails = HistoryReader.read, [True, True]

    async def fail_twice(*args: Any) -> Any:
        if fails:
            fails.pop()
            raise ValueError("unforeseen")
        return await read(*args)

    async with clients("/rooms/a" + LATEST) as (receiver,):
        await resumed(receiver)
        monkeypatch.setattr(HistoryReader, "read", fail_twice)
        async with lost_subscription(own_redis, monkeypatch):
            await send(1)
        assert await receiver.numbers(1) == [1]
        assert the_hub().counts["repair_errors"] == 2


async def test_a_room_joined_during_a_repair_waits_for_its_end(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And then misses nothing."""
    since = await come_and_go("/rooms/b")
    async with clients("/rooms/a") as (first,):
        late = client(f"/rooms/b?since={since}")
        async with lost_subscription(own_redis, monkeypatch):
            joining = asyncio.create_task(late.open())
            await until(lambda: the_hub().subscriptions.members("b"), what="the join")
            await send(1, rooms=("b", "a"))
            assert not joining.done()
        await joining
        await send(2, rooms=("b", "a"))
        assert await late.numbers(1) == [1]
        await resumed(late)
        assert await late.numbers(1) == [2]
        assert await first.numbers(2) == [1, 2]
        await late.disconnect()


@pytest.mark.parametrize("query", ["", LATEST])
async def test_a_repair_brings_nothing_from_before_a_room_was_joined(
    query: str, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's position may be older than that."""
    async with clients("/rooms/a"):
        await send(1, rooms=("b",))
        async with clients("/rooms/b" + query) as (receiver,):
            if query:
                await resumed(receiver)
            async with lost_subscription(own_redis, monkeypatch):
                await send(2, rooms=("b",))
            assert await receiver.numbers(1) == [2]
            assert await receiver.silent()


@pytest.mark.parametrize("query", ["", LATEST])
async def test_a_message_between_subscribing_and_its_confirmation_is_delivered(
    query: str, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis has the subscription, and the hub does not know it yet."""
    async with clients("/rooms/a"):
        deafness = Deafness(monkeypatch)
        receiver = client("/rooms/b" + query)
        joining = asyncio.create_task(receiver.open())
        await until(lambda: own_redis.client.pubsub_numsub("rooms__group__room.b")[0][1] == 1, what="the SUBSCRIBE")
        await send(1, rooms=("b",))
        assert not joining.done()
        deafness.end()
        await joining
        assert await receiver.numbers(1) == [1]
        if query:
            await resumed(receiver)
        await receiver.disconnect()


async def test_a_new_epoch_is_one_reset_for_each_connection(own_redis: RedisServer) -> None:
    """Seen by the first message after the loss; who did not opt in is closed, to come back."""
    async with clients("/rooms/a" + LATEST, "/rooms/a,b" + LATEST, "/rooms/b", "/rooms/c?ping=60") as receivers:
        first, both, plain, elsewhere = receivers
        for receiver in (first, both):
            await resumed(receiver)
        own_redis.client.flushall()
        await send(1)
        answers = [await reset(receiver, "epoch") for receiver in (first, both, elsewhere)]
        assert await plain.closed() == 4010
        assert len({answer["id"] for answer in answers}) == 1
        await send(2, rooms=("a", "b", "c"))
        for receiver in (first, both, elsewhere):
            frame, numbers = await next_of(receiver, "tests.note")
            assert (frame["message"]["number"], numbers) == (2, [])
            assert id_of(frame) > id_of(answers[0])
            assert await receiver.silent()


@pytest.mark.parametrize("rooms", ["a", "new"])
async def test_a_new_epoch_that_a_resume_meets_first(rooms: str, own_redis: RedisServer) -> None:
    """Exactly one reset for who resumes, and one for each of those who were there."""
    since = await come_and_go(f"/rooms/{rooms}")
    async with clients("/rooms/a" + LATEST, "/rooms/a") as (live, plain):
        await resumed(live)
        own_redis.client.flushall()
        async with clients(f"/rooms/{rooms}?since={since}") as (late,):
            for receiver in (late, live):
                await reset(receiver, "epoch")
            assert await plain.closed() == 4010
            await send(1, rooms=("a", "new"))
            for receiver in (late, live):
                assert await receiver.numbers(1) == [1]
                assert await receiver.silent()


async def test_a_resume_in_a_new_epoch_is_answered_once_though_the_fan_out_is_behind(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reset that the others get is still in the inbox when its own is due."""
    since = await come_and_go("/rooms/a")
    async with clients("/rooms/a" + LATEST) as (live,):
        await resumed(live)
        ticking = Stop("tick", monkeypatch)
        late = client(f"/rooms/a?since={since}")
        joining = asyncio.create_task(late.open())
        await ticking.reached.wait()
        behind: list[Any] = []
        take = Outflow.take
        monkeypatch.setattr(Outflow, "take", lambda outflow, item: behind.append(item))
        own_redis.client.flushall()
        ticking.go_on()
        await until(lambda: the_hub().counts["repairs"] == 1, what="the repair")
        # Time enough for its answer, if that did not wait.
        await asyncio.wait([joining], timeout=0.1)
        monkeypatch.setattr(Outflow, "take", take)
        for item in behind:
            the_hub().take(item)
        await joining
        await reset(live, "epoch")
        await reset(late, "epoch")
        await send(1)
        for receiver in (live, late):
            assert await receiver.numbers(1) == [1]
            assert await receiver.silent()
        await late.disconnect()


async def test_what_was_read_before_a_new_epoch_is_not_taken_for_the_answer(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is on its way when all others are told to reload; so is who asked for it."""
    since = await come_and_go("/rooms/a")
    await send(1)
    async with clients("/rooms/a" + LATEST) as (live,):
        await resumed(live)
        stop = Stop("read", monkeypatch, is_after=True)
        late = client(f"/rooms/a?since={since}")
        joining = asyncio.create_task(late.open())
        await stop.reached.wait()
        own_redis.client.flushall()
        await send(2)
        await reset(live, "epoch")
        stop.go_on()
        await joining
        await reset(late, "epoch")
        await send(3)
        assert await late.numbers(1) == [3]
        assert await late.silent()
        await late.disconnect()


async def test_what_was_read_before_a_room_was_trimmed_is_not_taken_for_the_answer(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    """The hub can't repair the room, and who resumes in it would miss what the hub misses."""
    settings.ROOMS = {"heartbeat": 60.0, "history": {"a": (3, 60)}}
    since = await come_and_go("/rooms/a")
    async with clients("/rooms/a" + LATEST) as (live,):
        await resumed(live)
        reading = Stop("read", monkeypatch, is_after=True)
        late = client(f"/rooms/a?since={since}")
        joining = asyncio.create_task(late.open())
        await reading.reached.wait()
        async with lost_subscription(own_redis, monkeypatch):
            await send(1, 2, 3, 4)
        await reset(live, "trimmed")
        reading.go_on()
        await joining
        await reset(late, "trimmed")
        await send(5)
        for receiver in (live, late):
            assert await receiver.numbers(1) == [5]
            assert await receiver.silent()
        await late.disconnect()


async def test_a_room_that_was_trimmed_during_the_loss(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    """Its connections are told once, with no part of a replay; those in other rooms get everything."""
    settings.ROOMS = {"heartbeat": 60.0, "history": {"a": (3, 60)}}
    urls = ["/rooms/a" + LATEST, "/rooms/a,b" + LATEST, "/rooms/b" + LATEST, "/rooms/a", "/rooms/b"]
    async with clients(*urls) as (trimmed, both, complete, plain_trimmed, plain_complete):
        for receiver in (trimmed, both, complete):
            await resumed(receiver)
        async with lost_subscription(own_redis, monkeypatch):
            await send(0, 1, rooms=("b",))
            await send(2, 3, 4, 5)
            await send(6, 7, rooms=("a", "b"))
            await send(8, rooms=("b",))
        await send(9, rooms=("a", "b"))
        for receiver in (trimmed, both):
            answer = await reset(receiver, "trimmed")
            frame = await receiver.frame()
            assert frame["message"]["number"] == 9
            assert id_of(frame) > id_of(answer)
            assert await receiver.silent()
        for receiver in (complete, plain_complete):
            assert await receiver.numbers(6) == [0, 1, 6, 7, 8, 9]
            assert await receiver.silent()
        assert await plain_trimmed.closed() == 4010
    async with clients(f"/rooms/a,b?since={answer['id']}") as (back,):
        assert await back.numbers(1) == [9]
        await resumed(back)


async def test_what_is_held_from_before_a_new_epoch_stops_nothing(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reset covers it, and one repair does."""
    async with clients("/rooms/a" + LATEST) as (live,):
        await resumed(live)
        stop = Stop("settle", monkeypatch)
        kill_pubsub(own_redis.client)
        await stop.reached.wait()
        await send(*NUMBERS)
        own_redis.client.flushall()
        await send(10)
        stop.go_on()
        await reset(live, "epoch")
        await send(11)
        assert await live.numbers(1) == [11]
        assert await live.silent()
        assert the_hub().counts["repairs"] == 1


async def test_retained_values_survive_a_loss(own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was set while the hub was deaf is shown to who joins after it; those who were there get what is live."""
    await LastWord(number=1).send("a")
    async with clients("/rooms/a,b") as (live,):
        assert await live.numbers(1) == [1]
        async with lost_subscription(own_redis, monkeypatch):
            await LastWord(number=2).send("a")
            await LastWord(number=3).send("b")
        for room, number in (("a", 2), ("b", 3)):
            async with clients(f"/rooms/{room}") as (late,):
                assert await late.numbers(1) == [number]
        own_redis.client.flushall()
        await send(4)
        assert await live.closed() == 4010
    async with clients("/rooms/a" + LATEST) as (late,):
        await resumed(late)


async def test_a_retained_value_that_changes_while_it_is_read_is_not_taken_back(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newer one is heard before the older one is read."""
    await LastWord(number=1).send("b")
    async with clients("/rooms/a"):
        stop = Stop("arrive", monkeypatch, is_after=True)
        joiner = client("/rooms/b")
        joining = asyncio.create_task(joiner.open())
        await stop.reached.wait()
        messages = the_hub().counts["messages"]
        await LastWord(number=2).send("b")
        await until(lambda: the_hub().counts["messages"] > messages, what="the newer one")
        stop.go_on()
        await joining
        async with clients("/rooms/b") as (late,):
            assert await late.numbers(1) == [2]
        numbers = [(await joiner.frame())["message"]["number"]]
        while not await joiner.receive_nothing(timeout=0.1):
            numbers.append((await joiner.frame())["message"]["number"])
        assert numbers[-1] == 2
        await joiner.disconnect()
