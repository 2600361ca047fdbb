"""What a send becomes on the history layer: its call, its keys, and where it does without."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from channels.layers import get_channel_layer
from channels_redis.pubsub import RedisPubSubChannelLayer

from rooms_app import WebSocketMessage, group_name
from rooms_app.envelope import room_message
from rooms_app.layers import RoomsRedisChannelLayer, redis_host
from rooms_app.layers.scripts import LIFETIME, SEND, Call, Calls, Target
from rooms_app.layers.sending import ONCE_SECONDS, as_call, history_of
from tests.app.messages import Note
from tests.clients import clients
from tests.conftest import use_layer
from tests.live import RedisServer

TEXT = '{"MESSAGE_ID":"x","message":{}}'
CALLS = Calls("p")


class KeptNote(WebSocketMessage):
    """Kept for those who join later."""

    MESSAGE_ID = "test_layers.kept"
    RETAIN = True


def call_for(*rooms: str, once: str | None = None, **policy: Any) -> Call | None:
    """The call for a message with this delivery policy."""
    return as_call(CALLS, room_message(rooms, TEXT, **policy), b"payload", once=once)


def sizes(call: Call | None) -> dict[str, tuple[int, int]]:
    """The length and the age, in ms, of each channel's history."""
    assert call is not None
    arguments = call.arguments[5:]
    return {str(arguments[i + 1]): (int(arguments[i + 2]), int(arguments[i + 3])) for i in range(0, len(arguments), 4)}


# Sizes, by room


@pytest.mark.parametrize(
    ("room", "expected"),
    [
        ("chat-42", (5, 60)),
        ("chat-vip", (5, 60)),
        ("log", (0, 0)),
        ("user-7", (7, 1.5)),
        ("Chat-42", (100, 30)),
        ("*", (100, 30)),
        ("комната", (100, 30)),
    ],
)
def test_the_first_pattern_that_fits_says_how_much_is_kept(
    settings: Any, room: str, expected: tuple[int, float]
) -> None:
    """Else the defaults; patterns know upper and lower case, whatever the machine."""
    patterns = {"chat-*": (5, 60), "chat-vip": (9, 9), "log": (0, 0), "user-?": (7, 1.5)}
    settings.ROOMS = {"history_messages": 100, "history_seconds": 30, "history": patterns}
    assert history_of(room) == expected


def test_each_room_of_a_send_has_a_size_of_its_own(settings: Any) -> None:
    """And one without history is still published to."""
    settings.ROOMS = {"history": {"a": (5, 60), "b": (0, 0)}}
    assert sizes(call_for("a", "b", "c")) == {
        "p__group__room.a": (5, 60_000),
        "p__group__room.b": (0, 0),
        "p__group__room.c": (1_000, 600_000),
    }


# Policies


def test_what_is_kept_nowhere_is_no_call_but_a_bare_publish(settings: Any) -> None:
    """Neither a volatile message, nor one whose class or rooms have no history."""
    assert call_for("a") is not None
    assert call_for("a", is_volatile=True) is None
    assert call_for("a", has_history=False) is None
    settings.ROOMS = {"history_messages": 0, "history": {"b": (1, 1)}}
    assert call_for("a") is None
    assert call_for("a", "b") is not None


def test_an_idempotency_key_and_a_retained_message_need_the_call_all_the_same() -> None:
    """Without a history of their own."""
    for call in (
        call_for("a", has_history=False, retain_as="x"),
        call_for("a", is_volatile=True, once="order-7"),
        call_for("a", has_history=False, once="order-7"),
    ):
        assert sizes(call) == {"p__group__room.a": (0, 0)}


def test_a_send_is_known_by_its_uid_and_longer_by_its_idempotency_key() -> None:
    """The one for a retry of ours, the other for the caller's. They can't meet."""
    by_uid, by_key = call_for("a"), call_for("a", once="7")
    assert by_uid is not None and by_key is not None
    assert by_uid.keys[2].startswith("p:rooms:once:uid:")
    assert by_key.keys[2] == "p:rooms:once:key:7"
    assert by_uid.arguments[3] == 30_000
    assert by_key.arguments[3] == int(ONCE_SECONDS * 1000) == 300_000


