"""Live rooms in the admin: what is shown, to whom, and what can be done."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import Permission, User
from django.test import Client

from rooms_app import presence
from rooms_app.counts import count_connections
from rooms_app.layers import channel_layer
from rooms_app.models import AuditEntry
from tests.clients import client as websocket
from tests.clients import clients, signed_in
from tests.conftest import use_layer
from tests.live import free_port
from tests.test_revocation import Rooms
from tests.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True)

LIST = "/admin/rooms_app/liveroom/"
DO = f"{LIST}do/"


@pytest.fixture(autouse=True)
def rooms_layer(request: pytest.FixtureRequest, settings: Any) -> None:
    use_layer("rooms", request, settings)


def operator(name: str, *permissions: str) -> Client:
    user = User.objects.create(username=name, is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client


@sync_to_async
def shown(client: Client, **query: str) -> str:
    answer = client.get(LIST, query)
    assert answer.status_code == 200
    return str(answer.content.decode())


async def counted(**expected: int) -> None:
    while await count_connections(list(expected)) != expected:
        await asyncio.sleep(0.02)


def test_who_has_no_permission_gets_403_and_sees_no_link() -> None:
    """Whoever may see may not yet kick."""
    nobody, viewer = operator("nobody"), operator("viewer", "view_live_rooms")
    assert nobody.get(LIST).status_code == 403
    assert LIST not in nobody.get("/admin/").content.decode()
    assert LIST in viewer.get("/admin/").content.decode()
    for act in ("kick", "close", "send", "nonsense"):
        assert viewer.post(DO, {"act": act, "room": "a", "user": "nobody", "confirmed": "1"}).status_code == 403
    assert not AuditEntry.objects.exists()


async def test_rooms_are_listed_with_their_counts_and_found_by_a_pattern() -> None:
    """Names come from clients, so they are escaped; who may only see has no buttons."""
    viewer = await sync_to_async(operator)("viewer", "view_live_rooms")
    async with clients("/rooms/a,%3Cb%3E", "/rooms/a"):
        await counted(**{"a": 2, "<b>": 1})
        page = await shown(viewer)
        assert page.index(">a</a></th><td data-count>2</td>") < page.index(">&lt;b&gt;</a></th><td data-count>1</td>")
        assert 'href="/admin/rooms_app/liveroom/room/?name=%3Cb%3E"' in page
        assert '<span data-total="connections">2 connections</span>' in page
        assert '<span data-total="rooms">2 rooms</span>' in page
        assert 'name="act"' not in page
        assert ">a</a></th>" not in await shown(viewer, match="<*")


def test_the_page_needs_nothing_that_a_strict_csp_refuses() -> None:
    """No script or style of its own in the page; the socket's path is told as an attribute."""
    page = operator("viewer", "view_live_rooms").get(LIST, {"match": "a&b*", "page": "2"}).content.decode()
    assert re.findall(r"<script(?![^>]* src=)|<style| on\w+=|javascript:", page) == []
    content = page.partition('id="content-main"')[2].partition('id="footer"')[0]
    assert " style=" not in content
    assert 'data-url="/rooms-admin/live?match=a%26b%2A&amp;page=2"' in content
    assert '<script type="module" src="/static/rooms_app/admin/live.js"></script>' in page


async def test_a_room_is_closed_once_it_is_confirmed() -> None:
    """With an audit entry; the other room stays."""
    moderator = await sync_to_async(operator)("mod", "view_live_rooms", "moderate_rooms")
    post = sync_to_async(moderator.post)
    async with clients("/rooms/a", "/rooms/b") as (in_a, in_b):
        asked = await post(DO, {"act": "close", "room": "a"})
        assert "Close the room a" in asked.content.decode()
        assert await in_a.silent()
        assert (await post(DO, {"act": "close", "room": "a", "confirmed": "1"})).status_code == 302
        assert await in_a.closed() == 4503
        assert await in_b.silent()
    entry = await AuditEntry.objects.aget()
    assert (entry.actor_name, entry.action, entry.target) == ("mod", "closed", "room a")


