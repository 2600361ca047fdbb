"""Sync code sends through one background loop; real scripts, and real connections on a real Redis."""

from __future__ import annotations

import asyncio
import contextvars
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Any

import pytest
import pytest_django
from asgiref.sync import sync_to_async
from django.core.exceptions import SynchronousOnlyOperation
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient
from django.urls import path

from rooms_app import SendOutcome, provide_ws_manager, use_ws_manager, use_ws_message_sender
from rooms_app.background import BackgroundLoop
from rooms_app.manager import ChannelLayerManager
from tests.app.messages import Note
from tests.clients import clients, the_hub
from tests.conftest import use_layer
from tests.live import ROOT, RedisServer
from tests.waiting import until

#: Every sync form there is, on arguments that would do in another thread.
SYNC_FORMS: dict[str, Callable[[Any], object]] = {
    "message.send_sync": lambda websocket: Note().send_sync("a"),
    "message.broadcast_sync": lambda websocket: Note().broadcast_sync(),
    "sender.send_sync": lambda websocket: use_ws_message_sender().send_sync(["a"], Note()),
    "manager.send_sync": lambda websocket: use_ws_manager().send_sync(["a"], Note()),
    "manager.broadcast_sync": lambda websocket: use_ws_manager().broadcast_sync(b"{}"),
    "manager.join_sync": lambda websocket: use_ws_manager().join_sync(["b"], websocket),
    "manager.leave_sync": lambda websocket: use_ws_manager().leave_sync(["a"], websocket),
    "manager.add_websocket_sync": lambda websocket: use_ws_manager().add_websocket_sync(websocket),
    "manager.remove_websocket_sync": lambda websocket: use_ws_manager().remove_websocket_sync(websocket),
}


async def calls_a_sync_form(request: HttpRequest) -> HttpResponse:
    """An async view with a common mistake."""
    try:
        Note().send_sync("a")
    except SynchronousOnlyOperation as error:
        return HttpResponse(str(error))
    return HttpResponse("sent")


urlpatterns = [path("mistake", calls_a_sync_form)]

PRELUDE = """
import os, sys, threading
from concurrent.futures import ThreadPoolExecutor
import django
django.setup()
import redis
from rooms_app import SendOutcome, use_ws_manager
from tests.app.messages import Note

def send(number):
    return Note(number=number).send_sync("a") is SendOutcome.SENT
"""

SENDS_FROM_ANYWHERE = """
info = redis.Redis.from_url(os.environ["REDIS_URL"]).info
before = info("stats")["total_connections_received"]
with ThreadPoolExecutor(8) as pool:
    assert all(pool.map(send, range(300)))
assert all(map(send, range(300, 600)))
opened = info("stats")["total_connections_received"] - before
loops = [thread for thread in threading.enumerate() if thread.name == "rooms-background"]
print(len(loops), opened)
"""

#: From 3.12 on Python warns of a fork beside threads.
QUIET = ["-W", "ignore::DeprecationWarning"]

FORKS_BETWEEN_SENDS = """
assert send(0)
child = os.fork()
if not child:
    assert send(1)
    sys.exit()
assert os.waitpid(child, 0)[1] == 0
assert send(2)
"""

FORKS_WHILE_OTHERS_SEND = """
import signal
# Once before: a fork in the middle of an import is beyond anyone's help.
assert send(0)
is_over = threading.Event()
def hammer():
    while not is_over.is_set():
        Note().send_sync("elsewhere")
threads = [threading.Thread(target=hammer) for _ in range(4)]
for thread in threads:
    thread.start()
try:
    for number in range(1, 20):
        child = os.fork()
        if not child:
            signal.alarm(20)
            os._exit(0 if send(number) and use_ws_manager().counts == {"sent": 1} else 1)
        assert os.waitpid(child, 0)[1] == 0
finally:
    is_over.set()
"""


@pytest.fixture(params=["pubsub", "classic"])
async def script(
    request: pytest.FixtureRequest,
    redis_server: RedisServer,
    settings: pytest_django.fixtures.SettingsWrapper,
) -> AsyncIterator[Callable[..., Any]]:
    """Runs Python in a process of its own, on the channel layer of this one; gives what it printed."""
    entry: dict[str, Any] = use_layer(request.param, request, settings)
    env = {
        "DJANGO_SETTINGS_MODULE": "project.settings",
        "REDIS_URL": redis_server.url,
        "CHANNEL_LAYER": request.param,
        "CHANNEL_PREFIX": entry["CONFIG"]["prefix"],
        "DJANGO_SECRET_KEY": "only-for-tests",
    }

    async def run(*arguments: str) -> str:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
            cwd=ROOT,
            env={**os.environ, **env},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            out, errors = await asyncio.wait_for(process.communicate(), 60)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 0, errors.decode()
        assert errors.decode() == ""
        return out.decode()

    yield run


async def test_sends_from_threads_share_one_loop_and_few_connections(
    script: Callable[..., Any], request: pytest.FixtureRequest
) -> None:
    """At most one connection a thread, none for each send; and a script ends without a complaint.

    On the pub/sub layer without any loop: there a send is a plain PUBLISH.
    """
    needs_loop = request.node.callspec.params["script"] != "pubsub"
    async with clients("/rooms/a") as (receiver,):
        loops, opened = map(int, (await script("-c", PRELUDE + SENDS_FROM_ANYWHERE)).split())
        assert loops == (1 if needs_loop else 0)
        # Eight threads, and the script's own.
        assert 1 <= opened <= 9
        numbers = await receiver.numbers(600)
        assert sorted(numbers[:300]) == list(range(300))
        assert numbers[300:] == list(range(300, 600))