# Keys


def test_each_key_begins_with_the_layers_prefix() -> None:
    """So that two projects on one Redis don't meet; a room's part is its group's name."""
    room = "a b/c"
    group = group_name(room)
    call = CALLS.send([Target(group=group, messages=1, seconds=2)], b"m", once="o", once_seconds=3, retain_as="kept")
    assert call.keys == [
        *("p:rooms:clock", "p:rooms:lasts", "p:rooms:once:o"),
        *(f"p:rooms:stream:{group}", f"p:rooms:retained:{group}"),
    ]
    epoch, *arguments = call.arguments
    assert epoch
    assert arguments == [LIFETIME, b"m", 3000, "kept", group, f"p__group__{group}", 1, 2000]
    assert call.by_sha == ("EVALSHA", SEND.sha, 5, *call.keys, *call.arguments)
    assert call.by_text == ("EVAL", SEND.text, 5, *call.keys, *call.arguments)
    others = (CALLS.tick(), CALLS.settle(known=None, received=[]), CALLS.replay("e", [("g", 1)]))
    assert all(key.startswith("p:rooms:") for other in others for key in other.keys)


def test_the_channel_of_a_group_is_that_of_the_stock_layer() -> None:
    """Stock consumers and stock senders of the same prefix go on working."""
    layer = RoomsRedisChannelLayer(hosts=["redis://localhost:1"], prefix="p")
    assert asyncio.run(_stock_channel(layer)) == layer.calls.channel("room.a") == "p__group__room.a"


async def _stock_channel(layer: Any) -> str:
    return str(layer.here()._get_group_channel_name("room.a"))


# Hosts


@pytest.mark.parametrize(
    ("hosts", "has_history"),
    [
        (None, True),
        (["redis://localhost"], True),
        ([{"sentinels": [("localhost", 26379), ("localhost", 26380)], "master_name": "main"}], True),
        (["redis://localhost", "redis://localhost:6380"], False),
    ],
)
def test_one_host_or_one_sentinel_master_has_history(hosts: Any, has_history: bool) -> None:
    """Ids of several hosts would have no order."""
    assert RoomsRedisChannelLayer(hosts=hosts).has_history is has_history
    assert RoomsRedisChannelLayer(hosts).has_history is has_history


async def test_with_several_hosts_rooms_work_without_history(
    request: pytest.FixtureRequest, settings: Any, redis_server: RedisServer
) -> None:
    """As on any other layer: no id, and a reset for who comes back."""
    hosts = [redis_host(redis_server.url), redis_host(f"{redis_server.url.removesuffix('0')}1")]
    use_layer("rooms", request, settings, hosts=hosts)
    rooms = ["a", "b", "c", "d"]
    async with clients(f"/rooms/{','.join(rooms)}?since=latest", "/rooms/a?since=epoch-1") as (first, second):
        assert await first.frame() == {"MESSAGE_ID": "sys.resumed", "message": {"replayed": 0}}
        assert await second.frame() == {"MESSAGE_ID": "sys.reset", "message": {"reason": "no_history"}}
        for number, room in enumerate(rooms):
            await Note(number=number).send(room)
            await asyncio.to_thread(Note(number=number).send_sync, room)
            frames = [await first.frame() for _ in range(2)]
            assert frames == [{"MESSAGE_ID": "tests.note", "message": {"number": number, "text": ""}, "room": room}] * 2
        await Note(number=9).send(*rooms, idempotency_key="not known here")
        assert await first.numbers(1) == [9]
        assert await second.numbers(3) == [0, 0, 9]
    assert redis_server.client.keys(f"{settings.CHANNEL_LAYERS['default']['CONFIG']['prefix']}*") == []


# Senders


