"""The live rooms page's socket: who gets it, what it tells, and how seldom it asks Redis."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import Permission, User
from django.test import Client as Browser
from django.urls import path

from rooms_app.layers import channel_layer
from rooms_app.routing import websocket_application
from rooms_app.watching import PATH
from tests.clients import APPLICATION, HEADERS, Client, OpenRoom, clients, signed_in
from tests.conftest import use_layer
from tests.live import RedisServer

pytestmark = pytest.mark.django_db(transaction=True)

URL = f"/{PATH}"


class Tracked(OpenRoom):
    tracks_presence = True


@pytest.fixture(autouse=True)
def rooms_layer(request: pytest.FixtureRequest, settings: Any) -> None:
    use_layer("rooms", request, settings)


@sync_to_async
def operator(name: str = "ops", *, permissions: Sequence[str] = ("view_live_rooms",), **fields: Any) -> Browser:
    user = User.objects.create(username=name, **{"is_staff": True, **fields})
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    browser = Browser()
    browser.force_login(user)
    return browser


def socket(browser: Browser | None, url: str = URL, *, application: Any = None, origin: str = "") -> Client:
    """A socket with this browser's cookies, through the Origin check and the sign-in, not yet open."""
    headers = [*HEADERS, *([(b"origin", origin.encode())] if origin else [])]
    if browser is not None:
        headers.append((b"cookie", f"sessionid={browser.cookies['sessionid'].value}".encode()))
    return Client(application or APPLICATION, url, headers=headers)


@contextlib.asynccontextmanager
async def pages(browser: Browser, *urls: str) -> AsyncIterator[list[Client]]:
    """Open pages."""
    opened = [socket(browser, url) for url in urls]
    try:
        for each in opened:
            await each.open()
        yield opened
    finally:
        await asyncio.gather(*(each.disconnect(timeout=10) for each in opened))


async def told(page: Client, **rooms: int) -> dict[str, Any]:
    """Wait until the page is told of these rooms; what else it was told with that."""
    async with asyncio.timeout(10):
        while True:
            frame = await page.frame()
            if frame["MESSAGE_ID"].startswith("sys."):
                continue
            assert frame["MESSAGE_ID"] == "rooms.live"
            listing = frame["message"]["listing"]
            if listing and {each["room"]: each["connections"] for each in listing["rooms"]} == rooms:
                return {**listing, "has_more": frame["message"]["has_more"]}


def watchers() -> list[str]:
    return [task.get_name() for task in asyncio.all_tasks() if task.get_name() in ("rooms-lookout", "rooms-watching")]


async def test_a_page_is_told_what_there_is_and_what_changes() -> None:
    """It is a connection, and in no room; what stays the same is not told again."""
    async with pages(await operator(), URL) as (page,):
        found = await told(page)
        assert found["total_rooms"] == 0 and not found["has_more"]
        async with clients("/rooms/a,b", "/rooms/a"):
            found = await told(page, a=2, b=1)
            assert (found["connections"], found["total_rooms"]) == (3, 2)
            assert [(each["connections"], each["rooms"]) for each in found["processes"]] == [(3, 2)]
            assert await page.receive_nothing(timeout=1.5)
    assert watchers() == []


async def test_a_page_is_told_of_the_rooms_that_it_shows() -> None:
    """By its pattern, and by its place in the list; one that comes later is told at once what there is."""
    rooms = [f"chat-{number:02}" for number in range(51)]
    second = f"{URL}?match=chat-*&page=2"
    async with (
        clients(f"/rooms/{','.join(rooms)},den", "/rooms/chat-50"),
        pages(await operator(), f"{URL}?match=chat-*&page=x", second) as (first, last),
    ):
        found = await told(first, **dict.fromkeys(rooms[:49], 1), **{"chat-50": 2})
        assert (found["total_rooms"], found["has_more"]) == (51, True)
        found = await told(last, **{"chat-49": 1})
        assert (found["total_rooms"], found["has_more"]) == (51, False)
        async with pages(await operator("other"), second) as (late,):
            await told(late, **{"chat-49": 1})


