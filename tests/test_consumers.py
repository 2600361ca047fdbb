"""The class form and the function form: who gets in, what they are told, and how they end."""

from __future__ import annotations

import logging
import uuid
from types import SimpleNamespace
from typing import Any

import pytest
from channels.layers import get_channel_layer

from rooms_app import RoomConsumer, RoomSocket, use_ws_manager, user_room, websocket_endpoint
from rooms_app.endpoints import WebSocketEndpoint
from rooms_app.exceptions import ConnectionClosed, RoomsConfigurationError
from rooms_app.hub import hubs
from rooms_app.routing import websocket_application
from tests.app.messages import Note
from tests.clients import OpenRoom, client, clients, signed_in, the_hub
from tests.waiting import until

ANN = SimpleNamespace(pk=7, is_authenticated=True)


class NoRule(RoomConsumer):
    """Says nothing on who may join."""

    async def get_rooms(self) -> list[str]:
        return ["a"]


class Asks(OpenRoom):
    """Asks for rooms, and lets in as its attribute says."""

    rooms: list[str] = ["a"]
    answer: Any = True

    async def get_rooms(self) -> list[str]:
        return self.rooms

    async def can_join(self, room: str) -> bool:
        if isinstance(self.answer, Exception):
            raise self.answer
        return bool(self.answer)


def asks(rooms: list[str], answer: Any = True) -> type[Asks]:
    return type("Asks", (Asks,), {"rooms": rooms, "answer": answer})


def rooms_held() -> set[str]:
    return {room.name for room in the_hub().subscriptions}


async def refused(consumer: Any, user: Any = None, **kwargs: Any) -> int:
    """The code that a consumer refuses with: accepted first, so that a browser sees it, and no frame before."""
    receiver = client("/", application=signed_in(consumer, user, **kwargs))
    await receiver.open()
    code = await receiver.closed()
    await receiver.wait(timeout=5)
    assert hubs() == []
    return code


async def test_without_a_rule_nobody_gets_in() -> None:
    """4507, and 4500 for the anonymous, who may sign in and come back."""
    assert await refused(NoRule, ANN) == 4507
    assert await refused(NoRule) == 4500


async def test_who_may_not_join_is_told() -> None:
    """A `can_join` that says no to any of the rooms lets into none."""
    assert await refused(asks(["a", "b"], answer=False), ANN) == 4507
    assert await refused(asks(["a"], answer=False)) == 4500


async def test_a_rule_that_fails_lets_nobody_in(caplog: pytest.LogCaptureFixture) -> None:
    """1011, logged once."""
    assert await refused(asks(["a"], answer=RuntimeError("no database"))) == 1011
    assert len([record for record in caplog.records if record.levelno >= logging.ERROR]) == 1


@pytest.mark.parametrize("room", ["", "x" * 256, "\ud800"])
async def test_a_room_name_that_is_none_is_a_bad_request(room: str) -> None:
    """4501: the client should not try again."""
    assert await refused(asks([room])) == 4501


@pytest.mark.parametrize("room", ["user-7", "user-8", "user-", "*"])
async def test_reserved_rooms_are_never_joined_by_others(room: str) -> None:
    """Though `can_join` said yes; in both forms."""
    assert await refused(asks([room])) == 4500
    assert await refused(asks([room]), SimpleNamespace(pk=9, is_authenticated=True)) == 4507

    @websocket_endpoint("x")
    async def endpoint(websocket: RoomSocket, room: str) -> None:
        await use_ws_manager().join([room], websocket)

    assert await refused(endpoint, SimpleNamespace(pk=9, is_authenticated=True), room=room) == 4507


async def test_a_reserved_room_is_joined_by_who_says_so() -> None:
    """`reserved=True` is the server's own decision."""

    @websocket_endpoint("x")
    async def endpoint(websocket: RoomSocket) -> None:
        await use_ws_manager().join(["user-8"], websocket, reserved=True)
        await websocket.accept()
        await websocket.wait_closed()

    async with clients("/", application=signed_in(endpoint, ANN)) as (receiver,):
        await Note(number=1).send("user-8")
        assert await receiver.numbers(1) == [1]


@pytest.mark.parametrize("pk", [7, uuid.UUID(int=5), "a/b@c"])
async def test_a_signed_in_connection_is_in_its_own_room(pk: Any) -> None:
    """Whatever the kind of primary key; unless its consumer says otherwise."""
    user = SimpleNamespace(pk=pk, is_authenticated=True)
    async with clients("/", application=signed_in(asks(["a"]), user)) as (receiver,):
        await Note(number=1).send(user_room(user))
        assert (await receiver.frame())["room"] == f"user-{pk}"
    silent = type("Silent", (Asks,), {"joins_user_room": False})
    async with clients("/", application=signed_in(silent, user)) as (receiver,):
        await Note(number=1).send(user_room(user))
        assert await receiver.silent()


