"""When Redis is away, slow or cut off: requests go on, sends fail fast, and no message is doubled."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import pytest_django
from asgiref.sync import sync_to_async
from django.http import HttpRequest, JsonResponse
from django.test import AsyncClient, Client
from django.urls import path
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from rooms_app import RoomsUnavailable, SendOutcome, provide_ws_manager
from rooms_app.layers import channel_layer
from rooms_app.manager import ChannelLayerManager
from tests.app.messages import Note
from tests.clients import clients
from tests.live import DemoServers, RedisServer
from tests.waiting import wait_until

SENT, FAILED = SendOutcome.SENT, SendOutcome.FAILED


def sync_view(request: HttpRequest) -> JsonResponse:
    """Sends ten messages of the size asked for, and says what became of them and how long it took."""
    message, started = Note(text="x" * int(request.GET["size"])), time.monotonic()
    outcomes = [message.send_sync("a") for _ in range(10)]
    return JsonResponse([outcomes, time.monotonic() - started], safe=False)


async def async_view(request: HttpRequest) -> JsonResponse:
    """The same, from async code."""
    message, started = Note(text="x" * int(request.GET["size"])), time.monotonic()
    outcomes = [await message.send("a") for _ in range(10)]
    return JsonResponse([outcomes, time.monotonic() - started], safe=False)


urlpatterns = [path("sync", sync_view), path("async", async_view)]


async def get_sync(size: int) -> Any:
    return (await sync_to_async(Client().get, thread_sensitive=False)(f"/sync?size={size}")).json()


async def get_async(size: int) -> Any:
    return (await AsyncClient().get(f"/async?size={size}")).json()


class Unstoppable:
    """A channel layer that is away, and swallows the cancellation of a timeout once."""

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()


class Stopped:
    """Nobody listens on Redis's port."""

    def __init__(self, redis: RedisServer) -> None:
        self.begin: Callable[[], None] = redis.stop
        self.end: Callable[[], None] = redis.restart


class BlackHole:
    """Redis takes connections and bytes, and answers nothing."""

    def __init__(self, redis: RedisServer) -> None:
        self.begin: Callable[[], None] = lambda: redis.signal(signal.SIGSTOP)
        self.end: Callable[[], None] = lambda: redis.signal(signal.SIGCONT)


@pytest.fixture(params=["pubsub", "classic"])
def kind(request: pytest.FixtureRequest) -> str:
    """The two layers on Redis."""
    return str(request.param)


@pytest.fixture
def redis(kind: str, own_redis: RedisServer, settings: pytest_django.fixtures.SettingsWrapper) -> Iterator[RedisServer]:
    """The Redis of the channel layer, and a manager that knows of no outage yet."""
    settings.CHANNEL_LAYERS = {"default": channel_layer(kind, own_redis.url)}
    settings.ROOT_URLCONF = __name__
    yield own_redis


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """The beginnings of what the breaker logged."""
    caplog.set_level(logging.INFO, "rooms_app.breaker")
    return lambda: [
        " ".join(record.getMessage().split()[:5]) for record in caplog.records if record.name == "rooms_app.breaker"
    ]


async def seconds_until_sent() -> float:
    """How long sends go on failing, a message every few milliseconds."""
    started = time.monotonic()
    while await Note().send("a") is not SENT:
        assert time.monotonic() - started < 30, "sends never worked again"
        await asyncio.sleep(0.02)
    return time.monotonic() - started


@pytest.mark.parametrize("size", [10, 500_000])
@pytest.mark.parametrize("get", [get_sync, get_async])
@pytest.mark.parametrize("outage_kind", [Stopped, BlackHole])
async def test_requests_still_answer_during_an_outage_and_sends_work_again_after_it(
    outage_kind: type[Stopped | BlackHole],
    get: Callable[[int], Awaitable[Any]],
    size: int,
    redis: RedisServer,
    logged: Callable[[], list[str]],
) -> None:
    """Eight views at once with ten sends each: one timeout for all of it, one line, and one at its end."""
    outage = outage_kind(redis)
    with provide_ws_manager(ChannelLayerManager()) as manager:
        assert (await get(size))[0] == [SENT] * 10
        outage.begin()
        try:
            for outcomes, seconds in await asyncio.gather(*(get(size) for _ in range(8))):
                assert outcomes == [FAILED] * 10
                assert seconds < 3
            assert manager.counts == {"sent": 10, "failed": 80}
            with pytest.raises(RoomsUnavailable):
                await Note().send("a", robust=False)
            with pytest.raises(RoomsUnavailable):
                await sync_to_async(Note().send_sync)("a", robust=False)
            assert logged() == ["sends to rooms fail, and"]
        finally:
            outage.end()
        # ROOMS["retry_after"] is 1 s.
        assert await seconds_until_sent() < 2
        assert logged() == ["sends to rooms fail, and", "sends to rooms work again"]
        async with clients("/rooms/a") as (receiver,):
            assert (await get(10))[0] == [SENT] * 10
            assert await receiver.numbers(10) == [0] * 10


async def test_a_send_ends_in_time_though_its_cancellation_is_lost(
    settings: pytest_django.fixtures.SettingsWrapper,
) -> None:
    """As redis-py does now and then: the send would take its `socket_timeout`, 15 s, and hold up all others."""
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": f"{__name__}.Unstoppable"}}
    settings.ROOMS = {"send_timeout": 0.05}
    with provide_ws_manager(ChannelLayerManager()):
        assert await asyncio.wait_for(Note().send("a"), 5) is FAILED


