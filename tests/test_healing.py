"""What a hub survives: lost groups, a Redis that goes and comes back, expiry, and many comings and goings."""

from __future__ import annotations

import asyncio
import logging
import random

import pytest
from channels.layers import get_channel_layer

from rooms_app import SendOutcome, use_ws_manager
from rooms_app.hub import hubs
from rooms_app.layers import channel_layer
from tests.app.messages import Note
from tests.clients import APPLICATION, Client, client, clients, the_hub
from tests.conftest import use_layer
from tests.live import RedisServer
from tests.waiting import until

REDIS_LAYERS = ("pubsub", "classic")


async def receives_again(receiver: Client, room: str, *, seconds: float = 20) -> None:
    """Send until a message arrives: what was sent before the hub was whole again may be lost on these layers."""
    async with asyncio.timeout(seconds):
        number = 0
        while True:
            number += 1
            await Note(number=number).send(room)
            if not await receiver.receive_nothing(timeout=0.1):
                await receiver.frame()
                break
    while not await receiver.receive_nothing(timeout=0.3):
        await receiver.frame()


def on_own_redis(kind: str, server: RedisServer, settings: object) -> None:
    settings.CHANNEL_LAYERS = {"default": channel_layer(kind, server.url)}  # type: ignore[attr-defined]
    settings.ROOMS = {"heartbeat": 0.3, "retry_after": 0.1}  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", REDIS_LAYERS)
async def test_a_restarted_redis_heals(kind: str, own_redis: RedisServer, settings: object) -> None:
    """Redis ends and comes back empty: members receive again, without any of them reconnecting."""
    on_own_redis(kind, own_redis, settings)
    async with clients("/rooms/a", "/rooms/b") as (first, second):
        await Note(number=1).send("a")
        assert await first.numbers(1) == [1]
        own_redis.stop()
        assert await Note(number=2).send("a") is SendOutcome.FAILED
        own_redis.restart()
        await receives_again(first, "a")
        await receives_again(second, "b")
        await use_ws_manager().join(["new"], next(iter(the_hub().connections)))
        await receives_again(first, "new")


@pytest.mark.parametrize("kind", REDIS_LAYERS)
async def test_a_connection_while_redis_is_away_is_told_to_come_back(
    kind: str, own_redis: RedisServer, settings: object
) -> None:
    """1013, "busy": and it leaves nothing behind."""
    on_own_redis(kind, own_redis, settings)
    own_redis.stop()
    receiver = client("/rooms/a")
    await receiver.open()
    assert await receiver.closed() == 1013
    await receiver.wait(timeout=5)
    assert hubs() == []


async def test_flushall_on_the_classic_layer_heals(own_redis: RedisServer, settings: object) -> None:
    """The layer's groups live in Redis: a probe that does not come back tells that they are gone."""
    on_own_redis("classic", own_redis, settings)
    async with clients("/rooms/a") as (receiver,):
        await receives_again(receiver, "a")
        own_redis.client.flushall()
        await receives_again(receiver, "a")
        assert the_hub().counts["rejoins"] >= 1


async def test_a_flushed_layer_heals(request: pytest.FixtureRequest, settings: object) -> None:
    """The pub/sub layer's `flush` even forgets the hub's channel."""
    settings.ROOMS = {"heartbeat": 0.3}  # type: ignore[attr-defined]
    use_layer("pubsub", request, settings)
    async with clients("/rooms/a") as (receiver,):
        await receives_again(receiver, "a")
        await get_channel_layer().flush()
        await receives_again(receiver, "a")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["memory", "classic"])
async def test_members_outlive_the_expiry_of_their_group(
    kind: str, request: pytest.FixtureRequest, settings: object
) -> None:
    """With `group_expiry=2` members still receive after 10 s: the hub joins again at a third of it."""
    use_layer(kind, request, settings, group_expiry=2)
    async with clients("/rooms/a") as (receiver,):
        for number in range(10):
            assert await receiver.receive_nothing(timeout=1)
            await Note(number=number).send("a")
            assert await receiver.numbers(1) == [number]