@pytest.mark.parametrize("message", [Note(number=1), KeptNote()], ids=["history", "retained"])
@pytest.mark.parametrize("options", [{}, {"idempotency_key": "order-7"}, {"exclude": "nobody"}], ids=str)
async def test_sync_and_async_sends_make_the_same_call(
    request: pytest.FixtureRequest,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
    message: WebSocketMessage,
    options: dict[str, Any],
) -> None:
    """But for the uid, and the epoch that each offers."""
    use_layer("rooms", request, settings)
    made: list[tuple[dict[str, Any], dict[str, Any]]] = []
    send = Calls.send

    def spy(calls: Calls, targets: Any, payload: bytes, **how: Any) -> Call:
        event = get_channel_layer().deserialize(payload)
        uid = event.pop("uid")
        how["once"] = how["once"].replace(uid, "the uid")
        made.append((event, {"targets": targets, **how}))
        return send(calls, targets, payload, **how)

    monkeypatch.setattr(Calls, "send", spy)
    await message.send("a", "b", **options)
    await asyncio.to_thread(lambda: message.send_sync("a", "b", **options))
    first, second = made
    assert first == second
    assert first[1]["once"] == f"key:{options['idempotency_key']}" if "idempotency_key" in options else "uid:the uid"


async def test_a_rooms_message_for_another_group_goes_there(request: pytest.FixtureRequest, settings: Any) -> None:
    """A stock consumer may hand on what it got: only what is for its own room has a place in history."""
    use_layer("rooms", request, settings)
    layer: Any = get_channel_layer()
    channel = await layer.new_channel()
    for group in ("elsewhere", "room.a"):
        await layer.group_add(group, channel)
        event = room_message(["a"], TEXT)
        await layer.group_send(group, event)
        assert await asyncio.wait_for(layer.receive(channel), 5) == event
    await layer.flush()


# The changeover from the stock pub/sub layer


async def test_without_any_history_stock_receivers_can_read_what_is_sent(
    request: pytest.FixtureRequest, settings: Any
) -> None:
    """The first step of a changeover: all kinds of messages are bare, and who comes back is told to reload."""
    settings.ROOMS = {"history_messages": 0}
    config = use_layer("rooms", request, settings)["CONFIG"]
    stock: Any = RedisPubSubChannelLayer(**config)  # type: ignore[arg-type]
    channel = await stock.new_channel()
    await stock.group_add(group_name("a"), channel)
    async with clients("/rooms/a?since=latest") as (receiver,):
        since = (await receiver.frame())["id"]
        for number, (message, options) in enumerate(
            [(Note(number=0), {}), (KeptNote(), {}), (Note(number=2), {"idempotency_key": "x"})]
        ):
            await message.send("a", **options)
            event = await asyncio.wait_for(stock.receive(channel), 5)
            assert (event["type"], event["rooms"]) == ("room.message", ["a"]), number
        assert [(await receiver.frame()).get("id") for _ in range(3)] == [None] * 3
    async with clients(f"/rooms/a?since={since}") as (receiver,):
        assert (await receiver.frame())["MESSAGE_ID"] == "test_layers.kept"
        assert (await receiver.frame())["message"] == {"reason": "no_history"}
    await stock.flush()


async def test_what_a_stock_layer_sends_arrives_and_has_no_place_in_history(
    request: pytest.FixtureRequest, settings: Any
) -> None:
    """In either step, beside what has one; a second copy is ignored."""
    config = use_layer("rooms", request, settings)["CONFIG"]
    stock: Any = RedisPubSubChannelLayer(**config)  # type: ignore[arg-type]
    async with clients("/rooms/a?since=latest") as (receiver,):
        since = (await receiver.frame())["id"]
        event = room_message(["a"], TEXT)
        for _ in range(2):
            await stock.group_send(group_name("a"), event)
        await Note(number=1).send("a")
        assert await receiver.frame() == {"MESSAGE_ID": "x", "message": {}, "room": "a"}
        assert "id" in await receiver.frame()
    async with clients(f"/rooms/a?since={since}") as (receiver,):
        assert await receiver.numbers(1) == [1]
        assert (await receiver.frame())["message"] == {"replayed": 1}
    await stock.flush()