async def test_each_burst_of_failures_is_logged_once(
    redis: RedisServer, settings: pytest_django.fixtures.SettingsWrapper, logged: Callable[[], list[str]]
) -> None:
    """And each end of one."""
    settings.ROOMS = {"retry_after": 0.1}
    with provide_ws_manager(ChannelLayerManager()):
        for _ in range(2):
            assert await Note().send("a") is SENT
            redis.stop()
            for _ in range(3):
                assert await Note().send("a") is FAILED
                await asyncio.sleep(0.11)
            redis.restart()
            await seconds_until_sent()
    assert logged() == ["sends to rooms fail, and", "sends to rooms work again"] * 2


@pytest.mark.slow
def test_a_server_answers_503_in_time_and_200_when_redis_is_back(demo_servers: DemoServers) -> None:
    """The demo tells its visitors (`robust=False`), and a load balancer asks `/health/ready`."""
    with httpx.Client(timeout=10) as client, ThreadPoolExecutor() as pool:

        def ask(method: str, path: str, **options: Any) -> list[int]:
            """The status of each server, asked at the same time."""
            urls = [url + path for url in demo_servers.urls]
            return [r.status_code for r in pool.map(lambda url: client.request(method, url, **options), urls)]

        def post() -> list[int]:
            return ask("POST", "/chat/x/message", json={"content": "hello"})

        assert post() == ask("GET", "/health/ready") == [200, 200]
        demo_servers.redis.signal(signal.SIGSTOP)
        try:
            started = time.monotonic()
            assert post() == [503, 503]
            assert time.monotonic() - started < 3
            assert ask("GET", "/health/live") == [200, 200]
            assert ask("GET", "/health/ready") == [503, 503]
        finally:
            demo_servers.redis.signal(signal.SIGCONT)
        wait_until(lambda: post() == [200, 200], what="sends to work again", timeout=3)
        wait_until(lambda: ask("GET", "/health/ready") == [200, 200], what="the servers to be ready")


class Lossy:
    """A proxy before Redis that can lose the reply to a send: Redis has it, and the connection is closed."""

    def __init__(self, redis: RedisServer) -> None:
        self._redis = redis
        self._tasks: set[asyncio.Task[None]] = set()
        #: How many more replies to lose.
        self.to_lose = 0
        #: How often a message was given to Redis.
        self.given = 0

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        """Its URL, for as long as the `async with` lasts."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        async with server:
            yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
            for task in self._tasks:
                task.cancel()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        from_redis, to_redis = await asyncio.open_connection("127.0.0.1", self._redis.port)
        is_lost = asyncio.Event()

        async def commands() -> None:
            while data := await reader.read(1 << 16):
                if b"PUBLISH" in data or b"EVAL" in data:
                    self.given += 1
                    if self.to_lose:
                        self.to_lose -= 1
                        is_lost.set()
                to_redis.write(data)
            to_redis.close()

        async def replies() -> None:
            while (data := await from_redis.read(1 << 16)) and not is_lost.is_set():
                writer.write(data)
            writer.close()

        try:
            await asyncio.gather(commands(), replies())
        finally:
            writer.close()
            to_redis.close()


async def send_async(number: int, **options: Any) -> SendOutcome:
    return await Note(number=number).send("a", **options)


async def send_sync(number: int, **options: Any) -> SendOutcome:
    return await sync_to_async(Note(number=number).send_sync)("a", **options)


@pytest.mark.parametrize("retries", [0, 1])
@pytest.mark.parametrize("send", [send_sync, send_async])
async def test_a_lost_reply_does_not_double_a_message(
    send: Callable[..., Awaitable[SendOutcome]],
    retries: int,
    kind: str,
    redis_server: RedisServer,
    settings: pytest_django.fixtures.SettingsWrapper,
) -> None:
    """Redis has it, so it arrives; the sender is told `failed`, or after redis-py's own retry `sent`."""
    # A plain PUBLISH from sync code is never retried, whatever the hosts say.
    retries = 0 if (kind, send) == ("pubsub", send_sync) else retries
    proxy = Lossy(redis_server)
    prefix = f"test-{uuid.uuid4().hex[:8]}"
    async with proxy.serve() as url:
        lossy = channel_layer(kind, url, prefix=prefix)
        if retries:
            lossy["CONFIG"]["hosts"][0]["retry"] = Retry(NoBackoff(), retries, (RedisConnectionError,))
        direct = channel_layer(kind, redis_server.url, prefix=prefix)
        settings.CHANNEL_LAYERS = {"default": direct, "lossy": lossy}
        async with clients("/rooms/a") as (receiver,):
            # So short that each send is tried.
            settings.ROOMS = {"channel_layer": "lossy", "retry_after": 1e-9}
            with provide_ws_manager(ChannelLayerManager()):
                assert await send(1) is SENT
                proxy.to_lose = 1
                assert await send(2) is (SENT if retries else FAILED)
                proxy.to_lose = 1
                with contextlib.nullcontext() if retries else pytest.raises(RoomsUnavailable):
                    assert await send(3, robust=False) is SENT
                assert await send(4) is SENT
            assert proxy.given == 4 + 2 * retries
            assert await receiver.numbers(4) == [1, 2, 3, 4]
            assert await receiver.silent()
