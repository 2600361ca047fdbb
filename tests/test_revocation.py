"""Kicks, closed rooms, and the ends of sign-ins: in every process, and no one else's connections."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
from websockets.asyncio.client import ClientConnection

from rooms_app import RoomConsumer, SendOutcome, use_ws_manager
from rooms_app.orders import Order
from rooms_app.reports import connections_of
from rooms_app.revocation import announce_session_ended
from rooms_app.sign_ins import session_digest
from rooms_app.transport import channel_layer, group_send
from tests.app.messages import Note
from tests.clients import Client, client, the_hub
from tests.devices import Device, close_code
from tests.live import DemoServers, demo_servers
from tests.waiting import until

ANN, BOB = User(pk=7, username="ann"), User(pk=8, username="bob")


class Rooms(RoomConsumer):
    """Lets everybody in."""

    async def get_rooms(self) -> list[str]:
        return list(self.kwargs["rooms"])

    async def can_join(self, room: str) -> bool:
        return True


@contextlib.asynccontextmanager
async def connected(*members: tuple[User, list[str]]) -> AsyncIterator[list[Client]]:
    """A client for each user, in these rooms."""
    opened = []
    try:
        for user, rooms in members:
            one = client("/", application=_as(user, rooms))
            await one.open()
            opened.append(one)
        yield opened
    finally:
        await asyncio.gather(*(each.disconnect(timeout=10) for each in opened))


@contextlib.asynccontextmanager
async def connected_by(user: User, *sessions: SessionStore) -> AsyncIterator[list[Client]]:
    """A client of the user by each session."""
    opened = [client("/", application=_as(user, ["a"], session)) for session in sessions]
    try:
        for one in opened:
            await one.open()
        yield opened
    finally:
        await asyncio.gather(*(each.disconnect(timeout=10) for each in opened))


async def is_refused(user: User, session: SessionStore) -> None:
    async with connected_by(user, session) as (again,):
        assert await again.closed() == 4005


@sync_to_async
def session_of(user: User) -> SessionStore:
    """A session of hers, as a login leaves it."""
    session = SessionStore()
    session[SESSION_KEY], session[HASH_SESSION_KEY] = str(user.pk), user.get_session_auth_hash()
    session.save()
    return session


def _as(user: User, rooms: list[str], session: SessionStore | None = None) -> Any:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        route = {"args": (), "kwargs": {"rooms": rooms}}
        await Rooms.as_asgi()({**scope, "user": user, "session": session, "url_route": route}, receive, send)

    return application


@pytest.mark.usefixtures("layer")
class TestInProcess:
    """On each channel layer."""

    @pytest.mark.django_db(transaction=True)
    async def test_a_session_that_has_ended_is_closed_and_not_let_in_again(self) -> None:
        """Also while it is still there: Django tells of a logout before it deletes the session."""
        user = await User.objects.acreate(username="ann")
        phone, laptop = await session_of(user), await session_of(user)
        async with connected_by(user, phone, laptop) as (first, second):
            await announce_session_ended(session_digest(phone.session_key))
            assert await first.closed() == 4005
            await is_refused(user, phone)
            assert await second.silent()
        # Also once the hub has ended with its last connection.
        await is_refused(user, phone)

    async def test_a_kicked_user_is_out_with_every_tab(self) -> None:
        """With 4503, which tells clients not to come back; nobody else is."""
        async with connected((ANN, ["a"]), (ANN, ["b"]), (BOB, ["a"])) as (first, second, bob):
            assert await use_ws_manager().disconnect_user(ANN) is SendOutcome.SENT
            assert [await first.closed(), await second.closed()] == [4503, 4503]
            await Note(number=1).send("a")
            assert await bob.numbers(1) == [1]

    async def test_who_is_removed_from_a_room_keeps_the_others(self) -> None:
        """And who had no other is closed with 4507."""
        async with connected((ANN, ["a", "b"]), (ANN, ["a"]), (BOB, ["a"])) as (both, only, bob):
            await use_ws_manager().remove_user(ANN, "a")
            assert await only.closed() == 4507
            await until(lambda: len(the_hub().subscriptions.members("a")) == 1, what="ann to be out of a")
            await Note(number=1).send("a")
            await Note(number=2).send("b")
            assert (await both.numbers(1), await bob.numbers(1)) == ([2], [1])

    async def test_a_closed_room_closes_all_in_it(self) -> None:
        async with connected((ANN, ["a", "b"]), (BOB, ["b"])) as (in_a, in_b):
            await use_ws_manager().close_room("a")
            assert await in_a.closed() == 4503
            assert await in_b.silent()

    async def test_orders_that_can_t_be_read_do_nothing(self) -> None:
        """Anyone may `group_send`."""
        async with connected((ANN, ["a"])) as (ann,):
            for malformed in (7, {}, {"user": 7}, {"room": ["a"]}, {"session": 1, "user": "user-7"}):
                await group_send(channel_layer(), {**Order(room="a").message(), "order": malformed})
            await Note(number=1).send("a")
            assert await ann.numbers(1) == [1]

    async def test_a_users_connections_are_told(self) -> None:
        """With the rooms they are in; of nobody else."""
        async with connected((ANN, ["a"]), (ANN, ["b", "c"]), (BOB, ["a"])):
            first, second = await connections_of(ANN)
            assert (list(first.rooms), list(second.rooms)) == (["a", "user-7"], ["b", "c", "user-7"])
            assert (first.process, first.since <= second.since) == (second.process, True)

    async def test_nobody_is_told_of_who_is_away(self) -> None:
        async with connected((BOB, ["a"])):
            assert await connections_of(ANN) == []
        assert await connections_of(ANN) == []


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoServers]:
    """Two processes, and staff who may sign in to the admin."""
    with demo_servers("daphne", "uvicorn", directory=tmp_path_factory.mktemp("revocation")) as servers:
        lines = ["from django.contrib.auth.models import User"]
        names = ("ann", "bob", "cay", "dot", "eve")
        lines += [f"User.objects.create_user({name!r}, password='pw', is_staff=True)" for name in names]
        servers.manage("shell", "-c", "\n".join(lines))
        yield servers


async def is_heard(demo: DemoServers, *sockets: ClientConnection) -> None:
    """What is said reaches these."""
    content = f"at {time.monotonic()}"
    async with httpx.AsyncClient() as http:
        await http.post(f"{demo.urls[0]}/chat/lobby/message", json={"content": content})
    for socket in sockets:
        while json.loads(await asyncio.wait_for(socket.recv(), 5))["message"]["content"] != content:
            pass


async def test_a_logout_ends_that_session_elsewhere_and_no_other(demo: DemoServers) -> None:
    """On the other process within a second; the user's other device goes on."""
    phone, laptop = await Device.sign_in(demo, "ann"), await Device.sign_in(demo, "ann")
    sockets = [await phone.open(0), await phone.open(1), await laptop.open(1)]
    await phone.sign_out()
    assert [await close_code(socket, within=1) for socket in sockets[:2]] == [4005, 4005]
    await is_heard(demo, sockets[2])
    await sockets[2].close()
    for device in (phone, laptop):
        await device.end()


