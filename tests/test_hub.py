"""The hub's contract, on each channel layer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from channels.layers import get_channel_layer

from rooms_app import SendOutcome, group_name, use_ws_manager
from rooms_app.hub import hubs
from rooms_app.layers import RoomsRedisChannelLayer
from tests.app.messages import Note
from tests.clients import client, clients, common_endpoint, the_hub
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("layer")


def without_id(frame: dict[str, Any]) -> dict[str, Any]:
    """The rest of a frame, which has an id on the layer with history, and on no other."""
    assert ("id" in frame) is isinstance(get_channel_layer(), RoomsRedisChannelLayer)
    return {key: value for key, value in frame.items() if key != "id"}


async def test_a_message_reaches_every_connection_of_its_room_and_no_other() -> None:
    """Rooms don't leak into one another."""
    async with clients("/rooms/a", "/rooms/a", "/rooms/b") as (first, second, other):
        assert await Note(number=1).send("a") is SendOutcome.SENT
        frame = {"MESSAGE_ID": "tests.note", "message": {"number": 1, "text": ""}, "room": "a"}
        assert without_id(await first.frame()) == frame
        assert without_id(await second.frame()) == frame
        assert await other.silent()


async def test_messages_arrive_in_the_order_in_which_they_were_sent() -> None:
    """One sender's messages keep their order, whatever batches they travel in."""
    async with clients("/rooms/a", "/rooms/a,b") as receivers:
        for number in range(300):
            await Note(number=number).send("a")
        for each in receivers:
            assert await each.numbers(300) == list(range(300))


async def test_a_send_to_several_rooms_reaches_a_connection_in_two_of_them_once() -> None:
    """The union of the rooms gets it, each connection through the first room that it is in."""
    async with clients("/rooms/a,b", "/rooms/b", "/rooms/c") as (both, second, third):
        await Note(number=1).send("a", "b", "c")
        await Note(number=2).send("a", "b", "c")
        assert [(await both.frame())["room"] for _ in range(2)] == ["a", "a"]
        assert [(await second.frame())["room"] for _ in range(2)] == ["b", "b"]
        assert [(await third.frame())["room"] for _ in range(2)] == ["c", "c"]
        for each in (both, second, third):
            assert await each.silent()


async def test_exclude_leaves_one_connection_out() -> None:
    """ "To others": by the id that `sys.hello` gave."""
    async with clients("/rooms/a", "/rooms/a", subprotocols=["rooms.v1"]) as (first, second):
        connection = (await first.frame())["message"]["connection"]
        await second.frame()
        await Note(number=1).send("a", exclude=connection)
        await Note(number=2).send("a")
        assert await first.numbers(1) == [2]
        assert await second.numbers(2) == [1, 2]


async def test_a_typed_broadcast_reaches_everyone_in_the_room_star() -> None:
    """Also those who are in no room at all."""
    async with clients("/rooms/a", "/rooms/b", "/endpoint/c") as receivers:
        await Note(number=1).broadcast()
        for each in receivers:
            assert without_id(await each.frame()) == {
                "MESSAGE_ID": "tests.note",
                "message": {"number": 1, "text": ""},
                "room": "*",
            }


async def test_raw_bytes_go_out_as_they_are() -> None:
    """As a text frame where they are UTF-8, else as a binary one."""
    async with clients("/rooms/a") as (receiver,):
        await use_ws_manager().broadcast("grüße".encode())
        await use_ws_manager().broadcast(b"\xff\x00")
        assert await receiver.receive_from(timeout=5) == "grüße"
        assert await receiver.receive_from(timeout=5) == b"\xff\x00"


@pytest.mark.parametrize("room", ["chat-42", "a b/c", "комната", "🦊" * 200, "x" * 255, "a:b!c", "room\n", ".", "%2F"])
async def test_any_unicode_text_names_a_room(room: str) -> None:
    """Channels allows fewer, and its layers disagree: the group's name is a mapping."""
    async with clients("/rooms/other") as (receiver,):
        (connection,) = the_hub().connections
        await use_ws_manager().join([room], connection)
        await Note(number=1).send(room)
        assert (await receiver.frame())["room"] == room


async def test_joining_and_leaving_take_effect() -> None:
    """Leaving a room that one is not in, and removing twice, is no error."""
    async with clients("/rooms/a") as (receiver,):
        manager = use_ws_manager()
        (connection,) = the_hub().connections
        await manager.join(["b"], connection)
        await Note(number=1).send("b")
        assert await receiver.numbers(1) == [1]
        await manager.leave(["b", "never"], connection)
        await Note(number=2).send("b")
        await Note(number=3).send("a")
        assert await receiver.numbers(1) == [3]
        await manager.remove_websocket(connection)
        await manager.remove_websocket(connection)
        await Note(number=4).send("a")
        assert await receiver.silent()


