"""The record of who is in which room: the same in Redis and in memory, and what rooms are told by it."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from rooms_app import envelope
from rooms_app.cursor import unstamp
from rooms_app.layers import RoomsRedisChannelLayer
from rooms_app.ledger import RedisLedger
from rooms_app.members import Member
from rooms_app.rooms import group_name
from rooms_app.whereabouts import Exit, MemoryWhereabouts, RedisWhereabouts, RoomMember, Whereabouts, whereabouts_for
from tests.live import RedisServer

ONE, TWO = "1-a/0", "2-b/0"
#: A grace that is not over within a test.
LONG = 60.0


class Record:
    """A record with two processes, and what rooms were told by it."""

    def __init__(self, store: Whereabouts, told: Callable[[str], list[dict[str, Any]]]) -> None:
        self.store = store
        self._told = told
        self._read: dict[str, int] = {}

    async def enter(self, process: str, *members: str, room: str = "a") -> bool:
        return await self.store.enter(process, [entry(name, room) for name in members])

    async def exit(self, process: str, *members: str, room: str = "a", grace: float = 0.0) -> None:
        await self.store.exit(process, [Exit(room=room, id=f"id-{name}", grace=grace) for name in members])

    async def settle(self, process: str) -> int | None:
        """Until nothing is left."""
        while (settled := await self.store.settle(process)).has_more:
            pass
        return settled.on_record

    async def names(self, room: str = "a") -> list[str]:
        roll = await self.store.read(room)
        assert roll.count == len(roll.members)
        return [member.name for member in roll.members]

    def told(self, room: str = "a") -> list[tuple[str, list[str]]]:
        """What the room was told since this was last asked: joined or left, and the names."""
        messages = self._told(room)
        news = messages[self._read.get(room, 0) :]
        self._read[room] = len(messages)
        kinds = [(each["MESSAGE_ID"].removeprefix("presence."), each["message"]["members"]) for each in news]
        return [(kind, [member["name"] for member in members]) for kind, members in kinds]


def entry(name: str, room: str = "a") -> RoomMember:
    return RoomMember(room=room, member=Member(id=f"id-{name}", name=name))


@pytest.fixture(params=["redis", "memory"])
async def record(request: pytest.FixtureRequest) -> Record:
    """Each record in turn, with two processes on it that have nobody yet."""
    if request.param == "memory":
        events: list[dict[str, Any]] = []
        memory = MemoryWhereabouts()
        memory.announce = events.append
        made = Record(memory, lambda room: [parsed(event) for event in events if event["rooms"] == [room]])
    else:
        made = redis_record(request.getfixturevalue("redis_server"))
        layer = layer_of(made)
        for process in (ONE, TWO):
            await RedisLedger(layer).write(process, {"*": 1}, is_new=True)
    for process in (ONE, TWO):
        assert await made.store.enter(process, [], before_due=0.0)
    return made


def layer_of(record: Record) -> RoomsRedisChannelLayer:
    assert isinstance(record.store, RedisWhereabouts)
    return record.store._layer


def redis_record(server: RedisServer) -> Record:
    layer = RoomsRedisChannelLayer(hosts=[server.url], prefix=f"test-{uuid.uuid4().hex[:8]}")

    def told(room: str) -> list[dict[str, Any]]:
        rows = server.client.xrange(layer.calls._stream(group_name(room)))
        return [parsed(layer.deserialize(unstamp(row[b"m"]).payload)) for _, row in rows]

    return Record(whereabouts_for(layer), told)


def parsed(event: dict[str, Any]) -> dict[str, Any]:
    received = envelope.parse(event)
    assert received is not None and received.text is not None
    message: dict[str, Any] = json.loads(received.text)
    return message


class TestRecord:
    """What each record does."""

    async def test_a_room_is_told_once_of_who_is_new(self, record: Record) -> None:
        """Also where her second process tells, or the same one again because its answer was lost."""
        assert await record.enter(ONE, "bob", "ann")
        assert await record.enter(ONE, "bob", "ann")
        assert await record.enter(TWO, "ann")
        assert record.told() == [("joined", ["ann", "bob"])]
        assert await record.names() == ["ann", "bob"]

    async def test_who_is_on_another_process_stays(self, record: Record) -> None:
        await record.enter(ONE, "ann")
        await record.enter(TWO, "ann")
        await record.exit(ONE, "ann")
        assert (await record.settle(TWO), await record.names()) == (1, ["ann"])
        await record.exit(TWO, "ann")
        assert await record.names() == []
        assert (await record.settle(TWO), await record.settle(ONE)) == (0, 0)
        assert record.told() == [("joined", ["ann"]), ("left", ["ann"])]

    async def test_within_her_grace_she_is_still_there(self, record: Record) -> None:
        """And nobody hears of it when she comes back, by whichever process."""
        await record.enter(ONE, "ann")
        await record.exit(ONE, "ann", grace=LONG)
        await record.settle(TWO)
        assert await record.names() == ["ann"]
        await record.enter(TWO, "ann")
        await record.exit(ONE, "ann")
        await record.settle(TWO)
        assert record.told() == [("joined", ["ann"])]

    async def test_who_leaves_at_once_within_her_grace_is_gone(self, record: Record) -> None:
        """A kick after the connection was lost; a later grace does not bring her back."""
        await record.enter(ONE, "ann")
        await record.exit(ONE, "ann", grace=LONG)
        await record.exit(ONE, "ann", grace=0.0)
        await record.exit(ONE, "ann", grace=LONG)
        await record.settle(ONE)
        assert (await record.names(), record.told()[1:]) == ([], [("left", ["ann"])])

    async def test_who_comes_back_before_the_room_is_told_is_told_of_again(self, record: Record) -> None:
        """Readers saw her gone already: the state that a client was sent lacks her."""
        await record.enter(ONE, "ann")
        await record.exit(ONE, "ann")
        assert await record.names() == []
        await record.enter(TWO, "ann")
        await record.settle(ONE)
        assert await record.names() == ["ann"]
        assert record.told() == [("joined", ["ann"])] * 2

    async def test_two_that_look_at_once_tell_once(self, record: Record) -> None:
        """Each of some members, whoever was first."""
        names = [f"n{number}" for number in range(300)]
        await record.enter(ONE, *names)
        await record.exit(ONE, *names)
        await asyncio.gather(*(record.settle(process) for process in (ONE, TWO) * 3))
        told = [name for kind, part in record.told() if kind == "left" for name in part]
        assert sorted(told) == sorted(names)

    async def test_two_that_bring_the_same_at_once_tell_once(self, record: Record) -> None:
        await asyncio.gather(record.enter(ONE, "ann", "bob"), record.enter(TWO, "bob", "cay"))
        told = [name for kind, part in record.told() if kind == "joined" for name in part]
        assert sorted(told) == ["ann", "bob", "cay"]

    async def test_who_is_not_known_has_to_tell_everything(self, record: Record) -> None:
        assert not await record.enter("3-c/0", "ann")
        assert await record.settle("3-c/0") is None
        assert (await record.names(), record.told()) == ([], [])

    async def test_what_is_not_told_again_is_due(self, record: Record) -> None:
        """And what is told again stays, silently."""
        await record.enter(ONE, "ann", "bob", "cay")
        assert await record.store.enter(ONE, [entry("bob"), entry("cay")], before_due=LONG)
        assert (await record.settle(ONE), await record.names()) == (2, ["ann", "bob", "cay"])
        assert await record.store.enter(ONE, [entry("cay")], before_due=0.0)
        assert (await record.settle(ONE), await record.names()) == (1, ["ann", "cay"])
        assert record.told()[1:] == [("left", ["bob"])]

    async def test_a_process_that_says_goodbye_leaves_with_the_grace(self, record: Record) -> None:
        await record.enter(ONE, "ann", "bob")
        await record.enter(TWO, "bob")
        await record.store.forget(ONE, grace=0.0)
        assert (await record.settle(TWO), await record.names()) == (1, ["bob"])
        assert record.told()[1:] == [("left", ["ann"])]
        await record.store.forget(TWO, grace=LONG)
        assert await record.names() == ["bob"]

    async def test_who_takes_over_gives_the_grace(self, record: Record) -> None:
        """What became of the process before is no concern of hers any more."""
        await record.enter(ONE, "ann")
        await record.store.forget(ONE, grace=0.0)
        await record.enter(TWO, "ann")
        await record.exit(TWO, "ann", grace=LONG)
        await record.settle(TWO)
        assert await record.names() == ["ann"]

    async def test_thousands_are_told_of_in_a_few_messages(self, record: Record) -> None:
        """And read in parts."""
        names = sorted(f"n{number}" for number in range(2_000))
        for start in range(0, 2_000, 500):
            await record.enter(ONE, *names[start : start + 500])
        assert await record.names() == names
        some = await record.store.read("a", limit=200)
        assert (len(some.members), some.count) == (200, 2_000)
        assert [member.name for member in some.members] == sorted(member.name for member in some.members)
        assert (await record.store.read("a", limit=0)).count == 2_000
        await record.store.forget(ONE, grace=0.0)
        assert await record.names() == []
        await record.settle(TWO)
        told = record.told()
        assert sorted(name for kind, part in told if kind == "left" for name in part) == names
        assert len(told) <= 2 * 12

    @pytest.mark.parametrize("room", ["käse", "3:a b", "\0\n", "*"])
    async def test_any_room_name_and_any_id_will_do(self, record: Record, room: str) -> None:
        """Those of UUIDs, and of other alphabets."""
        members = [Member(id=id, name=f"Zoë {id}") for id in (str(uuid.uuid4()), "4:é", "\n")]
        await record.store.enter(ONE, [RoomMember(room=room, member=member) for member in members])
        assert sorted((await record.store.read(room)).members, key=str) == sorted(members, key=str)
        await record.store.forget(ONE, grace=0.0)
        await record.settle(TWO)
        assert [kind for kind, _ in record.told(room)] == ["joined", "left"]
        assert (await record.store.read("a")).count == 0


class TestRedis:
    """What only a record that processes share does."""

    @pytest.fixture
    def record(self, redis_server: RedisServer) -> Record:
        return redis_record(redis_server)

    async def begin(self, record: Record, server: RedisServer, *processes: str) -> None:
        for process in processes:
            await RedisLedger(layer_of(record)).write(process, {"*": 1}, is_new=True)
            await record.store.enter(process, [], before_due=0.0)

    async def test_who_has_no_lease_is_not_known(self, record: Record, redis_server: RedisServer) -> None:
        """Nor one whose record is gone while its lease is not."""
        assert not await record.store.enter(ONE, [], before_due=0.0)
        await RedisLedger(layer_of(record)).write(ONE, {"*": 1}, is_new=True)
        assert not await record.enter(ONE, "ann")
        assert await record.settle(ONE) is None
        assert await record.store.enter(ONE, [entry("ann")], before_due=0.0)
        assert await record.settle(ONE) == 1

    async def test_the_counts_told_anew_keep_the_members(self, record: Record, redis_server: RedisServer) -> None:
        """As after a write of them that failed."""
        await self.begin(record, redis_server, ONE)
        await record.enter(ONE, "ann")
        await RedisLedger(layer_of(record)).write(ONE, {"*": 2}, is_new=True)
        assert (await record.settle(ONE), await record.names()) == (1, ["ann"])

    async def test_a_dead_processs_members_are_seen_no_more_and_told_of(
        self, record: Record, redis_server: RedisServer
    ) -> None:
        """From the end of its lease on; another process's stay."""
        await self.begin(record, redis_server, ONE, TWO)
        await record.enter(ONE, "ann", "bob")
        await record.enter(TWO, "bob")
        processes = layer_of(record).calls._whose[0]
        redis_server.client.zadd(processes, {ONE: 1})
        assert await record.names() == ["bob"]
        assert await record.settle(TWO) == 1
        assert record.told()[1:] == [("left", ["ann"])]
        # It was only held up: it finds itself unknown, and tells all.
        assert await record.settle(ONE) is None
        await self.begin(record, redis_server, ONE)
        await record.enter(ONE, "ann", "bob")
        assert (await record.names(), record.told()) == (["ann", "bob"], [("joined", ["ann"])])

    async def test_who_came_and_went_since_it_looked_is_not_told_of(
        self, record: Record, redis_server: RedisServer
    ) -> None:
        """A process that tells late: the grace that goes on now is another one."""
        await self.begin(record, redis_server, ONE, TWO)
        await record.enter(ONE, "ann", "bob")
        await record.exit(ONE, "ann", "bob")
        layer = layer_of(record)
        shard = layer.here().shard
        _, _, ((_, words),) = await shard.call(layer.calls.due(ONE, limit=9))
        await record.enter(TWO, "ann")
        await record.exit(TWO, "ann", grace=LONG)
        late = [(entry(name.decode()).member, due) for name, due in zip(words[1::3], words[2::3], strict=True)]
        assert isinstance(record.store, RedisWhereabouts)
        await record.store._depart("a", late)
        assert await record.names() == ["ann"]
        assert [kind for kind, _ in record.told()] == ["joined", "joined", "left"]

    async def test_nothing_is_left_of_rooms_and_processes_that_are_no_more(
        self, record: Record, redis_server: RedisServer
    ) -> None:
        await self.begin(record, redis_server, ONE, TWO)
        await record.enter(ONE, "ann")
        await record.enter(TWO, "bob", room="b")
        await record.exit(TWO, "bob", room="b")
        await record.store.forget(ONE, grace=0.0)
        await record.settle(TWO)
        prefix = f"{layer_of(record).prefix}:rooms:"
        keys = {key.decode().removeprefix(prefix) for key in redis_server.client.keys(f"{prefix}*")}
        assert {key for key in keys if key.startswith(("members", "leaving", "ended"))} == set()
        assert {key for key in keys if key.startswith("held")} == {f"held:{TWO}"}

    async def test_all_of_it_expires_when_nobody_comes_any_more(
        self, record: Record, redis_server: RedisServer
    ) -> None:
        await self.begin(record, redis_server, ONE, TWO)
        await record.enter(ONE, "ann", "bob")
        await record.exit(ONE, "bob", grace=LONG)
        prefix = f"{layer_of(record).prefix}:rooms:"
        for kind in ("members:a", "leaving:a", "leaving", f"held:{ONE}"):
            assert redis_server.client.pttl(f"{prefix}{kind}") > 0, kind