async def test_a_management_command_leaves_no_connection_behind(
    script: Callable[..., Any], redis_server: RedisServer
) -> None:
    """`manage.py shell -c` is the shortest one; the loop ends with the process, and closes what it opened."""
    code = f"{PRELUDE}\nprint([send(number) for number in range(3)])"
    async with clients("/rooms/a") as (receiver,):
        before = {entry["id"] for entry in redis_server.client.client_list()}
        assert (await script("manage.py", "shell", "--verbosity", "0", "-c", code)).strip() == str([True] * 3)
        assert await receiver.numbers(3) == [0, 1, 2]
        await until(
            lambda: not {entry["id"] for entry in redis_server.client.client_list()} - before,
            what="the command's connections to be closed",
        )


async def test_a_forked_child_can_send_and_so_can_its_parent_after_it(script: Callable[..., Any]) -> None:
    """The child starts a loop of its own, and leaves the parent's alone when it exits."""
    async with clients("/rooms/a") as (receiver,):
        await script(*QUIET, "-c", PRELUDE + FORKS_BETWEEN_SENDS)
        assert await receiver.numbers(3) == [0, 1, 2]


async def test_a_child_forked_in_the_middle_of_other_threads_sends_can_send(
    script: Callable[..., Any],
) -> None:
    """No lock that a thread held in the parent stops it; and its counts are its own."""
    async with clients("/rooms/a") as (receiver,):
        await script(*QUIET, "-c", PRELUDE + FORKS_WHILE_OTHERS_SEND)
        assert await receiver.numbers(20) == list(range(20))


@pytest.mark.parametrize("form", SYNC_FORMS.values(), ids=SYNC_FORMS)
async def test_no_sync_form_runs_in_an_event_loop(form: Callable[[Any], object]) -> None:
    """It would block the loop that it waits for: Django's `SynchronousOnlyOperation` says so at once."""
    async with clients("/rooms/a") as (receiver,):
        (websocket,) = the_hub().connections
        with provide_ws_manager(ChannelLayerManager()) as manager:
            with pytest.raises(SynchronousOnlyOperation, match="async code: await "):
                form(websocket)
            assert manager.counts == {}
        assert websocket.rooms == {"a", "*"}
        assert await receiver.silent()


async def test_an_async_view_is_told_to_await(
    async_client: AsyncClient, settings: pytest_django.fixtures.SettingsWrapper
) -> None:
    """Instead of blocking every other request of its process."""
    settings.ROOT_URLCONF = __name__
    response = await async_client.get("/mistake")
    assert response.content.decode() == "send_sync() can't be called from async code: await send()."


async def test_the_sync_forms_do_in_a_thread_what_the_async_ones_do() -> None:
    """Whatever loop the connection lives in."""
    manager = use_ws_manager()
    async with clients("/rooms/a") as (receiver,):
        (websocket,) = the_hub().connections
        await sync_to_async(manager.join_sync)(["b"], websocket)
        await sync_to_async(manager.leave_sync)(["a"], websocket)
        assert websocket.rooms == {"b", "*"}
        assert await sync_to_async(manager.send_sync)(["a", "b"], Note(number=1)) is SendOutcome.SENT
        assert (await receiver.frame())["room"] == "b"
        assert await sync_to_async(manager.broadcast_sync)(b'{"raw":1}') is SendOutcome.SENT
        assert await receiver.frame() == {"raw": 1}
        await sync_to_async(manager.remove_websocket_sync)(websocket)
        assert websocket.rooms == set()
        await sync_to_async(manager.add_websocket_sync)(websocket)
        assert websocket.rooms == {"*"}


def test_threads_that_come_at_once_start_one_loop() -> None:
    """Whoever is first."""
    loop, together = BackgroundLoop(), threading.Barrier(8)

    async def running() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    def first() -> asyncio.AbstractEventLoop:
        together.wait()
        return loop.run(running)

    with ThreadPoolExecutor(8) as pool:
        started = [pool.submit(first) for _ in range(8)]
        assert len({each.result() for each in started}) == 1
    loop.close()


def test_the_caller_gets_the_error_and_lends_its_context() -> None:
    """As if it had awaited."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("the caller's")

    async def fail() -> None:
        raise LookupError(variable.get())

    loop = BackgroundLoop()
    with pytest.raises(LookupError, match="the caller's"):
        loop.run(fail)
    loop.close()


def test_closing_ends_what_is_under_way_and_the_next_call_starts_anew() -> None:
    """No thread waits for ever, and sends in later exit handlers still go."""
    loop, has_begun = BackgroundLoop(), threading.Event()

    async def wait() -> None:
        has_begun.set()
        await asyncio.Event().wait()

    async def answer() -> int:
        return 42

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(loop.run, wait)
        assert has_begun.wait(5)
        loop.close()
        with pytest.raises(CancelledError):
            waiting.result(5)
    assert loop.run(answer) == 42
    loop.close()
    loop.close()