async def test_the_last_connection_leaves_nothing_behind() -> None:
    """No group, no channel, no task, no hub."""
    async with clients("/rooms/a,b", "/endpoint/c"):
        assert {room.name for room in the_hub().subscriptions} == {"*", "a", "b", "c"}
    assert hubs() == []
    assert [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("rooms-")] == []


async def test_the_first_join_after_the_last_leave_is_heard() -> None:
    """Joins and leaves of one room go one after the other."""
    async with clients("/rooms/stay") as (receiver,):
        manager = use_ws_manager()
        (connection,) = the_hub().connections
        for number in range(50):
            leave = asyncio.create_task(manager.leave(["a"], connection))
            join = asyncio.create_task(manager.join(["a"], connection))
            await asyncio.gather(leave, join)
            await Note(number=number).send("a")
            assert await receiver.numbers(1) == [number]


async def test_foreign_types_and_malformed_messages_are_counted_and_ignored() -> None:
    """Anyone may `group_send` to our groups."""
    async with clients("/rooms/a") as (receiver,):
        layer = get_channel_layer()
        for event in (
            {"type": "chat.message", "text": "not ours"},
            {"type": "room.message"},
            {"type": "room.message", "rooms": "a", "text": "{}"},
            {"type": "room.message", "rooms": ["a"], "text": "no JSON"},
            {"type": "room.message", "rooms": ["a"], "text": '{"a":1}', "uid": 7},
            {"type": "room.control", "probe": "of another"},
        ):
            await layer.group_send(group_name("a"), event)
        await Note(number=1).send("a")
        assert await receiver.numbers(1) == [1]
        assert the_hub().counts["malformed"] == 4
        assert the_hub().counts["ignored"] >= 1


async def test_a_second_copy_of_a_send_is_ignored() -> None:
    """Such as a retry makes: the uid tells. The layer with history does not even publish it."""
    async with clients("/rooms/a") as (receiver,):
        event = {
            "type": "room.message",
            "rooms": ["a"],
            "uid": "once",
            "text": '{"MESSAGE_ID":"x","message":{}}',
        }
        for _ in range(3):
            await get_channel_layer().group_send(group_name("a"), event)
        await receiver.frame()
        if not isinstance(get_channel_layer(), RoomsRedisChannelLayer):
            await until(lambda: the_hub().counts["duplicates"] == 2, what="two copies ignored")
        assert await receiver.silent()


async def test_send_sync_from_a_thread_reaches_the_room() -> None:
    """From a thread that has no event loop, such as a sync view's."""
    async with clients("/rooms/a") as (receiver,):
        for number in range(20):
            assert await asyncio.to_thread(Note(number=number).send_sync, "a") is SendOutcome.SENT
        assert await receiver.numbers(20) == list(range(20))


async def test_send_from_another_event_loop_reaches_the_room() -> None:
    """From async code in a thread with a loop of its own; on the in-memory layer too."""
    async with clients("/rooms/a") as (receiver,):
        for number in range(5):
            await asyncio.to_thread(asyncio.run, Note(number=number).send("a"))
        assert await receiver.numbers(5) == list(range(5))


async def test_the_common_endpoint_works_as_it_stands() -> None:
    """Accept, add, join, and `while True: await websocket.receive()` in a `try` whose `except` removes."""
    async with clients("/endpoint/a") as (receiver,):
        await receiver.send_to("whatever the client says")
        await until(lambda: "a" in {room.name for room in the_hub().subscriptions}, what="the join")
        await Note(number=1).send("a")
        assert await receiver.numbers(1) == [1]
    assert hubs() == []
    assert common_endpoint.path.name == "common_endpoint"


async def test_frames_before_the_accept_are_held() -> None:
    """A message that arrives between join and accept comes right after the accept."""
    is_joined, may_accept = asyncio.Event(), asyncio.Event()

    async def application(scope: object, receive: object, send: object) -> None:
        from rooms_app import lifecycle
        from rooms_app.connection import RoomSocket

        websocket = RoomSocket(scope, receive, send)  # type: ignore[arg-type]

        async def body() -> None:
            await use_ws_manager().join(["a"], websocket)
            is_joined.set()
            await may_accept.wait()
            await websocket.accept()
            await websocket.wait_closed()

        await lifecycle.run(websocket, body, name="test")

    receiver = client("/", application=application)
    await receiver.send_input({"type": "websocket.connect"})
    await is_joined.wait()
    await Note(number=1).send("a")
    await until(lambda: the_hub().counts["deliveries"] == 1, what="the delivery")
    may_accept.set()
    assert (await receiver.receive_output())["type"] == "websocket.accept"
    assert await receiver.numbers(1) == [1]
    await receiver.disconnect()


async def test_a_thousand_sends_at_once_all_arrive() -> None:
    """More than Redis's connection pool holds: they wait for their turn."""
    async with clients("/rooms/a") as (receiver,):
        outcomes = await asyncio.gather(*(Note(number=number).send("a") for number in range(1_000)))
        assert set(outcomes) == {SendOutcome.SENT}
        assert sorted(await receiver.numbers(1_000)) == list(range(1_000))