@pytest.mark.parametrize("change", ["is_active = False", "set_password('other')"])
async def test_a_user_who_is_saved_otherwise_is_out_within_a_second(demo: DemoServers, change: str) -> None:
    """Whether inactive or with a new password; another user is not."""
    ann, bob = await Device.sign_in(demo, "eve"), await Device.sign_in(demo, "bob")
    sockets = [await ann.open(0), await ann.open(1), await bob.open(1)]
    code_of_change = f"from django.contrib.auth.models import User; u = User.objects.get(username='eve'); u.{change}; "
    # What is timed is the time from the commit on: the command takes longer than that.
    await asyncio.to_thread(demo.manage, "shell", "-c", code_of_change + "u.save()")
    assert [await close_code(socket, within=1) for socket in sockets[:2]] == [4005, 4005]
    await is_heard(demo, sockets[2])
    await asyncio.to_thread(
        demo.manage,
        *("shell", "-c"),
        code_of_change.partition(" u.")[0] + " u.is_active = True; u.set_password('pw'); u.save()",
    )
    await sockets[2].close()
    for device in (ann, bob):
        await device.end()


@pytest.mark.slow
async def test_what_sends_no_signal_is_found_within_20_seconds(demo: DemoServers) -> None:
    """A deleted session row, and `queryset.update(is_active=False)`."""
    cay, dot, bob = [await Device.sign_in(demo, name) for name in ("cay", "dot", "bob")]
    ended = [await cay.open(0), await cay.open(1), await dot.open(0), await dot.open(1)]
    stays = await bob.open(1)
    lines = [
        "from django.contrib.auth.models import User",
        "from django.contrib.sessions.models import Session",
        f"Session.objects.filter(pk={cay.session!r}).delete()",
        "User.objects.filter(username='dot').update(is_active=False)",
    ]
    await asyncio.to_thread(demo.manage, "shell", "-c", "\n".join(lines))
    assert await asyncio.gather(*(close_code(socket, within=20) for socket in ended)) == [4005] * 4
    await is_heard(demo, stays)
    await stays.close()
    for device in (cay, dot, bob):
        await device.end()


async def test_a_kick_reaches_both_processes_within_a_second(demo: DemoServers) -> None:
    """From a process that has no connections, as a command is."""
    bob = await Device.sign_in(demo, "bob")
    sockets = [await bob.open(0), await bob.open(1)]
    kick = (
        "from rooms_app import use_ws_manager; use_ws_manager().disconnect_user_sync(User.objects.get(username='bob'))"
    )
    await asyncio.to_thread(demo.manage, "shell", "-c", f"from django.contrib.auth.models import User; {kick}")
    assert [await close_code(socket, within=1) for socket in sockets] == [4503, 4503]
    await bob.end()
