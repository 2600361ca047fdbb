"""Redis stops, is killed, forgets, hangs or is replaced: every message arrives, or its loss is told once."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import RedisError

from rooms_app import provide_ws_manager
from rooms_app.layers import channel_layer
from rooms_app.manager import ChannelLayerManager
from tests.app.messages import Note
from tests.clients import Client, client, clients, the_hub
from tests.histories import LATEST, Sender, Stop, Story, come_and_go, next_of, reset, resumed, send
from tests.live import RedisServer
from tests.redis_faults import PersistentRedis, SentinelGroup, kill_pubsub, server_binaries
from tests.reply_dropper import ReplyDropper
from tests.waiting import until, wait_until

#: Quick to notice, and to try again.
ROOMS: dict[str, Any] = {"heartbeat": 0.2, "retry_after": 0.02}


@pytest.fixture(params=["plain", "encrypted"])
def config(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Options of the layer: what Redis sees is readable, or not."""
    return {"symmetric_encryption_keys": ["secret"]} if request.param == "encrypted" else {}


@pytest.fixture
def persistent(tmp_path: Path) -> Iterator[PersistentRedis]:
    """A Redis with an append-only file, synced each second."""
    server = PersistentRedis(tmp_path / "persistent")
    try:
        server.start()
        yield server
    finally:
        server.stop()


@contextlib.asynccontextmanager
async def two_clients(settings: Any, layer: dict[str, Any], **rooms: Any) -> AsyncIterator[tuple[Client, Client]]:
    """On this layer: one that opted in and is at its position, and one that knows nothing of history."""
    settings.CHANNEL_LAYERS = {"default": layer}
    settings.ROOMS = {**ROOMS, **rooms}
    with provide_ws_manager(ChannelLayerManager()):
        async with clients("/rooms/a,b" + LATEST, "/rooms/a") as (receiver, plain):
            await resumed(receiver)
            yield receiver, plain


@contextlib.asynccontextmanager
async def busy(sender: Sender, *, after: int = 20) -> AsyncIterator[None]:
    """Sends all the time while something happens inside, and until some more were taken after it."""
    is_over = asyncio.Event()

    async def go_on() -> None:
        while not is_over.is_set():
            await sender.send()
            await asyncio.sleep(0.002)
        await sender.until_sent(after)

    await sender.until_sent(after)
    sending = asyncio.create_task(go_on())
    try:
        yield
    except BaseException:
        sending.cancel()
        raise
    is_over.set()
    await sending


async def down_and_up(server: RedisServer, number: signal.Signals, *, between: Callable[[], None]) -> None:
    """End the server by this signal, and start it again."""

    server.signal(number)
    await asyncio.to_thread(server.wait)
    between()
    server.spawn()
    await asyncio.to_thread(wait_until, server._answers, what="Redis to be back")


def nothing() -> None:
    """Leave the data as they are."""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_a_redis_that_comes_back_with_its_data(
    number: signal.Signals, persistent: PersistentRedis, config: dict[str, Any], settings: Any
) -> None:
    """Stopped, everything arrives; killed, perhaps each connection is told once."""
    sender = Sender()
    async with two_clients(settings, channel_layer("rooms", persistent.url, **config)) as (receiver, plain):
        async with busy(sender):
            await down_and_up(persistent, number, between=nothing)
        assert sender.failed
        story = await Story.of(receiver, sender)
        if number == signal.SIGTERM or not story.resets:
            story.check(sender, resets=0)
            (await Story.of(plain, sender)).check(sender, resets=0)
        else:
            story.check(sender, resets=1)


async def test_an_append_only_file_that_lost_its_tail(persistent: PersistentRedis, settings: Any) -> None:
    """What a connected hub has seen is no more: one reset each, and then what is live."""
    sender = Sender()
    async with two_clients(settings, channel_layer("rooms", persistent.url)) as (receiver, plain):
        since = await come_and_go("/rooms/a")
        await sender.until_sent(5)
        persistent.back_up()
        async with busy(sender):
            await down_and_up(persistent, signal.SIGKILL, between=persistent.go_back)
        (await Story.of(receiver, sender)).check(sender, resets=1)
        assert await closed_after_all(plain) == 4010
        async with clients(f"/rooms/a?since={since}") as (late,):
            await reset(late, "epoch")
            assert await late.silent()


