"""Kicks, and a process that is cut off from Redis when they are given: it heeds them when it is back."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from django.contrib.auth.models import User

from rooms_app import use_ws_manager
from rooms_app.layers import channel_layer
from rooms_app.orders import Order
from tests.clients import OpenRoom, client, clients, signed_in
from tests.histories import come_and_go, lost_subscription, resumed, send
from tests.live import RedisServer

ANN = User(pk=7, username="ann")


@pytest.fixture(autouse=True)
def history_layer(own_redis: RedisServer, settings: Any) -> None:
    """The layer with history on a Redis of the test's own; the hub looks for trouble by itself only once a minute."""
    settings.CHANNEL_LAYERS = {"default": channel_layer("rooms", own_redis.url)}
    settings.ROOMS = {"heartbeat": 60.0}


async def test_orders_given_while_the_subscription_was_lost_are_heeded(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whom they don't concern stays."""
    async with contextlib.AsyncExitStack() as stack:
        ann = client("/", application=signed_in(OpenRoom, ANN, rooms="a"))
        removed = client("/", application=signed_in(OpenRoom, User(pk=8, username="bob"), rooms="b"))
        for each in (ann, removed):
            await each.open()
            stack.push_async_callback(each.disconnect, timeout=10)
        in_closed, other = await stack.enter_async_context(clients("/rooms/c", "/rooms/a,b"))
        async with lost_subscription(own_redis, monkeypatch):
            manager = use_ws_manager()
            await manager.disconnect_user(ANN)
            await manager.remove_user(User(pk=8), "b")
            await manager.close_room("c")
        assert [await ann.closed(), await removed.closed(), await in_closed.closed()] == [4503, 4507, 4503]
        await send(1)
        assert await other.numbers(1) == [1]


async def test_a_kick_is_nothing_to_a_client_that_comes_back() -> None:
    """It is in the history that is read for her, and neither sent nor counted."""
    async with clients("/rooms/a"):
        since = await come_and_go("/rooms/a")
        await send(1)
        await use_ws_manager().disconnect_user(ANN)
        await send(2)
        async with clients(f"/rooms/a?since={since}") as (back,):
            assert await back.numbers(2) == [1, 2]
            assert (await resumed(back))["message"] == {"replayed": 2}


async def test_who_came_back_is_not_kicked_again(own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was heeded before a loss is not part of its repair."""
    application = signed_in(OpenRoom, ANN, rooms="a")
    # The hub lives as long as it has connections.
    async with clients("/rooms/b"):
        async with clients("/", application=application) as (first,):
            await use_ws_manager().disconnect_user(ANN)
            assert await first.closed() == 4503
        async with clients("/", application=application) as (again,):
            async with lost_subscription(own_redis, monkeypatch):
                await send(1)
            assert await again.numbers(1) == [1]
            assert await again.silent()


async def test_who_came_after_a_kept_kick_stays(own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """She was asked `can_join` after it, and her client would never come back."""
    monkeypatch.setattr("rooms_app.control._LATE", 0.0)
    application = signed_in(OpenRoom, ANN, rooms="a")
    async with (
        clients("/rooms/a"),
        clients("/", application=application) as (before,),
        contextlib.AsyncExitStack() as stack,
    ):
        async with lost_subscription(own_redis, monkeypatch):
            await use_ws_manager().disconnect_user(ANN)
            # The two are told apart by the time alone.
            await asyncio.sleep(0.1)
            (after,) = await stack.enter_async_context(clients("/", application=application))
        assert await before.closed() == 4503
        await send(1)
        assert await after.numbers(1) == [1]


@pytest.mark.parametrize(
    ("order", "is_kept"),
    [
        (Order(user="user-7"), True),
        (Order(user="user-7", room="a"), True),
        (Order(room="a"), True),
        (Order(session="digest"), False),
        (Order(user="user-7", recheck=True), False),
        (Order(user="user-7", reply_to="channel"), False),
    ],
)
def test_what_operators_order_is_kept_and_what_a_look_finds_is_not(order: Order, is_kept: bool) -> None:
    """Sign-outs are many: they would push messages out of the history of everyone."""
    assert order.message()["history"] is is_kept
