"""Beside plain Channels: stock consumers, stock `group_send`, stock test helpers."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.layers import channel_layers, get_channel_layer
from channels.routing import ProtocolTypeRouter
from channels.testing import ChannelsLiveServerTestCase
from django.test import override_settings
from django.urls import path
from websockets.sync.client import connect

from rooms_app import group_name
from rooms_app.routing import websocket_application
from rooms_app.testing import isolated_channel_layers
from tests.app.messages import Note
from tests.clients import HEADERS, Client, OpenRoom
from tests.live import RedisServer
from tests.waiting import until

#: Channels' own dispatch looks after the database connections of its thread, which an earlier test may have opened.
stock_dispatch = pytest.mark.django_db(transaction=True)


class StockConsumer(AsyncJsonWebsocketConsumer):
    """A consumer of plain Channels that listens to one of our rooms."""

    async def connect(self) -> None:
        await self.channel_layer.group_add(group_name("a"), self.channel_name)
        await self.accept()

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard(group_name("a"), self.channel_name)

    async def room_message(self, event: dict[str, Any]) -> None:
        await self.send_json({"rooms": event["rooms"], **json.loads(event["text"])})


BOTH = ProtocolTypeRouter(
    {
        "websocket": websocket_application(
            [path("stock", StockConsumer.as_asgi()), path("rooms/<str:rooms>", OpenRoom.as_asgi())]
        )
    }
)


@stock_dispatch
@pytest.mark.usefixtures("layer")
async def test_a_stock_consumer_in_the_group_gets_each_room_message() -> None:
    """In `room_message(event)`; under one ProtocolTypeRouter with ours."""
    stock, ours = Client(BOTH, "/stock", headers=HEADERS), Client(BOTH, "/rooms/a", headers=HEADERS)
    await stock.open()
    await ours.open()
    for number in range(3):
        await Note(number=number).send("a", "b")
    assert await ours.numbers(3) == [0, 1, 2]
    assert await stock.frame() == {
        "rooms": ["a", "b"],
        "MESSAGE_ID": "tests.note",
        "message": {"number": 0, "text": ""},
    }
    assert await stock.numbers(2) == [1, 2]
    await asyncio.gather(stock.disconnect(), ours.disconnect())


@stock_dispatch
@pytest.mark.usefixtures("layer")
async def test_a_stock_group_send_of_a_room_message_reaches_our_connections() -> None:
    """Without a uid, too: whoever writes it by hand needs `type`, `rooms` and `text`."""
    ours = Client(BOTH, "/rooms/a", headers=HEADERS)
    await ours.open()
    text = json.dumps({"MESSAGE_ID": "any.thing", "message": {"x": 1}})
    event = {"type": "room.message", "rooms": ["a"], "text": text}
    await get_channel_layer().group_send(group_name("a"), event)
    assert await ours.frame() == {"MESSAGE_ID": "any.thing", "message": {"x": 1}, "room": "a"}
    await ours.disconnect()


async def test_a_layer_s_test_config_is_used(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Channels itself never uses it; and each xdist worker has a prefix of its own."""
    backend = "channels_redis.core.RedisChannelLayer"
    entry = {
        "BACKEND": backend,
        "CONFIG": {"prefix": "live"},
        "TEST_CONFIG": {"prefix": "test", "hosts": [("h", 1)]},
    }
    settings.CHANNEL_LAYERS = {"default": entry}
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw3")
    with isolated_channel_layers():
        assert channel_layers["default"].prefix == "test-gw3"
    monkeypatch.delenv("PYTEST_XDIST_WORKER")
    with isolated_channel_layers():
        assert channel_layers["default"].prefix == "test"
    assert channel_layers["default"].prefix == "live"


async def test_isolated_layers_of_two_tests_do_not_meet() -> None:
    """What one leaves behind the next does not see."""
    with isolated_channel_layers():
        first = get_channel_layer()
        await first.group_add("g", "c")
    with isolated_channel_layers():
        assert get_channel_layer() is not first
        assert get_channel_layer().groups == {}


@pytest.mark.slow
class TestLiveServer(ChannelsLiveServerTestCase):
    """Channels' own live-server test case, with the demo: a daphne in another process."""

    redis: RedisServer

    @classmethod
    def setUpClass(cls) -> None:
        from rooms_app.layers import channel_layer

        entry = channel_layer("pubsub", cls.redis.url, prefix="live-test-case")
        cls.overridden = override_settings(CHANNEL_LAYERS={"default": entry})
        cls.overridden.enable()
        super().setUpClass()

    @classmethod
    def tearDownClass(cls) -> None:
        super().tearDownClass()
        cls.overridden.disable()

    def test_messages_of_the_test_and_of_a_view_arrive(self) -> None:
        """Sent here by `send_sync`, and there by a POST."""
        with connect(f"{self.live_server_ws_url}/ws/lobby") as receiver:
            Note(number=1).send_sync("lobby")
            assert json.loads(receiver.recv(timeout=5))["message"]["number"] == 1
            url = f"{self.live_server_url}/chat/lobby/message"
            assert httpx.post(url, json={"content": "hi"}).status_code == 200
            assert json.loads(receiver.recv(timeout=5))["message"]["content"] == "hi"


@pytest.fixture(autouse=True, scope="module")
def _redis_for_the_live_server(redis_server: RedisServer) -> None:
    TestLiveServer.redis = redis_server


async def test_until_reports_what_it_waited_for() -> None:
    """A wait in vain fails with a name."""
    with pytest.raises(AssertionError, match="the moon"):
        await until(lambda: False, what="the moon", timeout=0.05)