async def test_limits_close_with_codes_of_their_own(settings: Any) -> None:
    """4505 for rooms, 4504 for one user's connections, 1013 where the process is full."""
    settings.ROOMS = {"max_rooms": 2, "max_connections_per_user": 1}
    assert await refused(asks(["a", "b", "c"])) == 4505
    async with clients("/", application=signed_in(asks(["a"]), ANN)):
        second = client("/", application=signed_in(asks(["a"]), ANN))
        await second.open()
        assert await second.closed() == 4504
        await second.wait(timeout=5)
        settings.ROOMS = {"max_connections": 1}
        third = client("/", application=signed_in(asks(["a"])))
        await third.open()
        assert await third.closed() == 1013
        await third.wait(timeout=5)


async def test_a_consumer_that_raises_leaves_its_rooms(caplog: pytest.LogCaptureFixture) -> None:
    """It is closed 1011 by us, logged once, and not raised again: uvicorn would make it 1006."""

    class Crashes(Asks):
        async def on_open(self) -> None:
            raise ValueError("a bug")

    async with clients("/rooms/a"):
        receiver = client("/", application=signed_in(Crashes, ANN))
        await receiver.open()
        assert await receiver.closed() == 1011
        await receiver.wait(timeout=5)
        assert len(the_hub().connections) == 1
        await until(lambda: rooms_held() == {"*", "a"}, what="its rooms are left")
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ValueError]


async def test_a_cancelled_application_leaves_its_rooms() -> None:
    """As daphne does to all of them when it ends."""
    receiver = client("/rooms/a")
    await receiver.open()
    receiver.future.cancel()
    await until(lambda: hubs() == [], what="the cancelled one is gone")


async def test_hooks_see_the_beginning_and_the_end() -> None:
    """`on_open` once it is in its rooms, `on_close` with the code."""
    seen: list[Any] = []

    class Hooked(Asks):
        async def on_open(self) -> None:
            seen.append(sorted(self.connection.rooms))

        async def on_close(self, code: int) -> None:
            seen.append(code)

    receiver = client("/", application=signed_in(Hooked))
    await receiver.open()
    await receiver.disconnect(code=4321)
    assert seen == [["*", "a"], 4321]


async def test_a_consumer_offers_what_a_room_socket_offers() -> None:
    """Its own frames go to this client alone."""

    class Talks(Asks):
        async def on_open(self) -> None:
            await self.send_text("text")
            await self.send_bytes(b"\x00")
            await self.send_json({"name": self.kwargs["name"], "user": self.user.pk})
            event = await self.receive()
            await self.close(4000, event["text"])
            await self.close()
            await self.wait_closed()
            with pytest.raises(ConnectionClosed):
                await self.send_text("too late")

    receiver = client("/", application=signed_in(Talks, ANN, name="n"))
    await receiver.open()
    assert await receiver.receive_from() == "text"
    assert await receiver.receive_from() == b"\x00"
    assert await receiver.receive_json_from() == {"name": "n", "user": 7}
    await receiver.send_to("bye")
    assert await receiver.receive_output() == {"type": "websocket.close", "code": 4000, "reason": "bye"}
    await receiver.disconnect()


@pytest.mark.django_db(transaction=True)
async def test_own_channel_gives_the_stock_channel_name_groups_and_handlers() -> None:
    """Beside the rooms, and the client's frames choose no handler."""

    class Own(Asks):
        own_channel = True
        groups = ["stock"]

        async def chat_message(self, event: dict[str, Any]) -> None:
            await self.send_json({"stock": event["text"], "channel": bool(self.channel_name)})

    async with clients("/", application=signed_in(Own)) as (receiver,):
        await receiver.send_json_to({"type": "chat.message", "text": "from the client"})
        await Note(number=1).send("a")
        assert await receiver.numbers(1) == [1]
        await get_channel_layer().group_send("stock", {"type": "chat.message", "text": "hello"})
        assert await receiver.receive_json_from() == {"stock": "hello", "channel": True}
    assert get_channel_layer().groups == {}


async def test_an_endpoint_that_returns_closes_its_connection() -> None:
    """1000, and a raising one 1011."""

    @websocket_endpoint("x")
    async def returns(websocket: RoomSocket) -> None:
        await websocket.accept()

    receiver = client("/", application=signed_in(returns))
    await receiver.open()
    assert await receiver.closed() == 1000


