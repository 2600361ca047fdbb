"""History on Redis: what a client that comes back is sent, or told."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from django.template import Context, Template

from rooms_app import WebSocketMessage, current_cursor, current_cursor_sync
from rooms_app.layers import channel_layer
from tests.app.messages import Note
from tests.clients import Client, clients, the_hub
from tests.live import RedisServer
from tests.redis_faults import server_binaries
from tests.waiting import until

LATEST = "?since=latest"


class LastNote(WebSocketMessage):
    """Kept for those who join later, and in no history."""

    MESSAGE_ID = "test.last_note"
    HISTORY = False
    RETAIN = True

    number: int


class PassingNote(WebSocketMessage):
    """Of no use a moment later."""

    MESSAGE_ID = "test.passing_note"
    VOLATILE = True

    number: int


@pytest.fixture(scope="module", params=dict(server_binaries()))
def redis_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Each Redis and Valkey of this machine in turn."""
    binary = dict(server_binaries())[request.param]
    server = RedisServer(tmp_path_factory.mktemp(request.param), binary=binary)
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture(autouse=True)
def history_layer(redis_server: RedisServer, settings: Any) -> None:
    """The layer with history, on a prefix of the test's own."""
    entry = channel_layer("rooms", redis_server.url, prefix=f"test-{uuid.uuid4().hex[:8]}")
    settings.CHANNEL_LAYERS = {"default": entry}


async def resumed(receiver: Client) -> dict[str, Any]:
    """The answer to `since`."""
    frame = await receiver.frame()
    assert frame["MESSAGE_ID"] == "sys.resumed", frame
    return frame


async def reset(receiver: Client) -> dict[str, Any]:
    """The one reset."""
    frame = await receiver.frame()
    assert frame["MESSAGE_ID"] == "sys.reset", frame
    return frame


async def come_and_go(url: str) -> str:
    """Connect for the first time and leave: the position it was told."""
    async with clients(url + LATEST) as (visitor,):
        return str((await resumed(visitor))["id"])


async def send(*numbers: int, room: str = "a") -> None:
    for number in numbers:
        assert await Note(number=number).send(room) == "sent"


async def test_a_first_connection_is_told_its_position_and_then_what_is_live() -> None:
    """`since=latest` is answered at once, and each frame has an id."""
    async with clients("/rooms/a" + LATEST) as (receiver,):
        answer = await resumed(receiver)
        assert answer["message"] == {"replayed": 0}
        await send(1)
        frame = await receiver.frame()
        assert frame["message"]["number"] == 1
        assert frame["id"].split("-")[0] == answer["id"].split("-")[0]
        assert frame["id"] > answer["id"]


async def test_who_comes_back_gets_what_she_missed_once_and_in_order() -> None:
    """From every room she is in, then `sys.resumed`, then what is live."""
    since = await come_and_go("/rooms/a,b")
    await send(1)
    await send(2, room="b")
    await Note(number=3).send("a", "b")
    await send(4, room="elsewhere")
    await Note(number=5).broadcast()
    async with clients(f"/rooms/a,b?since={since}") as (receiver,):
        frames = [await receiver.frame() for _ in range(4)]
        assert [(frame["message"]["number"], frame["room"]) for frame in frames] == [
            (1, "a"),
            (2, "b"),
            (3, "a"),
            (5, "*"),
        ]
        answer = await resumed(receiver)
        assert answer["message"] == {"replayed": 4}
        assert answer["id"] > frames[-1]["id"]
        await send(6)
        assert await receiver.numbers(1) == [6]
    async with clients(f"/rooms/a,b?since={frames[1]['id']}") as (receiver,):
        assert await receiver.numbers(3) == [3, 5, 6]
        await resumed(receiver)


async def test_an_accepted_endpoint_resumes_too() -> None:
    """The function form accepts first: what is live waits for the answer."""
    since = await come_and_go("/endpoint/a")
    await send(1, 2)
    async with clients(f"/endpoint/a?since={since}") as (receiver,):
        assert await receiver.numbers(2) == [1, 2]
        await resumed(receiver)