async def message(page: Client, message_id: str, is_wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Wait until the page is told so by a message of this type."""
    async with asyncio.timeout(30):
        while True:
            frame = await page.receive_json_from(timeout=20)
            if frame["MESSAGE_ID"] == message_id and is_wanted(frame["message"]):
                return dict(frame["message"])


async def test_a_users_page_is_told_where_she_is() -> None:
    """As she comes and goes, beside the list of rooms."""
    ann = await User.objects.acreate(username="ann")
    async with pages(await operator(), f"{URL}?user=ann") as (page,):
        await message(page, "rooms.live", lambda shown: shown["listing"]["rooms"] == [])
        async with clients("/", application=signed_in(OpenRoom, ann, rooms="den")):
            shown = await message(page, "rooms.live.user", lambda shown: len(shown["connections"]) == 1)
            assert shown["connections"][0]["rooms"] == f"den, user-{ann.pk}"
        await message(page, "rooms.live.user", lambda shown: shown["connections"] == [])


async def test_a_rooms_page_is_told_who_is_in_it() -> None:
    """Where that is tracked, and how many connections it has."""
    ann = await User.objects.acreate(username="ann")
    async with pages(await operator(), f"{URL}?room=den") as (page,):
        await message(page, "rooms.live.room", lambda shown: shown["connections"] == 0)
        async with clients("/", application=signed_in(Tracked, ann, rooms="den")):
            shown = await message(page, "rooms.live.room", lambda shown: shown["member_count"] == 1)
            assert shown["members"] == [{"id": str(ann.pk), "name": "ann"}]
            await message(page, "rooms.live.room", lambda shown: shown["connections"] == 1)
        await message(page, "rooms.live.room", lambda shown: (shown["connections"], shown["members"]) == (0, []))


@pytest.mark.parametrize("query", ["room=" + "x" * 300, "user=%00", "user=" + "9" * 400])
async def test_what_there_can_not_be_is_no_error(query: str) -> None:
    async with pages(await operator(), f"{URL}?{query}") as (page,):
        frame = await message(page, f"rooms.live.{query.partition('=')[0]}", lambda shown: True)
        assert not frame["connections"]


@pytest.mark.parametrize(
    "fields",
    [{"permissions": ()}, {"is_staff": False}],
    ids=["no permission", "not of the staff"],
)
async def test_who_may_not_see_the_page_is_refused_with_4507(fields: dict[str, Any]) -> None:
    """Whoever she is, the page itself says no, too."""
    browser = await operator(**fields)
    one = socket(browser)
    await one.open()
    assert await one.closed() == 4507
    assert (await sync_to_async(browser.get)("/admin/rooms_app/liveroom/")).status_code in (302, 403)


async def test_the_anonymous_and_other_sites_are_refused() -> None:
    nobody = socket(None)
    await nobody.open()
    assert await nobody.closed() == 4500
    browser = await operator()
    is_open, _ = await socket(browser, origin="https://elsewhere.example").connect()
    assert not is_open
    own = socket(browser, origin="http://localhost")
    await own.open()
    await told(own)
    await own.disconnect()


async def test_it_ends_with_the_sign_in_and_with_the_permission(settings: Any) -> None:
    """A logout at once, a permission that is taken away at the next look."""
    settings.ROOMS = {"sign_in_check": 0.2}
    leaver, demoted = await operator("leaver"), await operator("demoted")
    async with pages(leaver, URL) as (first,), pages(demoted, URL) as (second,):
        await told(first)
        await told(second)
        await sync_to_async(leaver.post)("/admin/logout/")
        assert (await first.receive_output(timeout=5))["code"] == 4005
        await (await User.objects.aget(username="demoted")).user_permissions.aclear()
        while (event := await second.receive_output(timeout=5))["type"] != "websocket.close":
            assert "rooms.live" in event["text"]
        assert event["code"] == 4507
    assert watchers() == []


async def test_a_projects_own_route_comes_first() -> None:
    theirs = websocket_application([path("rooms-<str:rooms>/live", OpenRoom.as_asgi())])
    one = socket(None, f"{URL}?since=latest", application=theirs)
    await one.open()
    assert (await one.frame())["MESSAGE_ID"] == "sys.resumed"
    await one.disconnect()


async def test_without_the_admin_there_is_no_such_path(settings: Any) -> None:
    settings.INSTALLED_APPS = [app for app in settings.INSTALLED_APPS if app != "django.contrib.admin"]
    one = socket(None)
    await one.open()
    assert await one.closed() == 4501


async def test_while_redis_is_away_the_page_is_told_so(settings: Any, own_redis: RedisServer) -> None:
    settings.CHANNEL_LAYERS = {"default": channel_layer("rooms", own_redis.url)}
    # As its script does: told of a loss by a reset rather than closed.
    async with pages(await operator(), f"{URL}?since=latest") as (page,):
        await told(page)
        own_redis.stop()
        frame = await page.frame()
        assert frame["message"] == {"listing": None, "has_more": False}
        own_redis.restart()
        await told(page)


@contextlib.contextmanager
def reads(server: RedisServer, calls: list[float]) -> Iterator[None]:
    """The times at which the counts are read, by Redis's own account: only that script is given rooms to skip."""
    with server.client.monitor() as monitor:

        def watch() -> None:
            with contextlib.suppress(Exception):
                for command in monitor.listen():
                    if command["command"].startswith("EVALSHA") and command["command"].endswith(" 0 50"):
                        calls.append(command["time"])

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            monitor.connection.disconnect()
            thread.join(timeout=5)


async def test_however_many_pages_are_open_redis_is_read_once_a_second(settings: Any, own_redis: RedisServer) -> None:
    """Of two views each in its turn; and not at all once all are closed."""
    settings.CHANNEL_LAYERS = {"default": channel_layer("rooms", own_redis.url)}
    calls: list[float] = []
    browser = await operator()
    with reads(own_redis, calls):
        async with pages(browser, *[URL] * 12) as opened:
            for page in opened:
                await told(page)
            async with clients("/rooms/a"):
                for page in opened:
                    await told(page, a=1)
        assert watchers() == []
    assert 2 <= len(calls) <= 6
    assert min(later - before for before, later in itertools.pairwise(calls)) > 0.9
