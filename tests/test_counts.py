"""How many connections rooms have: over all processes, merged, and gone with the process."""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections import Counter

import pytest
import websockets

from rooms_app.counts import Listing, RoomCount, count_connections, list_rooms
from rooms_app.layers import RoomsRedisChannelLayer
from rooms_app.ledger import LEASE, Ledger, MemoryLedger, RedisLedger
from tests.clients import clients, the_hub
from tests.live import DemoServers, RedisServer, demo_servers


@pytest.fixture(params=["redis", "memory"])
def ledger(request: pytest.FixtureRequest) -> Ledger:
    """Each record in turn, on a prefix of its own."""
    if request.param == "memory":
        return MemoryLedger()
    server: RedisServer = request.getfixturevalue("redis_server")
    return RedisLedger(RoomsRedisChannelLayer(hosts=[server.url], prefix=f"test-{uuid.uuid4().hex[:8]}"))


def as_pairs(listing: Listing) -> list[tuple[str, int]]:
    return [(count.room, count.connections) for count in listing.rooms]


class TestLedger:
    """What each record does."""

    async def test_rooms_are_summed_over_processes(self, ledger: Ledger) -> None:
        await ledger.write("1-a/0", {"*": 3, "käse": 3, "a b": 1}, is_new=True)
        await ledger.write("2-b/0", {"*": 2, "käse": 2}, is_new=True)
        assert await ledger.count(["käse", "a b", "*", "nowhere"]) == {"käse": 5, "a b": 1, "*": 5, "nowhere": 0}

    async def test_what_is_written_again_counts_once(self, ledger: Ledger) -> None:
        """A write whose answer was lost is tried again."""
        for is_new in (True, False, False, True):
            assert await ledger.write("1-a/0", {"*": 3, "a": 3}, is_new=is_new) == 2
        assert await ledger.count(["a", "*"]) == {"a": 3, "*": 3}

    async def test_a_room_that_all_have_left_is_no_more(self, ledger: Ledger) -> None:
        await ledger.write("1-a/0", {"*": 1, "a": 1, "b": 1}, is_new=True)
        assert await ledger.write("1-a/0", {"a": 0}, is_new=False) == 2
        assert as_pairs(await ledger.list(match=None, offset=0, limit=9)) == [("b", 1)]

    async def test_who_is_not_known_has_to_tell_everything(self, ledger: Ledger) -> None:
        assert await ledger.write("1-a/0", {"a": 1}, is_new=False) == -1
        assert await ledger.count(["a"]) == {"a": 0}

    async def test_telling_everything_forgets_what_was(self, ledger: Ledger) -> None:
        await ledger.write("1-a/0", {"*": 2, "a": 2}, is_new=True)
        await ledger.write("1-a/0", {"*": 1, "b": 1}, is_new=True)
        assert await ledger.count(["a", "b", "*"]) == {"a": 0, "b": 1, "*": 1}

    async def test_a_process_that_says_goodbye_is_gone_at_once(self, ledger: Ledger) -> None:
        await ledger.write("1-a/0", {"*": 2, "a": 2}, is_new=True)
        await ledger.write("2-b/0", {"*": 1, "a": 1}, is_new=True)
        await ledger.forget("1-a/0")
        listing = await ledger.list(match=None, offset=0, limit=9)
        assert (as_pairs(listing), listing.connections) == ([("a", 1)], 1)
        assert [count.process for count in listing.processes] == ["2-b"]

    async def test_the_list_has_the_fullest_rooms_first_in_pages(self, ledger: Ledger) -> None:
        """Everyone's room is told as the number of connections, and not as a room."""
        await ledger.write("1-a/0", {"*": 9, "a": 1, "b": 9, "c": 5}, is_new=True)
        await ledger.write("1-a/1", {"*": 1, "d": 3}, is_new=True)
        listing = await ledger.list(match=None, offset=1, limit=2)
        assert as_pairs(listing) == [("c", 5), ("d", 3)]
        assert (listing.total_rooms, listing.connections) == (4, 10)
        (process,) = listing.processes
        assert (process.process, process.connections, process.rooms) == ("1-a", 10, 4)

    async def test_rooms_are_found_by_a_pattern(self, ledger: Ledger) -> None:
        await ledger.write("1-a/0", {"*": 4, "chat-1": 1, "chat-2": 3, "user-7": 4}, is_new=True)
        listing = await ledger.list(match="chat-*", offset=0, limit=1)
        assert (as_pairs(listing), listing.total_rooms) == ([("chat-2", 3)], 2)


