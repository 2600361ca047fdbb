"""Drain: a process told to close its connections does so over a while, and takes no more."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from django.test import AsyncClient

from rooms_app import RoomConsumer, RoomSocket, drain, use_ws_manager, websocket_endpoint
from rooms_app.connection import process_id
from rooms_app.drain import DrainOrder
from rooms_app.transport import channel_layer, group_send
from tests.app.messages import Note
from tests.clients import Client, client, clients, the_hub
from tests.conftest import use_layer
from tests.live import ROOT, RedisServer, free_port
from tests.waiting import until

OTHER = "1-abcdef"


@pytest.fixture(autouse=True)
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A drained process stays so until it ends; this one has other tests to run."""
    monkeypatch.setattr(drain, "_is_draining", False)
    yield


async def give(order: DrainOrder) -> None:
    await group_send(channel_layer(), order.message())


async def told(client: Client) -> dict[str, object]:
    """What the next frame, a `sys.closing`, says."""
    frame = await client.frame()
    assert frame["MESSAGE_ID"] == "sys.closing"
    message: dict[str, object] = frame["message"]
    return message


@pytest.mark.usefixtures("layer")
class TestInProcess:
    """On each channel layer."""

    async def test_every_connection_is_told_and_closed_with_1012(self) -> None:
        """Who did not opt in gets the code alone."""
        urls = ("/rooms/a?ping=60", "/rooms/b?ping=60", "/endpoint/c")
        async with clients(*urls) as (first, second, plain):
            await give(DrainOrder(process=process_id(), window=0.2))
            for each in (first, second):
                assert await told(each) == {"code": 1012, "reason": "restart", "retry_after_ms": 0}
                assert await each.closed() == 1012
            assert await plain.closed() == 1012

    async def test_new_connections_are_refused_with_1013(self) -> None:
        """Also once the last connection has gone, and the hub with it."""
        async with clients("/rooms/a") as (old,):
            await give(DrainOrder(process=None, window=0))
            assert await old.closed() == 1012
            for _ in range(2):
                late = client("/rooms/a")
                await late.open()
                assert await late.closed() == 1013
                await late.disconnect()
                await old.disconnect()

    async def test_another_process_is_none_of_our_business(self) -> None:
        """Nor is an order that can't be read."""
        async with clients("/rooms/a") as (open_one,):
            await give(DrainOrder(process=OTHER, window=0))
            for malformed in (7, {}, {"window": "soon"}, {"window": -1}, {"window": 1, "process": 7}):
                await group_send(channel_layer(), {**DrainOrder(process=None, window=0).message(), "drain": malformed})
            async with clients("/rooms/a"):
                assert await open_one.silent()
            assert not drain.is_draining()

    async def test_they_are_closed_evenly_over_the_window(self) -> None:
        """One in each part of it, the first at once."""
        async with clients(*["/rooms/a"] * 5) as opened:
            loop = asyncio.get_running_loop()
            await give(DrainOrder(process=None, window=1))
            began = loop.time()
            closed_after = []
            for each in opened:
                assert await each.closed() == 1012
                closed_after.append(loop.time() - began)
            assert closed_after == pytest.approx([0, 0.2, 0.4, 0.6, 0.8], abs=0.15)

    async def test_a_later_order_replaces_the_one_under_way(self) -> None:
        """For who has less time than she thought."""
        async with clients(*["/rooms/a"] * 3) as opened:
            await give(DrainOrder(process=None, window=1000))
            assert await opened[0].closed() == 1012
            await give(DrainOrder(process=None, window=0))
            for each in opened[1:]:
                assert await each.closed() == 1012

    async def test_a_connection_that_is_not_accepted_yet_is_so_first(self) -> None:
        """Browsers see a refused handshake only as 1006."""
        may_go_on, has_joined = asyncio.Event(), asyncio.Event()

        async def slow_endpoint(scope: object, receive: object, send: object) -> None:
            from rooms_app import lifecycle, use_ws_manager
            from rooms_app.connection import RoomSocket

            websocket = RoomSocket(scope, receive, send)  # type: ignore[arg-type]

            async def body() -> None:
                await use_ws_manager().join(["a"], websocket)
                has_joined.set()
                await may_go_on.wait()
                await websocket.accept()
                await websocket.wait_closed()

            await lifecycle.run(websocket, body, name="test")

        late = client("/?ping=60", application=slow_endpoint)
        await late.send_input({"type": "websocket.connect"})
        await has_joined.wait()
        (connection,) = the_hub().connections
        await give(DrainOrder(process=None, window=0))
        await until(lambda: connection.closing, what="its turn")
        may_go_on.set()
        assert (await late.receive_output())["type"] == "websocket.accept"
        assert (await told(late))["code"] == 1012
        assert await late.closed() == 1012
        await late.disconnect()

    async def test_a_connection_on_its_way_in_is_refused(self) -> None:
        """One that was not in the hub yet when the drain began: `can_join` took its time."""
        may_go_on, is_asked = asyncio.Event(), asyncio.Event()

        class Slow(RoomConsumer):
            async def get_rooms(self) -> list[str]:
                return ["a"]

            async def can_join(self, room: str) -> bool:
                is_asked.set()
                await may_go_on.wait()
                return True

        async with clients("/rooms/a") as (old,):
            late = client("/", application=Slow.as_asgi())
            await late.send_input({"type": "websocket.connect"})
            await is_asked.wait()
            await give(DrainOrder(process=None, window=0))
            assert await old.closed() == 1012
            may_go_on.set()
            assert (await late.receive_output())["type"] == "websocket.accept"
            assert await late.closed() == 1013
            await late.disconnect()

    async def test_readiness_ends_and_liveness_stays(self, settings: object) -> None:
        """So that a load balancer sends no more, and nobody kills the process before its time."""
        settings.ROOT_URLCONF = "project.urls"  # type: ignore[attr-defined]
        async with clients("/rooms/a", "/rooms/a") as (first, _):
            await give(DrainOrder(process=None, window=1000))
            assert await first.closed() == 1012
            await first.disconnect()
            ready = await AsyncClient().get("/health/ready")
            assert ready.status_code == 503
            assert ready.json() == {"status": "draining", "connections": 1, "process": process_id()}
            assert (await AsyncClient().get("/health/live")).status_code == 200
            await give(DrainOrder(process=None, window=0))