async def test_an_endpoint_must_be_async() -> None:
    """The error names it."""
    with pytest.raises(RoomsConfigurationError, match="sync_one"):

        @websocket_endpoint("x")  # type: ignore[arg-type]
        def sync_one(websocket: RoomSocket) -> None: ...


async def test_an_unknown_path_is_refused_without_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """4501, "no such path"."""
    receiver = client("/nowhere")
    await receiver.open()
    assert await receiver.closed() == 4501
    await receiver.wait(timeout=5)
    assert caplog.records == []


async def test_since_is_answered_once_before_anything_live() -> None:
    """`latest` by `sys.resumed`, anything else by `sys.reset`: there is no history."""
    async with clients("/rooms/a?since=latest", "/rooms/a?since=k9f2-1", "/endpoint/a?since=latest") as receivers:
        await Note(number=1).send("a")
        assert await receivers[0].frame() == {"MESSAGE_ID": "sys.resumed", "message": {"replayed": 0}}
        assert await receivers[1].frame() == {"MESSAGE_ID": "sys.reset", "message": {"reason": "no_history"}}
        assert (await receivers[2].frame())["MESSAGE_ID"] == "sys.resumed"
        await until(lambda: len(the_hub().subscriptions.members("a")) == 3, what="all joined")
        await Note(number=2).send("a")
        assert (await receivers[2].frame())["MESSAGE_ID"] == "tests.note"


async def test_hello_comes_first_with_the_subprotocol() -> None:
    """It names the connection, the process and the rooms."""
    async with clients("/rooms/b,a", subprotocols=["other", "rooms.v1"]) as (receiver,):
        hello = await receiver.frame()
        assert hello["MESSAGE_ID"] == "sys.hello"
        assert hello["message"]["rooms"] == ["a", "b"]
        assert hello["message"]["connection"]
        assert hello["message"]["process"]


async def test_who_did_not_opt_in_gets_no_protocol_messages() -> None:
    """`new WebSocket(url)` and `JSON.parse(event.data)` are a whole client."""
    receiver = client("/rooms/a")
    await receiver.open()
    (connection,) = the_hub().connections
    await connection.close(4011)
    assert await receiver.closed() == 4011
    await receiver.disconnect()


async def test_who_opted_in_is_told_before_a_close() -> None:
    """`sys.closing` repeats what daphne drops: the reason."""
    receiver = client("/rooms/a?ping=5")
    await receiver.open()
    (connection,) = the_hub().connections
    await connection.close(4011)
    closing = {"code": 4011, "reason": "reconnect", "retry_after_ms": 0}
    assert await receiver.frame() == {"MESSAGE_ID": "sys.closing", "message": closing}
    assert await receiver.closed() == 4011
    await receiver.disconnect()


def test_stock_pieces_stand_beside_ours() -> None:
    """`endpoint.path` is a URL pattern; `as_asgi()` is Channels'."""
    assert isinstance(websocket_endpoint("a/<int:n>")(_endpoint), WebSocketEndpoint)
    assert OpenRoom.as_asgi().consumer_class is OpenRoom
    assert websocket_application([])


async def _endpoint(websocket: RoomSocket, n: int) -> None:
    await websocket.accept()


@pytest.mark.django_db(transaction=True)
async def test_own_channel_is_there_before_the_accept() -> None:
    """What is sent to its groups in the moment it opens is handled; `on_open` knows the channel's name."""

    class Own(Asks):
        own_channel = True
        groups = ["stock"]

        async def on_open(self) -> None:
            await self.send_text(self.channel_name)

        async def chat_message(self, event: dict[str, Any]) -> None:
            await self.send_text(event["text"])

    async with clients("/", application=signed_in(Own)) as (receiver,):
        await get_channel_layer().group_send("stock", {"type": "chat.message", "text": "at once"})
        assert "inmemory" in await receiver.receive_from()
        assert await receiver.receive_from() == "at once"


async def test_on_close_hears_of_a_crash() -> None:
    """As the 1011 that the client sees."""
    seen: list[int] = []

    class Crashes(Asks):
        async def on_open(self) -> None:
            raise ValueError("a bug")

        async def on_close(self, code: int) -> None:
            seen.append(code)

    receiver = client("/", application=signed_in(Crashes))
    await receiver.open()
    assert await receiver.closed() == 1011
    await receiver.wait(timeout=5)
    assert seen == [1011]
