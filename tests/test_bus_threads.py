"""The message bus in a worker with threads: one event loop for all async handlers, and connections that end."""

from __future__ import annotations

import uuid

import pytest
from django.contrib.auth import get_user_model

from tests.bus_project.messages import AsyncJob, Job, Walk
from tests.bus_project.worker import Bus, bus

__all__ = ["bus"]

POOL = "threads"

# The worker's handlers query the database.
pytestmark = pytest.mark.django_db(transaction=True)


def test_async_handlers_share_one_loop_and_one_controller(bus: Bus) -> None:
    """Whichever thread took their message; so do their queries share a thread."""
    tag = uuid.uuid4().hex
    for _ in range(6):
        AsyncJob(tag=tag, todo="query").publish_sync()
    calls = bus.recorded(tag, 12)
    assert {call["pid"] for call in calls} == {bus.worker.pid}
    assert len({call["loop"] for call in calls if "loop" in call}) == 1
    assert len({call["orm_thread"] for call in calls if "orm_thread" in call}) == 1
    assert sorted(call["called"] for call in calls if "called" in call) == [1, 2, 3, 4, 5, 6]


def test_a_loop_takes_several_messages_at_a_time(bus: Bus) -> None:
    """One that waits holds nobody up; one that takes too long is cancelled, and tried again."""
    slow, quick = uuid.uuid4().hex, uuid.uuid4().hex
    AsyncJob(tag=slow, todo="sleep").publish_sync()
    (first,) = bus.recorded(slow)
    AsyncJob(tag=quick).publish_sync()
    (other,) = bus.recorded(quick)
    (second,) = bus.recorded(slow)
    assert first["loop"] == other["loop"]
    assert first["at"] < other["at"] < second["at"]
    assert second["count"] == 2


def test_the_end_of_one_async_handler_leaves_the_query_of_another_open(bus: Bus) -> None:
    """They share a connection to the database."""
    get_user_model().objects.bulk_create(get_user_model()(username=f"user{number}") for number in range(5))
    tag, other = uuid.uuid4().hex, uuid.uuid4().hex
    Walk(tag=tag).publish_sync()
    assert bus.recorded(tag)[0]["name"] == "begun"
    AsyncJob(tag=other, todo="query").publish_sync()
    bus.recorded(other, 2)
    AsyncJob(tag=other).publish_sync()
    bus.recorded(other)
    bus.redis.client.rpush(f"go:{tag}", "go")
    assert bus.recorded(tag)[0]["count_of_users"] == 5


def test_connections_to_the_database_do_not_add_up(bus: Bus) -> None:
    """Nor do threads, with many messages of both kinds."""
    tags = [uuid.uuid4().hex for _ in range(30)]
    for number, tag in enumerate(tags):
        (Job, AsyncJob)[number % 2](tag=tag, todo="query").publish_sync()
    calls = [call for tag in tags for call in bus.recorded(tag, 2)]
    # A connection has up to three files: three threads of the pool, that of async queries, and the relay.
    assert 0 < max(call["database_files"] for call in calls) <= 20
    assert max(call["threads"] for call in calls) <= min(call["threads"] for call in calls) + 3
