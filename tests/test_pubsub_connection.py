"""The subscribed connection, on a real Redis: what is confirmed, in what order things are told, and that a loss is."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest
import redis
from redis.asyncio import ConnectionPool

from rooms_app.layers.pubsub import Published, PubSubConnection
from rooms_app.layers.shard import RoomsShard
from tests.app.messages import Note
from tests.clients import clients, the_hub
from tests.conftest import use_layer
from tests.live import RedisServer
from tests.redis_faults import kill_pubsub
from tests.waiting import until


class Documented:
    """A connection of another redis-py than we know: only what it documents."""

    def __init__(self, connection: Any) -> None:
        self.connect = connection.connect
        self.disconnect = connection.disconnect
        self.read_response = connection.read_response
        self.send_packed_command = connection.send_packed_command


class Case:
    """A subscribed connection, what it told, and how often it said that it was lost."""

    def __init__(self, url: str, kind: str, **options: Any) -> None:
        # What was told came from one read.
        self.reads: list[list[Published]] = []
        self.losses = 0
        self.connection = PubSubConnection(on_published=self._published, on_lost=self._lost)
        options.setdefault("protocol", 3 if kind == "RESP3" else 2)
        made = ConnectionPool.from_url(url, **options).make_connection()
        self.owner: Any = Documented(made) if kind == "documented" else made

    @property
    def told(self) -> list[Published]:
        return [published for read in self.reads for published in read]

    async def open(self) -> PubSubConnection:
        await self.connection.open(self.owner)
        return self.connection

    def _published(self, published: Sequence[Published]) -> None:
        self.reads.append(list(published))

    def _lost(self, connection: PubSubConnection) -> None:
        assert connection is self.connection
        self.losses += 1


MakeCase = Callable[..., Awaitable[Case]]


@pytest.fixture(params=["RESP2", "RESP3", "documented"])
async def opened(request: pytest.FixtureRequest) -> AsyncIterator[MakeCase]:
    """Opens connections, by each way of reading; all are closed at the end."""
    cases = []

    async def open_case(server: RedisServer, **options: Any) -> Case:
        cases.append(case := Case(server.url, request.param, **options))
        await case.open()
        return case

    yield open_case
    for case in cases:
        case.connection.close()
        await case.connection.dispose()
    left = [task for task in asyncio.all_tasks() if task.get_name().startswith("rooms-")]
    if left:
        await asyncio.wait(left, timeout=5)
    assert all(task.done() for task in left)


async def test_a_subscription_that_is_confirmed_stands(opened: MakeCase, redis_server: RedisServer) -> None:
    """What is published from then on is told, in order; what is elsewhere is not."""
    case = await opened(redis_server)
    await case.connection.subscribe(["test-a", "test-ü"])
    publish = redis_server.client.publish
    assert [publish(channel, "x") for channel in ("test-a", "test-ü", "test-c")] == [1, 1, 0]
    publish("test-a", b"\xff\x00")
    await case.connection.ping()
    assert case.told == [(b"test-a", b"x"), ("test-ü".encode(), b"x"), (b"test-a", b"\xff\x00")]
    await case.connection.unsubscribe(["test-a"])
    assert publish("test-a", "y") == 0
    await case.connection.subscribe([])


async def test_thousands_of_channels_are_confirmed_in_a_few_commands(
    opened: MakeCase, redis_server: RedisServer
) -> None:
    """As after a lost connection of a large process."""
    case = await opened(redis_server)
    channels = [f"test-many-{number}" for number in range(2_500)]
    before = redis_server.client.info("commandstats").get("cmdstat_subscribe", {"calls": 0})["calls"]
    await case.connection.subscribe(channels)
    assert all(count == 1 for _, count in redis_server.client.pubsub_numsub(*channels))
    assert redis_server.client.info("commandstats")["cmdstat_subscribe"]["calls"] - before == 3
    await case.connection.unsubscribe(channels)
    assert redis_server.client.pubsub_channels("test-many-*") == []


async def test_a_pong_comes_after_all_that_was_published_before(opened: MakeCase, redis_server: RedisServer) -> None:
    """The position of a hub stands on it."""
    case = await opened(redis_server)
    await case.connection.subscribe(["test-a"])
    for start in range(0, 5_000, 1_000):
        with redis_server.client.pipeline(transaction=False) as pipeline:
            for number in range(start, start + 1_000):
                pipeline.publish("test-a", f"{number} {'x' * 100}")
            await asyncio.to_thread(pipeline.execute)
        await case.connection.ping()
        assert [int(data.split()[0]) for _, data in case.told] == list(range(start + 1_000))


async def test_pings_at_once_are_each_answered(opened: MakeCase, redis_server: RedisServer) -> None:
    """Beside subscriptions of one channel, which are confirmed each."""
    connection = (await opened(redis_server)).connection
    await connection.subscribe(["test-a"])
    asked = [connection.ping() for _ in range(50)] + [connection.subscribe(["test-b"]) for _ in range(5)]
    await asyncio.wait_for(asyncio.gather(*asked), 5)


async def test_a_connection_that_is_cut_says_so_once(opened: MakeCase, own_redis: RedisServer) -> None:
    """And is of no use from then on."""
    case = await opened(own_redis)
    await case.connection.subscribe(["test-a"])
    assert kill_pubsub(own_redis.client) == 1
    await until(lambda: case.losses, what="the loss")
    assert case.connection.is_lost
    for call in (case.connection.ping(), case.connection.subscribe(["test-b"])):
        with pytest.raises(ConnectionError):
            await call
    case.connection.close()
    await case.connection.dispose()
    assert case.losses == 1


async def test_a_loss_fails_those_who_wait(opened: MakeCase, own_redis: RedisServer) -> None:
    """Each of them, at once."""
    case = await opened(own_redis)
    await case.connection.subscribe(["test-a"])
    own_redis.signal(signal.SIGSTOP)
    waiting = [
        asyncio.ensure_future(call)
        for call in (case.connection.ping(), case.connection.ping(), case.connection.subscribe(["test-a", "test-b"]))
    ]
    await asyncio.sleep(0.1)
    assert not any(future.done() for future in waiting)
    own_redis.kill()
    failures = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 5)
    assert [type(failure) for failure in failures] == [ConnectionError] * 3
    assert case.losses == 1


async def test_closing_it_oneself_is_no_loss(opened: MakeCase, own_redis: RedisServer) -> None:
    """And Redis sees it gone."""
    case = await opened(own_redis)
    await case.connection.subscribe(["test-a"])
    case.connection.close()
    await case.connection.dispose()
    await until(lambda: not own_redis.client.pubsub_channels(), what="the subscription to end")
    assert case.losses == 0


async def test_silence_is_no_loss(opened: MakeCase, redis_server: RedisServer) -> None:
    """Commands have a timeout. Nobody may send anything for longer."""
    case = await opened(redis_server, socket_timeout=0.2)
    await case.connection.subscribe(["test-a"])
    await asyncio.sleep(0.6)
    redis_server.client.publish("test-a", "late")
    await case.connection.ping()
    assert case.told == [(b"test-a", b"late")]
    assert case.losses == 0


async def test_what_redis_refuses_is_said_and_breaks_nothing_else(opened: MakeCase, own_redis: RedisServer) -> None:
    """Managed servers give users some channels only."""
    own_redis.client.execute_command("ACL", "SETUSER", "some", "on", ">pw", "+@all", "~*", "resetchannels", "&ours-*")
    case = await opened(own_redis, username="some", password="pw")
    with pytest.raises(ConnectionError, match="permission"):
        await asyncio.wait_for(case.connection.subscribe(["theirs"]), 5)
    await case.connection.subscribe(["ours-a"])
    own_redis.client.publish("ours-a", "x")
    await case.connection.ping()
    assert case.told == [(b"ours-a", b"x")]
    assert case.losses == 0


def message(data: bytes) -> bytes:
    """What Redis writes for a message on channel a."""
    return b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$%d\r\n%s\r\n" % (len(data), data)


def test_what_one_read_brought_is_told_together() -> None:
    """A batch for the hub, however the bytes were cut."""
    case = Case("redis://localhost:1", "RESP2")
    stream = message(b"1") + message(b"2") + message(b"3\r\n") + message(b"4")
    case.connection.received(stream[:70])
    case.connection.received(stream[70:])
    assert [[data for _, data in read] for read in case.reads] == [[b"1", b"2"], [b"3\r\n", b"4"]]


def test_what_is_not_redis_s_protocol_is_a_loss() -> None:
    """Nothing after it could be trusted."""
    case = Case("redis://localhost:1", "RESP2")
    case.connection.received(message(b"1"))
    case.connection.received(b"HTTP/1.1 400\r\n")
    assert (case.told, case.losses) == ([(b"a", b"1")], 1)


@pytest.mark.parametrize("kind", ["RESP2", "documented"])
async def test_a_redis_that_is_not_there_is_an_error_and_no_loss(kind: str, own_redis: RedisServer) -> None:
    """There was nothing to lose."""
    own_redis.stop()
    case = Case(own_redis.url, kind)
    with pytest.raises(redis.ConnectionError):
        await case.open()
    case.connection.close()
    await case.connection.dispose()
    assert case.losses == 0


async def test_rooms_work_and_heal_with_another_redis_py(
    request: pytest.FixtureRequest, settings: Any, monkeypatch: pytest.MonkeyPatch, redis_server: RedisServer
) -> None:
    """By what it documents: messages arrive, and a lost connection is repaired."""
    make = RoomsShard._make_connection
    monkeypatch.setattr(RoomsShard, "_make_connection", lambda shard: Documented(make(shard)))
    use_layer("rooms", request, settings)
    async with clients("/rooms/a", "/rooms/a") as receivers:
        for number in range(100):
            await Note(number=number).send("a")
            if number == 50:
                kill_pubsub(redis_server.client)
        for receiver in receivers:
            assert await receiver.numbers(100) == list(range(100))
        assert the_hub().counts["repairs"] == 1