@pytest.mark.parametrize("since", ["garbage", "0000000000-1", "a-b-c"])
async def test_a_cursor_of_another_epoch_is_answered_by_one_reset(since: str) -> None:
    """And then comes what is live."""
    async with clients(f"/rooms/a?since={since}") as (receiver,):
        answer = await reset(receiver)
        assert answer["message"] == {"reason": "epoch"}
        await send(1)
        assert await receiver.numbers(1) == [1]
        assert await receiver.silent()
    async with clients(f"/rooms/a?since={answer['id']}") as (receiver,):
        assert await receiver.numbers(1) == [1]
        await resumed(receiver)


async def test_a_cursor_from_the_future_is_answered_by_a_reset() -> None:
    """It can only be forged, or of a Redis that lost its tail."""
    since = await come_and_go("/rooms/a")
    epoch, number = since.split("-")
    async with clients(f"/rooms/a?since={epoch}-{int(number) + 10**9}") as (receiver,):
        assert (await reset(receiver))["message"] == {"reason": "epoch"}


async def test_a_trimmed_history_is_one_reset_and_never_a_part_of_it(settings: Any) -> None:
    """Three are kept, four were missed."""
    settings.ROOMS = {"history": {"a": (3, 60)}}
    since = await come_and_go("/rooms/a")
    await send(1, 2, 3)
    async with clients(f"/rooms/a?since={since}") as (receiver,):
        assert await receiver.numbers(3) == [1, 2, 3]
    await send(4)
    async with clients(f"/rooms/a?since={since}") as (receiver,):
        assert (await reset(receiver))["message"] == {"reason": "trimmed"}
        await send(5)
        assert await receiver.numbers(1) == [5]
        assert await receiver.silent()


async def test_a_replay_longer_than_the_limit_is_a_reset(settings: Any) -> None:
    """Reloading is cheaper then."""
    settings.ROOMS = {"max_replay_messages": 2}
    since = await come_and_go("/rooms/a")
    await send(1, 2, 3)
    async with clients(f"/rooms/a?since={since}") as (receiver,):
        assert (await reset(receiver))["message"] == {"reason": "limit"}


async def test_a_quiet_room_is_no_reason_for_a_reset(settings: Any, redis_server: RedisServer) -> None:
    """Its stream has expired, but its last id tells that nothing came since."""
    settings.ROOMS = {"history": {"a": (10, 0.05)}}
    async with clients("/rooms/a" + LATEST) as (receiver,):
        await resumed(receiver)
        await send(1)
        since = (await receiver.frame())["id"]
    prefix = settings.CHANNEL_LAYERS["default"]["CONFIG"]["prefix"]
    await until(lambda: not redis_server.client.keys(f"{prefix}:rooms:stream:*a*"), what="the stream to expire")
    async with clients(f"/rooms/a?since={since}") as (receiver,):
        assert (await resumed(receiver))["message"] == {"replayed": 0}


async def test_a_replay_larger_than_the_bound_of_a_connection_completes(settings: Any) -> None:
    """It is paced by what the client takes."""
    settings.ROOMS = {"max_unsent_messages": 5}
    since = await come_and_go("/rooms/a")
    await send(*range(50))
    async with clients(f"/rooms/a?since={since}") as (receiver,):
        assert await receiver.numbers(50) == list(range(50))
        await resumed(receiver)


async def test_who_is_excluded_does_not_get_it_by_a_replay_either() -> None:
    """The id of a connection ends with it; the rest of the room's members get it."""
    since = await come_and_go("/rooms/a")
    async with clients("/rooms/a") as (_,):
        (other,) = the_hub().connections
        await Note(number=1).send("a", exclude=other.id)
    async with clients(f"/rooms/a?since={since}") as (receiver,):
        assert await receiver.numbers(1) == [1]


async def test_one_idempotency_key_is_one_message(request: pytest.FixtureRequest) -> None:
    """From async code and from sync code."""
    async with clients("/rooms/a" + LATEST) as (receiver,):
        since = (await resumed(receiver))["id"]
        for _ in range(3):
            assert await Note(number=1).send("a", idempotency_key="order-7") == "sent"
        await asyncio.to_thread(lambda: Note(number=2).send_sync("a", idempotency_key="order-7"))
        await Note(number=3).send("a", idempotency_key="order-8")
        assert await receiver.numbers(2) == [1, 3]
    async with clients(f"/rooms/a?since={since}") as (receiver,):
        assert await receiver.numbers(2) == [1, 3]