async def test_a_redis_that_comes_back_empty(own_redis: RedisServer, config: dict[str, Any], settings: Any) -> None:
    """One reset each, and then what is live."""
    sender = Sender("a", "b")
    async with two_clients(settings, channel_layer("rooms", own_redis.url, **config)) as (receiver, _):
        async with busy(sender):
            await down_and_up(own_redis, signal.SIGKILL, between=nothing)
        (await Story.of(receiver, sender)).check(sender, resets=1)


async def test_flushall_while_messages_are_sent(own_redis: RedisServer, config: dict[str, Any], settings: Any) -> None:
    """One reset each time for each connection, also for who comes back at that moment."""
    sender = Sender("b", "a")
    async with two_clients(settings, channel_layer("rooms", own_redis.url, **config)) as (receiver, _):
        since = await come_and_go("/rooms/a,b")
        for times in (1, 2):
            async with busy(sender):
                late = client(f"/rooms/a,b?since={since}")
                joining = asyncio.create_task(late.open())
                await asyncio.to_thread(own_redis.client.flushall)
                await joining
            story = await Story.of(late, sender)
            # Before its epoch ended it was sent all since then; or it came too late for that.
            assert len(story.resets) == 1
            assert story.numbers == sorted(set(story.numbers))
            sender.check(story.parts[-1], after=story.parts[-1][0])
            await late.disconnect()
            since = story.resets[0]["id"]
            live = await Story.of(receiver, sender)
            assert len(live.resets) == 1, times
            sender.check(live.parts[-1], after=live.parts[-1][0])


@contextlib.asynccontextmanager
async def sentinels(
    tmp_path: Path, settings: Any, **options: Any
) -> AsyncIterator[tuple[SentinelGroup, Client, Client]]:
    """A group, and clients on a layer that asks its sentinels for the master."""
    with SentinelGroup(tmp_path, **options) as group:
        layer = {"BACKEND": "rooms_app.layers.RoomsRedisChannelLayer", "CONFIG": {"hosts": group.hosts}}
        async with two_clients(settings, layer, send_timeout=1.0) as (receiver, plain):
            yield group, receiver, plain


async def closed_after_all(plain: Client) -> int:
    """The close code, behind whatever was sent before."""
    while (event := await plain.receive_output(5))["type"] != "websocket.close":
        pass
    return int(event["code"])


@pytest.mark.parametrize("binary", [pytest.param(program, id=name) for name, program in server_binaries()])
async def test_a_replica_that_lagged_behind_takes_over(binary: Path, tmp_path: Path, settings: Any) -> None:
    """It lacks what the dead master had last: one reset each, and later messages arrive."""
    sender = Sender()
    async with sentinels(tmp_path, settings, binary=binary) as (group, receiver, plain):
        await sender.until_sent(20)
        since = await come_and_go("/rooms/a")
        await asyncio.to_thread(group.freeze_replica)
        await sender.until_sent(20)
        await asyncio.to_thread(group.kill_master)
        group.thaw_replica()
        await asyncio.to_thread(group.wait_for_failover)
        await sender.until_sent(20)
        (await Story.of(receiver, sender)).check(sender, resets=1)
        assert await closed_after_all(plain) == 4010
        async with clients(f"/rooms/a?since={since}") as (late,):
            await reset(late, "epoch")
            await sender.until_sent(1)
            for each in (late, receiver):
                assert await each.numbers(1) == [sender.count - 1]
                assert await each.silent()


async def test_a_replica_that_seems_to_have_everything_takes_over(tmp_path: Path, settings: Any) -> None:
    """Nobody can know: one reset each all the same, and only one."""
    async with sentinels(tmp_path, settings) as (group, receiver, plain):
        await send(1)
        for each in (receiver, plain):
            assert await each.numbers(1) == [1]
        await asyncio.to_thread(group.master.client.wait, 1, 5_000)
        await asyncio.to_thread(group.kill_master)
        await asyncio.to_thread(group.wait_for_failover)
        await until(lambda: the_hub().counts["resets"], what="the reset")
        await reset(receiver, "epoch")
        assert await plain.closed() == 4010
        await Sender().until_sent(1)
        assert await receiver.numbers(1) == [0]
        assert await receiver.silent()


