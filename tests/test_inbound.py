"""What clients say: options in the URL, frames that are only counted, and what those get who opted in."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from rooms_app.closing import CloseCode
from rooms_app.inbound import ClientOptions, FrameLimit
from tests.app.messages import Note
from tests.clients import Client, client, clients, the_hub
from tests.waiting import until


@pytest.fixture(autouse=True)
def memory_layer(settings: Any) -> None:
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}


def options(query: str = "", *subprotocols: str) -> ClientOptions:
    return ClientOptions.parse({"query_string": query.encode(), "subprotocols": list(subprotocols)})


# The options


def test_who_says_nothing_has_not_opted_in() -> None:
    """A plain `new WebSocket(url)`, also with options of the team's own."""
    for given in (options(), options("page=3&ticket=x"), options("", "graphql-ws"), ClientOptions.parse({})):
        assert given == ClientOptions()
        assert not given.opted_in


def test_since_and_ping_opt_in() -> None:
    assert options("since=k9f2-17&ping=20") == ClientOptions(since="k9f2-17", ping=20.0)
    assert options("since=latest").opted_in
    assert options("ping=1").opted_in
    assert options("since=a&since=b").since == "b"


def test_the_subprotocol_switches_all_of_it_on(settings: Any) -> None:
    """Pings too, as often as the settings say, or as the client says."""
    settings.ROOMS = {"ping": 7.0}
    assert options("", "rooms.v1") == ClientOptions(speaks_rooms=True, ping=7.0)
    assert options("ping=30", "other", "rooms.v1").ping == 30.0


@pytest.mark.parametrize(
    "query",
    [
        *("since=", "since=" + "x" * 65, "since"),
        *(
            "ping=abc",
            "ping=",
            "ping=0",
            "ping=-1",
            "ping=1.5",
            "ping=3601",
            "ping=%C2%B2",
            "ping=" + "9" * 5000,
        ),
        *("ping=1&ping=x", "&".join(f"n{number}=1" for number in range(101)), "since=latest&ping=x"),
    ],
    ids=lambda query: query[:12],
)
def test_a_malformed_option_is_a_problem_and_never_an_exception(query: str) -> None:
    """The rest is not believed either."""
    assert options(query).problem
    assert options(query).since is None


def test_bytes_that_are_no_text_are_a_problem() -> None:
    assert ClientOptions.parse({"query_string": b"since=\xff\xfe"}).problem == "malformed query string"


def test_the_longest_since_is_taken() -> None:
    """Ids have at most 64 characters."""
    assert options("since=" + "x" * 64).since == "x" * 64


@pytest.mark.parametrize("query", ["since=" + "x" * 65, "ping=abc"])
@pytest.mark.parametrize("subprotocols", [[], ["rooms.v1"]])
async def test_a_malformed_option_closes_with_4501_and_says_which(query: str, subprotocols: list[str]) -> None:
    """After the accept, where a browser can see it; who speaks `rooms.v1` is told in words too."""
    refused = client(f"/rooms/a?{query}", subprotocols=subprotocols)
    await refused.open()
    if subprotocols:
        assert (await refused.frame())["MESSAGE_ID"] == "sys.hello"
        closing = await refused.frame()
        assert closing["message"]["code"] == 4501
        assert closing["message"]["reason"].startswith(query.partition("=")[0])
    assert await refused.closed() == 4501
    await refused.wait(timeout=5)


# The frames


def frame(payload: str | bytes) -> dict[str, Any]:
    """A frame as either kind of server hands it over: with one key, or with both."""
    if isinstance(payload, str):
        return {"type": "websocket.receive", "text": payload}
    return {"type": "websocket.receive", "bytes": payload, "text": None}


@pytest.mark.parametrize("payload", ["x" * 100, b"x" * 100, "ü" * 50, "", b""])
def test_a_frame_up_to_the_limit_passes(payload: str | bytes, settings: Any) -> None:
    settings.ROOMS = {"max_inbound_bytes": 100}
    assert FrameLimit().check(frame(payload)) is None


@pytest.mark.parametrize("payload", ["x" * 101, b"x" * 101, "ü" * 51])
def test_a_larger_frame_does_not(payload: str | bytes, settings: Any) -> None:
    """Sizes are in bytes, whatever the language."""
    settings.ROOMS = {"max_inbound_bytes": 100}
    assert FrameLimit().check(frame(payload)) is CloseCode.BAD_REQUEST