async def test_a_resume_under_way_is_begun_anew_elsewhere(request: pytest.FixtureRequest, settings: object) -> None:
    """Nothing of it was sent, so the client's place in history is the one it came with."""
    use_layer("rooms", request, settings)
    has_been_added, may_join = asyncio.Event(), asyncio.Event()

    @websocket_endpoint("")
    async def slow_endpoint(websocket: RoomSocket) -> None:
        await websocket.accept()
        await use_ws_manager().add_websocket(websocket)
        has_been_added.set()
        await may_join.wait()
        await use_ws_manager().join(["a"], websocket)
        await websocket.wait_closed()

    async with clients("/rooms/a?since=latest") as (visitor,):
        since = (await visitor.frame())["id"]
        for number in range(3):
            await Note(number=number).send("a")
    resuming = client(f"/?since={since}", application=slow_endpoint)
    await resuming.open()
    await has_been_added.wait()
    (connection,) = the_hub().connections
    await give(DrainOrder(process=None, window=0))
    assert (await told(resuming))["code"] == 1012
    assert await resuming.closed() == 1012
    may_join.set()
    await until(lambda: "a" in connection.rooms, what="the join")
    assert await resuming.silent()
    await resuming.disconnect()
    drain._is_draining = False
    async with clients(f"/rooms/a?since={since}") as (elsewhere,):
        assert await elsewhere.numbers(3) == [0, 1, 2]
        assert (await elsewhere.frame())["MESSAGE_ID"] == "sys.resumed"


def manage(*arguments: str, url: str, kind: str = "rooms", prefix: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command as in a terminal beside the servers."""
    env = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "project.settings",
        "DJANGO_SECRET_KEY": "only-for-tests",
        "REDIS_URL": url,
        "CHANNEL_LAYER": kind,
        "CHANNEL_PREFIX": prefix,
    }
    command = [sys.executable, "manage.py", "rooms_drain", *arguments]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rooms", "pubsub", "classic"])
async def test_the_command_says_who_closes_how_many(
    kind: str, request: pytest.FixtureRequest, settings: object, redis_server: RedisServer
) -> None:
    """For people, and as JSON; who has no such process is told."""
    prefix = use_layer(kind, request, settings)["CONFIG"]["prefix"]  # type: ignore[index]

    async def run(*arguments: str) -> str:
        done = await asyncio.to_thread(manage, *arguments, url=redis_server.url, kind=kind, prefix=prefix)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    async with clients("/rooms/a", "/rooms/b") as opened:
        output = await run("--process", OTHER, "--window", "0")
        assert output.startswith(f"No process {OTHER} answered")
        output = await run("--process", process_id(), "--window", "1000")
        assert output == f"{process_id()} takes no new connections, and closes 2 within 1000 s.\n"
        assert await opened[0].closed() == 1012
        await opened[0].disconnect()
        answer = json.loads(await run("--window", "0", "--json"))
        assert answer == {"window": 0.0, "processes": [{"process": process_id(), "connections": 1}]}
        assert await opened[1].closed() == 1012


@pytest.mark.parametrize(
    ("arguments", "kind", "status", "said"),
    [
        (["--process", "4711"], "rooms", 2, "'4711' is no process id"),
        (["--window", "-1"], "rooms", 2, "'-1' is no number of seconds"),
        (["--window", "inf"], "rooms", 2, "'inf' is no number of seconds"),
        (["--help"], "rooms", 0, "Example: python manage.py rooms_drain --process"),
        ([], "rooms", 1, "CommandError: The channel layer does not answer"),
        ([], "memory", 1, "CommandError: The in-memory channel layer reaches no other process"),
    ],
)
def test_the_exit_status_tells(arguments: list[str], kind: str, status: int, said: str) -> None:
    """2 for what can't be meant, 1 where Redis is away or there is none; without a traceback."""
    done = manage(*arguments, url=f"redis://127.0.0.1:{free_port()}/0", kind=kind)
    output = " ".join((done.stdout + done.stderr).split())
    assert (done.returncode, said in output, "Traceback" in output) == (status, True, False), output