@pytest.mark.slow
async def test_an_idle_connection_survives(
    request: pytest.FixtureRequest, settings: object, caplog: pytest.LogCaptureFixture
) -> None:
    """20 s of silence on every Redis layer, though redis-py gives up on a socket after 5 s by default."""

    async def idle(kind: str) -> None:
        async with clients("/rooms/a") as (receiver,):
            assert await receiver.receive_nothing(timeout=20)
            await Note(number=1).send("a")
            assert await receiver.numbers(1) == [1]
            assert the_hub().counts["receive_errors"] == 0, kind

    for kind in REDIS_LAYERS:
        use_layer(kind, request, settings)
        await idle(kind)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.slow
@pytest.mark.usefixtures("layer")
async def test_ten_thousand_connects_and_disconnects_leave_nothing(request: pytest.FixtureRequest) -> None:
    """Neither the hub, nor the layer, nor Redis keeps anything of them; who stays misses nothing."""
    layer = get_channel_layer()
    rounds, at_once = 100, 100

    async def come_and_go(number: int) -> None:
        visitor = Client(APPLICATION, f"/rooms/r{number % 7}", headers=[(b"host", b"localhost")])
        assert (await visitor.connect(timeout=10))[0]
        await visitor.disconnect(timeout=10)

    async with clients("/rooms/stay") as (receiver,):
        hub = the_hub()
        for round_number in range(rounds):
            await asyncio.gather(*(come_and_go(number) for number in range(at_once)))
            await Note(number=round_number).send("stay")
        assert await receiver.numbers(rounds) == list(range(rounds))
        await until(lambda: len(list(hub.subscriptions)) == 2, what="only * and stay are left")
        assert len(hub.connections) == 1
    assert hubs() == []
    await assert_layer_is_empty(layer, request)


@pytest.mark.slow
@pytest.mark.usefixtures("layer")
async def test_ten_thousand_races_of_the_last_leave_and_the_first_join_lose_nobody(
    request: pytest.FixtureRequest,
) -> None:
    """Whoever has joined gets the next message, whatever left in the same moment."""
    manager = use_ws_manager()
    races, rooms, dice = 10_000, 20, random.Random(20)
    async with clients("/rooms/x", "/rooms/x") as receivers:
        hub = the_hub()
        pair = tuple(hub.connections)

        async def race(room: str, count: int) -> None:
            inside, outside = pair
            await manager.join([room], inside)
            for _ in range(count):
                await manager.leave([room], inside)
                # So that the join meets the leave at each of its steps.
                for _ in range(dice.randrange(6)):
                    await asyncio.sleep(0)
                await manager.join([room], outside)
                inside, outside = outside, inside
            await manager.leave([room], outside)

        await asyncio.gather(*(race(f"race-{number}", races // rooms) for number in range(rooms)))
        for number in range(rooms):
            await Note(number=number).send(f"race-{number}")
        # An even number of swaps: the first is inside again.
        assert sorted(await receivers[0].numbers(rooms)) == list(range(rooms))
        assert await receivers[1].silent()
    assert hubs() == []
    await assert_layer_is_empty(get_channel_layer(), request)


async def assert_layer_is_empty(layer: object, request: pytest.FixtureRequest) -> None:
    """Nothing of the test is left in the layer's own books, nor in Redis."""
    kind = request.node.callspec.params["layer"]
    if kind == "memory":
        assert layer.groups == {}  # type: ignore[attr-defined]
        assert layer.channels == {}  # type: ignore[attr-defined]
        return
    server: RedisServer = request.getfixturevalue("redis_server")
    if kind in ("pubsub", "rooms"):
        assert layer.groups == {}  # type: ignore[attr-defined]
        assert layer.channels == {}  # type: ignore[attr-defined]
        prefix = layer._kwargs["prefix"]  # type: ignore[attr-defined]
        await until(lambda: server.client.pubsub_channels(f"{prefix}*") == [], what="no subscription is left")
    else:
        assert layer.receive_buffer == {}  # type: ignore[attr-defined]
        prefix = layer.prefix  # type: ignore[attr-defined]
        keys = list(server.client.scan_iter(f"{prefix}*", count=1000))
        assert keys == []
