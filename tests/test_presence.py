"""Who is in a room: one member however many tabs, gone after a grace, and told to those who are there."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from django.contrib.auth.models import AnonymousUser, User

from rooms_app import (
    RoomConsumer,
    RoomSocket,
    RoomsUnavailable,
    presence,
    use_ws_manager,
    user_room,
    websocket_endpoint,
)
from rooms_app.layers import channel_layer
from rooms_app.members import member_of
from rooms_app.presence import Member
from rooms_app.registry import registry
from rooms_app.whereabouts import Exit, RedisWhereabouts, RoomMember, whereabouts_for
from tests.app.messages import Note
from tests.clients import Client, client, clients, signed_in, the_hub
from tests.histories import Stop, come_and_go, reset, resumed
from tests.live import RedisServer
from tests.waiting import until

ANN, BOB, CAY = (User(pk=pk, username=name) for pk, name in ((7, "ann"), (8, "bob"), (9, "cay")))
NOBODY = AnonymousUser()
#: A grace that is not over within a test, and one that soon is.
LONG, SHORT = {"presence_grace": 60.0}, {"presence_grace": 0.4}

both_records = pytest.mark.parametrize("layer", ["rooms", "memory"], indirect=True)
with_history = pytest.mark.parametrize("layer", ["rooms"], indirect=True)


class Rooms(RoomConsumer):
    """Lets everybody into the rooms."""

    tracks_presence: ClassVar[bool] = True

    async def get_rooms(self) -> list[str]:
        return list(self.kwargs["rooms"])

    async def can_join(self, room: str) -> bool:
        return True


class Disguised(Rooms):
    """Staff is there, but nobody sees whom of them."""

    async def presence_member(self) -> Member | None:
        return Member(id="staff", name="Staff") if self.user.is_staff else None


@websocket_endpoint("guest/<str:name>")
async def guest(websocket: RoomSocket, name: str) -> None:
    """As a chat without accounts has it."""
    await websocket.accept()
    ws_manager = use_ws_manager()
    await ws_manager.add_websocket(websocket)
    await ws_manager.join(["a"], websocket)
    await presence.track(["a", "elsewhere"], websocket, member=Member(id=name, name=name.title()))
    await websocket.wait_closed()


@websocket_endpoint("late")
async def late(websocket: RoomSocket, may_go_on: asyncio.Event) -> None:
    """Takes its time until the client is answered."""
    await websocket.accept()
    await use_ws_manager().add_websocket(websocket)
    await presence.track([user_room(websocket.user)], websocket)
    await may_go_on.wait()
    await websocket.wait_closed()


class Crowd:
    """The clients of a test."""

    def __init__(self) -> None:
        self.clients: list[Client] = []

    async def comes(self, user: Any, *rooms: str, url: str = "/", consumer: Any = Rooms) -> Client:
        """A client of the user, open, and not yet told anything."""
        one = client(url, application=signed_in(consumer, user, rooms=rooms or ("a",)))
        await one.open()
        self.clients.append(one)
        return one

    async def is_in(self, user: Any, *rooms: str) -> Client:
        """One who was told that she is in."""
        one = await self.comes(user, *rooms)
        while (await one.frame())["MESSAGE_ID"] != "presence.state":
            pass
        return one

    async def end(self) -> None:
        await asyncio.gather(*(one.disconnect(timeout=10) for one in self.clients))


@pytest.fixture
async def crowd() -> AsyncIterator[Crowd]:
    made = Crowd()
    yield made
    await made.end()


async def told(receiver: Client) -> tuple[str, ...]:
    """The next frame: joined, left or state, and the names; or its MESSAGE_ID."""
    frame = await receiver.frame()
    kind = frame["MESSAGE_ID"]
    if not kind.startswith("presence."):
        return (kind,)
    return (kind.removeprefix("presence."), *(member["name"] for member in frame["message"]["members"]))


async def names(room: str = "a") -> list[str]:
    return [member.name for member in await presence.members(room)]


def connection_of(user: Any) -> RoomSocket:
    return next(connection for connection in the_hub().connections if connection.user is user)


@both_records
@pytest.mark.usefixtures("layer")
class TestMembers:
    """On the layer with history, and on one without."""

    async def test_many_tabs_are_one_member(self, crowd: Crowd, settings: Any) -> None:
        """Her second tab makes nobody hear of her, nor does the end of one of two."""
        settings.ROOMS = SHORT
        bob = await crowd.is_in(BOB)
        first = await crowd.comes(ANN)
        assert await told(bob) == ("joined", "ann")
        await crowd.is_in(ANN)
        await first.disconnect()
        cay = await crowd.is_in(CAY)
        await cay.disconnect()
        # Whoever left before her is told of before her.
        assert [await told(bob), await told(bob)] == [("joined", "cay"), ("left", "cay")]
        assert (await presence.count("a"), await names()) == (2, ["ann", "bob"])

    async def test_a_drop_shorter_than_the_grace_is_silent(self, crowd: Crowd, settings: Any) -> None:
        """A longer one makes one left; those who were dropped earlier and came back would be told of before."""
        settings.ROOMS = {"presence_grace": 1.2}
        bob = await crowd.is_in(BOB)
        ann = await crowd.is_in(ANN)
        await ann.disconnect()
        # Once she is in, it is on record that the other has gone.
        cay = await crowd.is_in(CAY)
        assert [await told(bob), await told(bob)] == [("joined", "ann"), ("joined", "cay")]
        assert await names() == ["ann", "bob", "cay"]
        await crowd.is_in(ANN)
        await cay.disconnect()
        assert await told(bob) == ("left", "cay")
        await Note(number=1).send("a")
        assert await told(bob) == ("tests.note",)
        assert await names() == ["ann", "bob"]

    @pytest.mark.parametrize("way", ["leave", "remove_user", "disconnect_user", "remove_websocket"])
    async def test_who_is_out_is_out_at_once(self, crowd: Crowd, settings: Any, way: str) -> None:
        settings.ROOMS = LONG
        bob = await crowd.is_in(BOB)
        await crowd.is_in(ANN, "a", "b")
        assert await told(bob) == ("joined", "ann")
        manager = use_ws_manager()
        if way == "leave":
            await manager.leave(["a"], connection_of(ANN))
        elif way == "remove_user":
            await manager.remove_user(ANN, "a")
        elif way == "disconnect_user":
            await manager.disconnect_user(ANN)
        else:
            await manager.remove_websocket(connection_of(ANN))
        assert await told(bob) == ("left", "ann")
        assert await names() == ["bob"]
        assert await names("b") == (["ann"] if way in ("leave", "remove_user") else [])

    async def test_the_state_comes_once_she_is_in(self, crowd: Crowd) -> None:
        """With those who were there, for her alone."""
        bob = await crowd.is_in(BOB)
        ann = await crowd.comes(ANN)
        assert [await told(ann), await told(ann)] == [("joined", "ann"), ("state", "ann", "bob")]
        await Note(number=1).send("a")
        assert [await told(bob), await told(bob)] == [("joined", "ann"), ("tests.note",)]

    async def test_the_anonymous_see_and_are_not_seen(self, crowd: Crowd) -> None:
        """Nor is a signed-in user whose consumer says so; nor does she hear less."""
        await crowd.is_in(BOB)
        for user, consumer in ((NOBODY, Rooms), (ANN, Disguised)):
            unseen = await crowd.comes(user, consumer=consumer)
            assert await told(unseen) == ("state", "bob")
        await crowd.comes(User(pk=1, username="eve", is_staff=True), consumer=Disguised)
        assert await told(unseen) == ("joined", "Staff")
        assert await names() == ["Staff", "bob"]

    async def test_a_guest_is_whom_the_endpoint_says(self, crowd: Crowd) -> None:
        """The function form, which tracks the rooms that it has joined, and no others."""
        one = client("/guest/zoe", application=signed_in(guest, NOBODY, name="zoe"))
        crowd.clients.append(one)
        await one.open()
        assert [await told(one), await told(one)] == [("joined", "Zoe"), ("state", "Zoe")]
        assert await presence.members("a") == [Member(id="zoe", name="Zoe")]
        assert await presence.count("elsewhere") == 0

    async def test_a_user_may_have_a_uuid(self, crowd: Crowd) -> None:
        pk = uuid.uuid4()
        ann = User(username="ann")
        ann.pk = pk  # type: ignore[assignment]
        await crowd.is_in(ann)
        assert await presence.members("a") == [Member(id=str(pk), name="ann")]

    async def test_sync_code_sees_the_same(self, crowd: Crowd) -> None:
        """As an admin page."""
        await crowd.is_in(ANN)
        found = await asyncio.to_thread(lambda: (presence.members_sync("a"), presence.count_sync("a")))
        assert found == ([Member(id="7", name="ann")], 1)

    async def test_who_does_not_ask_for_it_has_none_of_it(self, crowd: Crowd) -> None:
        """Neither a task nor a message."""
        async with clients("/rooms/a") as (receiver,):
            await Note(number=1).send("a")
            assert await told(receiver) == ("tests.note",)
            assert "rooms-attendance" not in {task.get_name() for task in asyncio.all_tasks()}
        assert await names() == []


@with_history
@pytest.mark.usefixtures("layer")
class TestHistory:
    """On the layer with history."""

    async def test_a_client_that_resumes_gets_what_it_missed_and_then_the_state(self, crowd: Crowd) -> None:
        since = await come_and_go("/rooms/a")
        await crowd.is_in(BOB)
        ann = await crowd.comes(ANN, url=f"/?since={since}")
        assert await told(ann) == ("joined", "bob")
        assert (await resumed(ann))["message"]["replayed"] == 1
        assert [await told(ann), await told(ann)] == [("joined", "ann"), ("state", "ann", "bob")]

    async def test_the_state_waits_for_what_she_missed(self, crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where an endpoint tracks her before her `since` is answered."""
        may_go_on, stop = asyncio.Event(), Stop("read", monkeypatch, of=RedisWhereabouts, is_after=True)
        ann = client("/?since=latest", application=signed_in(late, ANN, may_go_on=may_go_on))
        crowd.clients.append(ann)
        await ann.open()
        await stop.reached.wait()
        stop.go_on()
        assert await ann.silent()
        may_go_on.set()
        assert [(await told(ann))[0] for _ in range(3)] == ["joined", "sys.resumed", "state"]

    async def test_what_overtakes_the_state_is_told_once_more(
        self, crowd: Crowd, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A member who left after the state was read and before it was written: else she would stay for ever."""
        await crowd.is_in(BOB)
        there, zoe = "2-b/0", Member(id="z", name="zoe")
        record = await other_process(there)
        await record.enter(there, [RoomMember(room="a", member=zoe)])
        stop = Stop("read", monkeypatch, of=RedisWhereabouts, is_after=True)
        ann = await crowd.comes(ANN)
        await stop.reached.wait()
        await record.exit(there, [Exit(room="a", id="z", grace=0.0)])
        await record.settle(there)
        assert [await told(ann), await told(ann)] == [("joined", "ann"), ("left", "zoe")]
        stop.go_on()
        assert await told(ann) == ("state", "ann", "bob", "zoe")
        # Her own, too, where it arrived after the question.
        while (once_more := await told(ann)) == ("joined", "ann"):
            pass
        assert once_more == ("left", "zoe")

    async def test_a_crowd_that_comes_at_once_is_few_reads(self, redis_server: RedisServer, crowd: Crowd) -> None:
        """Each is told the state all the same, and others of all of them in a few messages."""
        bob = await crowd.is_in(BOB)
        before, began = calls_of(redis_server, "hscan"), time.monotonic()
        many = [User(pk=100 + number, username=f"u{number:03}") for number in range(300)]
        came = await asyncio.gather(*map(crowd.comes, many))
        heard: set[str] = set()
        messages = 0
        while len(heard) < 300:
            kind, *more = await told(bob)
            assert kind == "joined"
            heard |= set(more)
            messages += 1
        for one in came:
            while (frame := await one.frame())["MESSAGE_ID"] != "presence.state":
                pass
        assert len(frame["message"]["members"]) == min(200, frame["message"]["count"])
        # Thirty times a second at most, and a big room's may take two pages.
        limit = 10 + (time.monotonic() - began) / 0.03
        assert calls_of(redis_server, "hscan") - before <= 2 * limit
        assert messages <= limit

    async def test_after_an_outage_nobody_is_told_that_all_have_left(
        self, crowd: Crowd, redis_server: RedisServer
    ) -> None:
        """All leases were over: each process finds itself unknown, tells all, and gives the others time to do so."""
        bob = await crowd.is_in(BOB)
        zoe, processes = RoomMember(room="a", member=Member(id="z", name="zoe")), the_hub().layer.calls._whose[0]
        await (await other_process("2-b/0")).enter("2-b/0", [zoe])
        assert await told(bob) == ("joined", "zoe")
        for process in redis_server.client.zrange(processes, 0, -1):
            redis_server.client.zadd(processes, {process: 1})
        assert await names() == []
        assert await told(bob) == ("joined", "bob")
        # Longer than it is, else, until it looks who is to leave.
        assert await bob.receive_nothing(timeout=0.8)
        await (await other_process("2-b/0")).enter("2-b/0", [zoe])
        assert await told(bob) == ("joined", "zoe")
        assert await names() == ["bob", "zoe"]

    async def test_a_redis_that_forgot_is_told_again(self, crowd: Crowd, redis_server: RedisServer) -> None:
        """And whoever is reset is told the state."""
        bob = await crowd.comes(BOB, url="/?since=latest")
        await resumed(bob)
        assert [await told(bob), await told(bob)] == [("joined", "bob"), ("state", "bob")]
        await crowd.is_in(ANN)
        assert await told(bob) == ("joined", "ann")
        redis_server.client.flushall()
        await Note(number=1).send("a")
        await reset(bob, "epoch")
        seen = {await told(bob) for _ in range(2)}
        assert any(kind == "state" for kind, *_ in seen)
        await until_names(["ann", "bob"])


@pytest.fixture
def lasting_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that is away for a while, and then has all it had."""
    server = RedisServer(tmp_path / "redis", append_only=True)
    try:
        yield server.start()
    finally:
        server.stop()


async def test_a_redis_that_is_away_disturbs_nobody(lasting_redis: RedisServer, settings: Any, crowd: Crowd) -> None:
    """Who leaves meanwhile is out when it is back; who looks is told that it can't be known."""
    settings.CHANNEL_LAYERS = {"default": channel_layer("rooms", lasting_redis.url)}
    settings.ROOMS = {**SHORT, "retry_after": 0.1}
    await crowd.is_in(BOB)
    ann = await crowd.is_in(ANN)
    lasting_redis.stop()
    await use_ws_manager().leave(["a"], connection_of(ANN))
    await ann.disconnect()
    with pytest.raises(RoomsUnavailable):
        await presence.members("a")
    await until(lambda: the_hub().counts["presence_errors"], what="a try")
    lasting_redis.restart()
    await until_names(["bob"])


def test_nobody_may_tell_of_members_but_rooms_app() -> None:
    """Its messages are types as any other, and no operator is offered them."""
    for name in ("joined", "left", "state"):
        assert not registry.get(f"presence.{name}").may_broadcast(ANN)


async def other_process(name: str) -> Any:
    """The record, on which another process has nobody yet."""
    layer = the_hub().layer
    record = whereabouts_for(layer)
    await layer.here().shard.call(layer.calls.lease(name, {"*": 1}, seconds=60, is_new=True))
    assert await record.enter(name, [], before_due=0.0)
    return record


def calls_of(server: RedisServer, command: str) -> int:
    """How often Redis has carried a command out."""
    stats: dict[str, Counter[str]] = server.client.info("commandstats")
    return int(stats.get(f"cmdstat_{command}", Counter())["calls"])


async def until_names(expected: list[str]) -> None:
    for _ in range(400):
        try:
            if await names() == expected:
                return
        except RoomsUnavailable:
            pass
        await asyncio.sleep(0.02)
    raise AssertionError(f"{await names()} instead of {expected}")


def test_a_user_may_be_named_by_a_number() -> None:
    """A project's USERNAME_FIELD need not be text."""
    assert member_of(User(pk=7, username=12345)) == Member(id="7", name="12345")  # type: ignore[misc]
