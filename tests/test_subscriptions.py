"""What joining costs Redis: as many subscriptions as rooms, and commands per process and room, not per client."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from rooms_app import use_ws_manager
from rooms_app.layers import channel_layer
from tests.app.messages import Note
from tests.clients import Client, clients, the_hub
from tests.live import RedisServer
from tests.waiting import until

pytestmark = pytest.mark.parametrize("kind", ["rooms", "pubsub"])


@pytest.fixture(autouse=True)
def layer(kind: str, settings: Any, own_redis: RedisServer) -> None:
    """The layer, on a Redis that nobody else uses; without the hub's regular look at the position."""
    settings.ROOMS = {"heartbeat": 3600}
    settings.CHANNEL_LAYERS = {"default": channel_layer(kind, own_redis.url)}


def subscriptions(server: RedisServer) -> int:
    """How many channels clients of this Redis are subscribed to, each counted."""
    return sum(count for _, count in server.client.pubsub_numsub(*server.client.pubsub_channels()))


#: What scripts call, which Redis counts too, what a client says of itself, and what the test asks.
UNCOUNTED = {
    *("time", "hmget", "hset", "zscore", "zadd", "zremrangebyscore", "del", "client|setinfo", "ping", "info"),
    *("hget", "hlen", "hdel", "zrem", "zrange", "zrangebyscore", "zincrby", "pexpire"),
}
#: What the first record of the counts costs, once a process: a script not known yet, and what it calls.
FIRST_RECORD = 3


def commands(server: RedisServer) -> Counter[str]:
    """How many commands Redis was sent, by name."""
    stats: dict[str, Any] = server.client.info("commandstats")
    calls = {name.removeprefix("cmdstat_"): each["calls"] for name, each in stats.items()}
    return Counter({name: count for name, count in calls.items() if name not in UNCOUNTED})


async def test_subscriptions_are_rooms_not_sockets(kind: str, own_redis: RedisServer) -> None:
    """The room of all counts as one; a stock layer has a channel of the process besides."""
    of_process = 0 if kind == "rooms" else 1
    async with clients("/rooms/a", "/rooms/a,b", "/rooms/b", "/endpoint/c") as receivers:
        expected = {"*", "a", "b", "c"}
        await until(lambda: {room.name for room in the_hub().subscriptions} == expected, what="the joins")
        await until(lambda: subscriptions(own_redis) == len(expected) + of_process, what="rooms")
        (connection, *_) = the_hub().connections
        await use_ws_manager().leave(["a"], connection)
        await Note(number=1).send("a")
        assert await receivers[1].numbers(1) == [1]
        assert subscriptions(own_redis) == len(expected) + of_process
        await receivers[3].disconnect()
        await until(lambda: subscriptions(own_redis) == len(expected) - 1 + of_process, what="c to be left")
    await until(lambda: subscriptions(own_redis) == 0, what="nothing to be left")


@pytest.mark.parametrize("url", ["/rooms/lobby", "/rooms/lobby?since=latest"])
async def test_a_thousand_clients_of_one_room_cost_redis_what_one_costs(url: str, own_redis: RedisServer) -> None:
    """A handful of commands, and none for the second thousand; the same when all leave."""
    async with clients(url) as (first,):
        await settled(first, url)
        before = commands(own_redis)
        async with clients(*[url] * 1_000) as others:
            for each in others:
                await settled(each, url)
            made = commands(own_redis) - before
            assert made.total() <= 5, made
            assert own_redis.client.pubsub_numsub(*own_redis.client.pubsub_channels("*lobby"))[0][1] == 1
            await Note(number=7).send("lobby")
            assert {await each.numbers(1) == [7] for each in others} == {True}
        left = commands(own_redis) - before - made
        assert left["unsubscribe"] == 0


async def test_the_first_clients_at_once_cost_a_handful(own_redis: RedisServer) -> None:
    """They wait for one subscription."""
    before = commands(own_redis)
    async with clients(*["/rooms/lobby"] * 1_000):
        made = commands(own_redis) - before
        assert 2 <= made.total() <= 10 + FIRST_RECORD, made


async def settled(receiver: Client, url: str) -> None:
    if "since" in url:
        assert (await receiver.frame())["MESSAGE_ID"] == "sys.resumed"