class TestHub:
    """What a process writes."""

    @pytest.mark.usefixtures("layer")
    async def test_joins_and_leaves_are_counted(self) -> None:
        async with clients("/rooms/a,b", "/rooms/a") as (first, _):
            await until_counts({"a": 2, "b": 1, "*": 2})
            await first.disconnect()
            await until_counts({"a": 1, "b": 0, "*": 1})
        assert await count_connections(["a", "*"]) == {"a": 0, "*": 0}

    @pytest.mark.parametrize("layer", ["rooms"], indirect=True)
    @pytest.mark.usefixtures("layer")
    async def test_a_redis_that_forgot_is_told_again(self, redis_server: RedisServer) -> None:
        async with clients("/rooms/a", "/rooms/a"):
            await until_counts({"a": 2})
            redis_server.client.flushall()
            await until_counts({"a": 2})

    async def test_many_changes_are_one_write(self, own_redis: RedisServer, settings: object) -> None:
        """A thousand clients that come within a second."""
        from rooms_app.layers import channel_layer

        settings.CHANNEL_LAYERS = {"default": channel_layer("rooms", own_redis.url)}  # type: ignore[attr-defined]
        async with clients("/rooms/a"):
            await until_counts({"a": 1})
            before = scripts(own_redis)
            began = time.monotonic()
            async with clients(*["/rooms/a"] * 1_000):
                # One write a second, and what is looked at here.
                looks = await until_counts({"a": 1_001})
                assert scripts(own_redis) - before <= looks + (time.monotonic() - began) + 2
            assert the_hub().counts["tally_errors"] == 0

    async def test_what_is_left_of_a_big_process_is_taken_out_in_parts(self, redis_server: RedisServer) -> None:
        """2,000 rooms at a time, as Redis does nothing else meanwhile; what others have is never touched."""
        prefix, rooms = f"test-{uuid.uuid4().hex[:8]}", 45_000
        ledger = RedisLedger(RoomsRedisChannelLayer(hosts=[redis_server.url], prefix=prefix))
        for start in range(0, rooms, 1_000):
            await ledger.write(
                "1-big/0", {f"room-{number}": 2 for number in range(start, start + 1_000)}, is_new=not start
            )
        await ledger.write("2-other/0", {"room-0": 1, "only": 1}, is_new=True)
        redis_server.client.zadd(f"{prefix}:rooms:processes", {"1-big/0": 1})
        left = [(await ledger.list(match=None, offset=0, limit=1)).total_rooms]
        while redis_server.client.keys(f"{prefix}:rooms:gone*") and len(left) < 50:
            left.append((await ledger.list(match=None, offset=0, limit=1)).total_rooms)
        assert all(before - after <= 2_000 for before, after in itertools.pairwise([rooms + 1, *left]))
        assert as_pairs(await ledger.list(match=None, offset=0, limit=9)) == [("room-0", 1), ("only", 1)]

    async def test_a_room_of_100_000_is_counted_by_one_command(self, own_redis: RedisServer) -> None:
        """As is a page of rooms with their counts."""
        layer = RoomsRedisChannelLayer(hosts=[own_redis.url])
        ledger = RedisLedger(layer)
        own = {f"room-{number}": 1 for number in range(999)}
        for process in range(100):
            await ledger.write(f"{process}-a/0", {**own, "big": 1_000}, is_new=True)
        before = sent(own_redis)
        assert await ledger.count(["big"]) == {"big": 100_000}
        assert sent(own_redis) - before <= 2, "a script not known yet, and its text"
        before = sent(own_redis)
        listing = await ledger.list(match=None, offset=0, limit=50)
        assert (listing.rooms[0], len(listing.rooms)) == (RoomCount(room="big", connections=100_000), 50)
        assert sent(own_redis) - before == 1


def scripts(server: RedisServer) -> int:
    """How many scripts Redis has run."""
    stats: Counter[str] = Counter()
    for name, each in server.client.info("commandstats").items():
        stats[name] = each["calls"]
    return stats["cmdstat_evalsha"]


def sent(server: RedisServer) -> int:
    """How many commands Redis was sent, apart from INFO."""
    stats = server.client.info("commandstats")
    return sum(each["calls"] for name, each in stats.items() if name in ("cmdstat_evalsha", "cmdstat_eval"))


async def until_counts(expected: dict[str, int]) -> int:
    """Wait until the counts are these; how often they were looked at."""
    for look in range(1, 400):
        if await count_connections(list(expected)) == expected:
            return look
        await asyncio.sleep(0.02)
    raise AssertionError(f"{await list_rooms()} instead of {expected}")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> object:
    """Two processes, of which one is killed at the end."""
    with demo_servers("daphne", "uvicorn", directory=tmp_path_factory.mktemp("counts")) as servers:
        yield servers


@pytest.mark.slow
async def test_a_killed_process_is_gone_with_its_lease(demo: DemoServers) -> None:
    """Within the lease and a second, as the others see it; the survivors' connections stay counted."""
    layer = RoomsRedisChannelLayer(hosts=[demo.redis.url], prefix="rooms-demo")
    ledger = RedisLedger(layer)
    urls = [f"{url}/ws/lobby" for url in demo.ws_urls]
    async with websockets.connect(urls[0]), websockets.connect(urls[1]), websockets.connect(urls[1]):
        counted: dict[str, int] = {}

        async def has(number: int) -> bool:
            counted.update(await ledger.count(["lobby"]))
            return counted == {"lobby": number}

        await poll(has, 3, within=10)
        demo.servers[1].kill()
        await poll(has, 1, within=LEASE + 1)
        listing = await ledger.list(match=None, offset=0, limit=9)
        assert (len(listing.processes), listing.connections) == (1, 1)


async def poll(has: object, number: int, *, within: float) -> None:
    deadline = time.monotonic() + within
    while not await has(number):  # type: ignore[operator]
        assert time.monotonic() < deadline, f"not {number} after {within} s"
        await asyncio.sleep(0.05)