async def test_a_user_is_found_and_kicked() -> None:
    """Her connections are shown with their rooms; one who is not there is said not to be."""
    moderator = await sync_to_async(operator)("mod", "view_live_rooms", "moderate_rooms")
    ann = await User.objects.acreate(username="ann")
    one = websocket("/", application=signed_in(Rooms, ann, rooms=["den"]))
    await one.open()
    await counted(den=1)
    assert f"<td>den, user-{ann.pk}</td>" in await shown(moderator, user="ann")
    assert "Not connected" in await shown(moderator, user="mod")
    assert "No user is called that" in await shown(moderator, user="zoe")
    await sync_to_async(moderator.post)(DO, {"act": "kick", "user": "ann", "confirmed": "1"})
    assert await one.closed() == 4503
    await one.disconnect()
    assert (await AuditEntry.objects.aget()).target == "user ann"


class Present(Rooms):
    """Lets everybody in, and tells who is there."""

    async def on_open(self) -> None:
        await presence.track(self.kwargs["rooms"], self.websocket)


async def test_a_rooms_page_names_who_is_in_it_where_that_is_tracked() -> None:
    """By two commands; elsewhere it says nothing of members. Names are a client's, so they are escaped."""
    viewer = await sync_to_async(operator)("viewer", "view_live_rooms")
    get = sync_to_async(lambda room: viewer.get(f"{LIST}room/", {"name": room}).content.decode())
    ann = await User.objects.acreate(username="<b>ann</b>")
    one = websocket("/", application=signed_in(Present, ann, rooms=["käse & wine"]))
    await one.open()
    try:
        async with clients("/rooms/attic"):
            await counted(**{"käse & wine": 1, "attic": 1})
            while await presence.count("käse & wine") != 1:
                await asyncio.sleep(0.02)
            page = await get("käse & wine")
            assert "1 connection</span>." in page and "1 member</span>" in page
            assert f'<th scope="row">{ann.pk}</th><td>&lt;b&gt;ann&lt;/b&gt;</td>' in page
            assert 'name="act"' not in page
            attic = await get("attic")
            assert "1 connection</span>." in attic and '<div data-part="members" hidden>' in attic
    finally:
        await one.disconnect()


def test_the_page_of_what_is_no_room_says_so() -> None:
    """To who may see it."""
    assert operator("nobody").get(f"{LIST}room/", {"name": "a"}).status_code == 403
    assert "at most 255 characters" in operator("viewer", "view_live_rooms").get(f"{LIST}room/").content.decode()


def test_writing_to_a_room_leads_to_the_form_with_it_filled_in() -> None:
    sender = operator("sender", "view_live_rooms", "send_broadcast")
    answer = sender.post(DO, {"act": "send", "room": "käse & <b>"})
    assert answer.status_code == 302
    page = sender.get(f"{answer['Location']}&type=tests.note").content.decode()
    assert "käse &amp; &lt;b&gt;" in page


def test_without_redis_the_page_says_so_and_recovers(settings: Any, caplog: pytest.LogCaptureFixture) -> None:
    """In the log, too: what could not be read was not dropped."""
    here = settings.CHANNEL_LAYERS
    settings.CHANNEL_LAYERS = {"default": channel_layer("rooms", f"redis://127.0.0.1:{free_port()}")}
    viewer = operator("viewer", "view_live_rooms")
    page = viewer.get(LIST)
    assert page.status_code == 200
    assert "can't be read now" in page.content.decode()
    settings.CHANNEL_LAYERS = here
    wait_until(lambda: ">0 connections</span>" in viewer.get(LIST).content.decode(), what="the counts")
    assert "counts of connections fail until the channel layer is back" in caplog.text
    assert "dropped" not in caplog.text