def test_frames_are_counted_by_ten_seconds(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty ones too; a quiet spell makes room again."""
    settings.ROOMS = {"max_inbound_frames": 3}
    now = 1000.0
    monkeypatch.setattr("rooms_app.inbound.time.monotonic", lambda: now)
    limit = FrameLimit()
    assert [limit.check(frame("")) for _ in range(4)] == [None, None, None, CloseCode.TOO_MANY_FRAMES]
    now += 10.1
    assert limit.check(frame("x")) is None


@pytest.mark.parametrize("url", ["/rooms/a", "/endpoint/a"])
async def test_too_large_a_frame_closes_with_4501(url: str, settings: Any) -> None:
    settings.ROOMS = {"max_inbound_bytes": 10}
    async with clients(url, "/rooms/a") as (loud, neighbour):
        await loud.send_to(text_data="x" * 10)
        await loud.send_to(text_data="x" * 11)
        assert await loud.closed() == 4501
        await until(lambda: len(the_hub().connections) == 1, what="it to leave")
        await Note(number=1).send("a")
        assert await neighbour.numbers(1) == [1]


@pytest.mark.parametrize("url", ["/rooms/a", "/endpoint/a"])
async def test_too_many_frames_close_with_4013(url: str, settings: Any) -> None:
    settings.ROOMS = {"max_inbound_frames": 20}
    async with clients(url) as (loud,):
        for _ in range(21):
            await loud.send_to(text_data="x")
        assert await loud.closed() == 4013


# What those get who opted in


async def closing_said(receiver: Client) -> dict[str, Any]:
    """The payload of `sys.closing`, past whatever comes before it."""
    while True:
        message = await receiver.frame()
        if message["MESSAGE_ID"] == "sys.closing":
            return dict(message["message"])


@pytest.mark.parametrize("opted_in", ["/rooms/a?since=latest", "/rooms/a?ping=60", "/endpoint/a?since=latest"])
async def test_closing_is_said_to_those_who_opted_in_and_to_no_one_else(opted_in: str, settings: Any) -> None:
    """Before the close frame, since daphne drops the reasons of close frames."""
    settings.ROOMS = {"max_inbound_frames": 2}
    async with clients(opted_in, "/rooms/a") as (told, plain):
        for each in (told, plain):
            for _ in range(3):
                await each.send_to(text_data="x")
        reason = {"code": 4013, "reason": "too many frames", "retry_after_ms": 5000}
        assert await closing_said(told) == reason
        assert await told.closed() == 4013
        assert await plain.closed() == 4013


async def test_a_client_that_closes_is_told_nothing() -> None:
    """The close is its own."""
    async with clients("/rooms/a", subprotocols=["rooms.v1"]) as (leaving,):
        await leaving.frame()
        await leaving.send_input({"type": "websocket.disconnect", "code": 1000})
        await leaving.wait(timeout=5)
        assert leaving.output_queue.empty()


async def test_max_age_asks_to_reconnect_with_4011(settings: Any) -> None:
    """Each connection within ten per cent of it, so that they don't all come back at once."""
    settings.ROOMS = {"max_age": 1}
    loop = asyncio.get_running_loop()
    start = loop.time()
    async with clients("/rooms/a", "/endpoint/a?since=latest") as (plain, told):
        assert {0.9 <= each.expires_at - start < 1.3 for each in the_hub().connections} == {True}
        assert await closing_said(told) == {"code": 4011, "reason": "reconnect", "retry_after_ms": 0}
        assert await told.closed() == 4011
        assert await plain.closed() == 4011
        assert loop.time() - start > 0.85


async def test_silence_is_broken_for_those_who_asked_and_for_no_one_else() -> None:
    """After about that many seconds, and again."""
    async with clients("/rooms/a?ping=1", "/rooms/a") as (asked, other):
        for _ in range(2):
            event = await asked.receive_output(timeout=5)
            assert json.loads(event["text"]) == {"MESSAGE_ID": "sys.ping", "message": {}}
        assert await other.silent()


async def test_who_gets_messages_needs_no_ping() -> None:
    """Silence is the absence of any frame."""
    async with clients("/rooms/a?ping=1") as (asked,):
        for number in range(12):
            await Note(number=number).send("a")
            assert await asked.numbers(1) == [number]
            await asyncio.sleep(0.25)