async def test_the_last_retained_message_is_sent_to_those_who_join() -> None:
    """To each once, before what is live; also where it is in no history."""
    await LastNote(number=1).send("a")
    await LastNote(number=2).send("a")
    async with clients("/rooms/a", "/rooms/b" + LATEST) as (first, other):
        frame = await first.frame()
        assert (frame["MESSAGE_ID"], frame["message"]) == ("test.last_note", {"number": 2})
        await resumed(other)
        await LastNote(number=3).send("a")
        assert await first.numbers(1) == [3]
        async with clients("/rooms/a" + LATEST) as (late,):
            assert await late.numbers(1) == [3]
            await resumed(late)


async def test_a_volatile_message_is_live_only() -> None:
    """No id, and no replay."""
    async with clients("/rooms/a" + LATEST) as (receiver,):
        since = (await resumed(receiver))["id"]
        await PassingNote(number=1).send("a")
        frame = await receiver.frame()
        assert frame["message"]["number"] == 1
        assert "id" not in frame
    async with clients(f"/rooms/a?since={since}") as (receiver,):
        assert (await resumed(receiver))["message"] == {"replayed": 0}


async def test_sync_sends_are_in_history_as_async_ones() -> None:
    """One script, two clients of Redis."""
    since = await come_and_go("/rooms/a")
    await asyncio.to_thread(lambda: [Note(number=number).send_sync("a") for number in (1, 2)])
    await send(3)
    async with clients(f"/rooms/a?since={since}") as (receiver,):
        assert await receiver.numbers(3) == [1, 2, 3]


async def test_a_lost_subscription_is_repaired_without_a_gap(redis_server: RedisServer) -> None:
    """What was published meanwhile arrives, in order and once."""
    async with clients("/rooms/a" + LATEST, "/rooms/a") as receivers:
        await resumed(receivers[0])
        for number in range(60):
            await send(number)
            if number % 10 == 5:
                redis_server.client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        for receiver in receivers:
            assert await receiver.numbers(60) == list(range(60))
        assert the_hub().counts["repairs"] > 0
        assert the_hub().counts["reset_events"] == the_hub().counts["resets"] == 0


async def test_flushall_is_one_reset_for_each_connection(own_redis: RedisServer, settings: Any) -> None:
    """Those who did not opt in are closed, to come back."""
    settings.CHANNEL_LAYERS = {"default": channel_layer("rooms", own_redis.url)}
    settings.ROOMS = {"heartbeat": 0.2}
    async with clients("/rooms/a" + LATEST, "/rooms/a" + LATEST, "/rooms/a") as (first, second, plain):
        await resumed(first)
        await resumed(second)
        own_redis.client.flushall()
        for receiver in (first, second):
            assert (await reset(receiver))["message"] == {"reason": "epoch"}
        assert await plain.closed() == 4010
        await send(1)
        for receiver in (first, second):
            assert await receiver.numbers(1) == [1]
            assert await receiver.silent()


async def test_a_cursor_taken_before_a_page_was_made_misses_nothing_after_it() -> None:
    """By the async form, the sync one, and the template tag."""
    await send(0)
    tag = Template("{% load rooms %}{% rooms_cursor %}")
    cursors = [
        await current_cursor(),
        await asyncio.to_thread(current_cursor_sync),
        await asyncio.to_thread(lambda: tag.render(Context())),
    ]
    await send(1)
    for cursor in cursors:
        async with clients(f"/rooms/a?since={cursor}") as (receiver,):
            assert await receiver.numbers(1) == [1]
            await resumed(receiver)


@pytest.mark.parametrize("junk", ["other:5:4\nx", ">x", "", "{epoch}:x", "{epoch}:5\nx"])
async def test_what_looks_like_ours_and_is_not_is_dropped(junk: str, redis_server: RedisServer, settings: Any) -> None:
    """Such as a message of an epoch before: at most one look at Redis, and live messages go on."""
    prefix = settings.CHANNEL_LAYERS["default"]["CONFIG"]["prefix"]
    async with clients("/rooms/a" + LATEST) as (receiver,):
        epoch = (await resumed(receiver))["id"].split("-")[0]
        redis_server.client.publish(f"{prefix}__group__room.a", b"\xc1" + junk.format(epoch=epoch).encode())
        for number in range(20):
            await send(number)
        assert await receiver.numbers(20) == list(range(20))
        assert the_hub().counts["repairs"] <= 1
        assert the_hub().counts["losses"] == 0