async def test_subscriptions_are_made_anew_where_commands_have_found_another_server(
    own_redis: RedisServer, tmp_path: Path, settings: Any
) -> None:
    """As after a takeover by name, where the old master lives on: the hub would go on hearing it, and nothing else."""
    other = RedisServer(tmp_path / "other")
    try:
        other.start()
        with ReplyDropper(own_redis) as proxy:
            async with two_clients(settings, channel_layer("rooms", proxy.url)) as (receiver, _):
                proxy.send_new_connections_to(other)
                own_redis.client.client_kill_filter(_type="normal", skipme=True)
                await reset(receiver, "epoch")
                await Sender().until_sent(1)
                assert await receiver.numbers(1) == [0]
                assert own_redis.client.pubsub_channels() == []
    finally:
        other.stop()


@pytest.mark.slow
async def test_a_master_that_wakes_up_after_another_took_over(tmp_path: Path, settings: Any) -> None:
    """For some seconds there are two; when one is left, each connection was told once, and later messages arrive."""
    sender = Sender()
    async with sentinels(tmp_path, settings) as (group, receiver, plain):
        async with busy(sender):
            group.master.signal(signal.SIGSTOP)
            await asyncio.to_thread(group.wait_for_failover)
            group.master.signal(signal.SIGCONT)
            await asyncio.to_thread(wait_until, lambda: is_replica(group.master), what="its demotion", timeout=30)
        # Its commands and its subscriptions may have gone to two servers: the next heartbeat tells.
        await until(lambda: the_hub().counts["resets"], what="the reset")
        await sender.until_sent(5)
        # While there were two, some went to the one that the hub did not hear: the reset stands for them.
        (await Story.of(receiver, sender)).check(sender, resets=1, is_split=True)
        assert await closed_after_all(plain) == 4010


def is_replica(server: RedisServer) -> bool:
    return str(server.client.info("replication")["role"]) == "slave"


@pytest.mark.parametrize("history", [(3, 60.0), (100, 0.1)], ids=["trimmed", "expired"])
async def test_what_history_has_lost_is_one_reset(
    history: tuple[int, float], own_redis: RedisServer, settings: Any
) -> None:
    """Never a part of a replay, also where the rest is still there."""
    async with two_clients(settings, channel_layer("rooms", own_redis.url), history={"a": history}):
        since = await come_and_go("/rooms/a,b")
        await send(1, rooms=["b"])
        await send(2)
        if history[1] < 1:
            await until(lambda: not own_redis.client.keys("*:stream:room.a"), what="the stream to expire")
            async with clients(f"/rooms/a,b?since={since}") as (late,):
                await reset(late, "trimmed")
                assert await late.silent()
        await send(3, 4, 5)
        async with clients(f"/rooms/a,b?since={since}", f"/rooms/b?since={since}") as (late, other):
            await reset(late, "trimmed")
            assert await other.numbers(1) == [1]
            await resumed(other)
            await send(6, rooms=["a", "b"])
            for each in (late, other):
                assert await each.numbers(1) == [6]
                assert await each.silent()


