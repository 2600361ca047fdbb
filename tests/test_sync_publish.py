"""Sync sends on the layer with history: a plain pool, no event loop, one round trip where many commit together."""

from __future__ import annotations

import gc
import os
import threading
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.db import transaction

from rooms_app import SendOutcome, current_cursor_sync
from tests.app.messages import Note
from tests.conftest import use_layer
from tests.live import RedisServer


@pytest.fixture(autouse=True)
def history_layer(request: pytest.FixtureRequest, settings: Any) -> None:
    """The layer with history, on a prefix of the test's own."""
    use_layer("rooms", request, settings)


def connections_made(server: RedisServer) -> int:
    """How many connections Redis has taken until now."""
    stats: Any = server.client.info("stats")
    return int(stats["total_connections_received"])


def test_ten_thousand_sends_use_one_connection_and_leave_nothing(redis_server: RedisServer) -> None:
    """No event loop, no thread, no open file, no growing heap."""
    assert Note(number=0).send_sync("a") is SendOutcome.SENT
    gc.collect()
    before = (connections_made(redis_server), set(threading.enumerate()), len(os.listdir("/proc/self/fd")))
    objects = len(gc.get_objects())
    for number in range(10_000):
        assert Note(number=number).send_sync("a") is SendOutcome.SENT
    gc.collect()
    after = (connections_made(redis_server), set(threading.enumerate()), len(os.listdir("/proc/self/fd")))
    assert after == before
    assert len(gc.get_objects()) - objects < 200


def test_a_stock_send_from_sync_code_opens_a_connection_each_time(
    redis_server: RedisServer, request: pytest.FixtureRequest, settings: Any
) -> None:
    """What `send_sync` is measured against: the benchmark's scenario F has the times."""
    use_layer("pubsub", request, settings)
    group_send = async_to_sync(get_channel_layer().group_send)  # type: ignore[union-attr]
    before = connections_made(redis_server)
    for _ in range(10):
        group_send("group", {"type": "x"})
    assert connections_made(redis_server) - before >= 10


@pytest.mark.django_db(transaction=True)
def test_messages_that_commit_together_leave_in_one_round_trip(redis_server: RedisServer) -> None:
    """In order, and without those of a savepoint that was rolled back."""
    since = current_cursor_sync()
    assert since is not None
    with transaction.atomic():
        for number in range(5):
            assert Note(number=number).send_sync("a") is SendOutcome.DEFERRED
        with pytest.raises(LookupError), transaction.atomic():
            Note(number=99).send_sync("a")
            raise LookupError
        Note(number=5).send_sync("a")
    assert numbers_in_history(redis_server) == [0, 1, 2, 3, 4, 5]


def numbers_in_history(server: RedisServer) -> list[int]:
    """What the one room's stream holds."""
    layer: Any = get_channel_layer()
    (stream,) = server.client.keys(f"{layer.prefix}:rooms:stream:*")  # type: ignore[misc]
    rows: Any = server.client.xrange(stream)
    events = [layer.deserialize(fields[b"m"].partition(b"\n")[2]) for _, fields in rows]
    return [int(event["text"].partition('"number":')[2].partition(",")[0].rstrip("}")) for event in events]


def test_redis_that_forgot_the_scripts_is_told_them_again(redis_server: RedisServer) -> None:
    """A restart, or SCRIPT FLUSH: nothing is lost by it."""
    Note(number=1).send_sync("a")
    redis_server.client.script_flush()
    assert Note(number=2).send_sync("a") is SendOutcome.SENT
    assert numbers_in_history(redis_server) == [1, 2]


def test_a_connection_that_redis_closed_is_made_again(redis_server: RedisServer) -> None:
    """Also right after it was used, when nobody looks whether it is still there."""
    Note(number=1).send_sync("a")
    redis_server.client.client_kill_filter(_type="normal", skipme=True)
    assert Note(number=2).send_sync("a") is SendOutcome.SENT
    assert numbers_in_history(redis_server) == [1, 2]