@pytest.mark.parametrize("is_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("method", ["tick", "read"])
async def test_what_is_sent_during_a_replay_comes_once(
    method: str,
    is_after: bool,
    own_redis: RedisServer,
    config: dict[str, Any],
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Wherever the replay stands: before or after its position is taken, or its messages are read."""
    async with two_clients(settings, channel_layer("rooms", own_redis.url, **config), heartbeat=60.0) as (live, _):
        since = await come_and_go("/rooms/a,b")
        await send(1)
        stop = Stop(method, monkeypatch, is_after=is_after)
        late = client(f"/rooms/a,b?since={since}")
        joining = asyncio.create_task(late.open())
        await stop.reached.wait()
        await send(2, rooms=["b", "a"])
        await send(3)
        assert await live.numbers(3) == [1, 2, 3]
        stop.go_on()
        await joining
        await send(4, rooms=["a", "b"])
        answer, numbers = await next_of(late, "sys.resumed")
        assert [*numbers, *await late.numbers(4 - len(numbers))] == [1, 2, 3, 4]
        assert answer["message"]["replayed"] == len(numbers)
        assert await late.silent()
        await late.disconnect()


@pytest.mark.parametrize("is_sync", [False, True], ids=["async", "sync"])
async def test_a_lost_reply_doubles_nothing(
    is_sync: bool, own_redis: RedisServer, config: dict[str, Any], settings: Any
) -> None:
    """Redis knows the send by its uid when it is tried again, and the sender hears that it was sent."""
    with ReplyDropper(own_redis) as proxy:
        layer = channel_layer("rooms", proxy.url, **config)
        async with two_clients(settings, layer, heartbeat=60.0) as (receiver, plain):
            since = await come_and_go("/rooms/a")
            for number in range(4):
                message = Note(number=number)
                if number != 2:
                    proxy.drop_next_reply(after=b":rooms:once:")
                outcome = await (asyncio.to_thread(message.send_sync, "b", "a") if is_sync else message.send("b", "a"))
                assert outcome == "sent"
            assert proxy.dropped == 3
            for each in (receiver, plain):
                assert await each.numbers(4) == [0, 1, 2, 3]
                assert await each.silent()
            async with clients(f"/rooms/a?since={since}") as (late,):
                assert (await next_of(late, "sys.resumed"))[1] == [0, 1, 2, 3]


@pytest.mark.parametrize("is_sync", [False, True], ids=["async", "sync"])
async def test_a_redis_that_is_busy_with_a_script(is_sync: bool, own_redis: RedisServer, settings: Any) -> None:
    """The sender hears `failed` in time; later sends work; what was refused comes once, or not at all."""
    own_redis.client.config_set("busy-reply-threshold", 1000)
    layer = channel_layer("rooms", own_redis.url)
    async with two_clients(settings, layer, send_timeout=0.3) as (receiver, plain):
        since = await come_and_go("/rooms/a")
        sender = Sender(is_sync=is_sync)
        await sender.until_sent(3)

        def loop_for_ever() -> None:
            with contextlib.suppress(RedisError):
                own_redis.client.eval("while true do end", 0)

        looping = asyncio.create_task(asyncio.to_thread(loop_for_ever))
        while not sender.failed:
            await sender.send()
        started = asyncio.get_running_loop().time()
        assert await sender.send() == "failed"
        assert asyncio.get_running_loop().time() - started < 1
        await until(lambda: kill_script(own_redis), what="the script to be killed")
        await looping
        await sender.until_sent(5)
        for each in (receiver, plain):
            (await Story.of(each, sender)).check(sender, resets=0)
        async with clients(f"/rooms/a?since={since}") as (late,):
            sender.check((await next_of(late, "sys.resumed"))[1])


def kill_script(server: RedisServer) -> bool:
    try:
        return bool(server.client.script_kill())
    except RedisError:
        return False


@pytest.mark.parametrize("seed", range(3))
async def test_a_storm(seed: int, own_redis: RedisServer, settings: Any) -> None:
    """Subscriptions cut while messages go to one and two rooms, and clients come and go: each gets all, once."""
    dice = random.Random(seed)
    senders = {rooms: Sender(*rooms) for rooms in [("a",), ("b",), ("a", "b"), ("b", "a")]}
    count = 0
    async with two_clients(settings, channel_layer("rooms", own_redis.url), heartbeat=0.05) as (live, _plain):
        since, missed = await come_and_go("/rooms/a,b"), 0
        for _ in range(300):
            await Note(number=count).send(*dice.choice(list(senders)))
            count += 1
            if dice.random() < 0.05:
                await asyncio.to_thread(kill_pubsub, own_redis.client)
            if dice.random() < 0.05:
                async with clients(f"/rooms/a,b?since={since}") as (late,):
                    answer, numbers = await next_of(late, "sys.resumed")
                    assert numbers == list(range(missed, missed + len(numbers)))
                    since, missed = answer["id"], missed + len(numbers)
        assert await live.numbers(count) == list(range(count))
        async with clients(f"/rooms/a,b?since={since}") as (late,):
            assert (await next_of(late, "sys.resumed"))[1] == list(range(missed, count))
        assert the_hub().counts["reset_events"] == the_hub().counts["resets"] == 0
        assert the_hub().counts["repairs"] > 0
