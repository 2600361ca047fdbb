"""What is wrong with one bus message is no matter of the others: it is told of, and they go on."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import amqp.exceptions
import pytest
import redis
from asgiref.sync import sync_to_async
from celery.exceptions import QueueNotFound
from django.test import override_settings
from django.utils import timezone
from kombu.exceptions import EncodeError, OperationalError
from pydantic import SecretStr, field_serializer

from rooms_app.bus import BusMessage, MessageOf, message_handler
from rooms_app.bus.broker import _is_away, _options, celery_app
from rooms_app.bus.calling import call
from rooms_app.bus.delivery import Delivery
from rooms_app.bus.handlers import handlers
from rooms_app.bus.running import handle
from rooms_app.manager import SendOutcome
from rooms_app.models import DeadLetter, OutboxEntry
from rooms_app.relay import relay_due
from tests import test_bus_publishing
from tests.live import RedisServer
from tests.test_bus_publishing import queued

pytestmark = pytest.mark.django_db(transaction=True)

queues, fresh_broker = test_bus_publishing.queues, test_bus_publishing.fresh_broker


class Parcel(BusMessage):
    MESSAGE_TOPIC = "tests.refused.parcel"
    number: float = 0
    token: SecretStr | list[SecretStr] = []


class Lost(BusMessage):
    """For a queue that Celery has not been told of."""

    MESSAGE_TOPIC = "tests.refused.lost"


@message_handler(Parcel)
def carry(message: MessageOf[Parcel]) -> None: ...


@message_handler(Lost, queue="nowhere")
def lose(message: MessageOf[Lost]) -> None: ...


@pytest.fixture
def strict_queues(queues: RedisServer) -> Iterator[RedisServer]:
    """Queues have to be named in the settings."""
    conf = celery_app().conf
    conf.task_create_missing_queues = False
    celery_app().amqp.queues.create_missing = False
    yield queues
    conf.task_create_missing_queues = True
    celery_app().amqp.queues.create_missing = True


def test_one_that_can_not_be_published_holds_up_no_other(
    strict_queues: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """It is tried again by itself, and failed at last, where the admin shows it."""
    with caplog.at_level(logging.ERROR, "rooms_app.bus"):
        assert Lost().publish_sync() is SendOutcome.DEFERRED
    assert "a bus message is not taken" in caplog.text and "nowhere" in caplog.text
    assert Parcel(number=1).publish_sync() is SendOutcome.SENT
    Parcel(number=2).delay_sync(60)
    for _ in range(8):
        OutboxEntry.objects.exclude(state="failed").update(claimed_until=None, due_at=datetime.now(UTC))
        relay_due()
    assert [json.loads(each["delivery"].payload)["number"] for each in queued(strict_queues)] == [1, 2]
    (left,) = OutboxEntry.objects.exclude(state="done")
    assert (left.state, left.attempts) == ("failed", 8)
    assert "nowhere" in left.error


@pytest.mark.parametrize("use_tz", [True, False])
def test_it_is_published_whatever_use_tz_says(queues: RedisServer, use_tz: bool) -> None:
    """At once, later, at a moment; and its dead letter has its time."""
    with override_settings(USE_TZ=use_tz, TIME_ZONE="America/New_York"):
        Parcel(number=1).publish_sync()
        Parcel(number=2).delay_sync(60)
        OutboxEntry.objects.update(due_at=timezone.now())
        Parcel(number=3).schedule_sync(datetime.now(UTC) + timedelta(hours=1))
        assert relay_due() == 1
        found = [each["delivery"] for each in queued(queues)]
        assert [json.loads(each.payload)["number"] for each in found] == [1, 2]
        assert abs(found[0].published_at - datetime.now(UTC)) < timedelta(minutes=1)
        (later,) = OutboxEntry.objects.all()
        wait = later.due_at - timezone.now()
        assert timedelta(minutes=59) < wait < timedelta(minutes=61)
        handle({**found[0].body(), "handler": "gone", "waits": 99}, was_redelivered=False)
        letter = DeadLetter.objects.get()
        assert letter.published_at is not None


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"number": float("nan")}, "Parcel does not read what it writes: number: "),
        ({"token": SecretStr("abc")}, "Parcel holds a secret"),
        ({"token": [SecretStr("abc")]}, "Parcel holds a secret"),
    ],
)
def test_what_json_does_not_hold_is_refused_where_it_is_published(values: dict[str, Any], said: str) -> None:
    """A worker would get something else, or nothing that fits."""
    with pytest.raises(ValueError, match=said):
        Parcel(**values).publish_sync()


class Letter(BusMessage):
    MESSAGE_TOPIC = "tests.refused.letter"
    password: SecretStr = SecretStr("")

    @field_serializer("password", when_used="json")
    def reveal(self, value: SecretStr) -> str:
        return value.get_secret_value()


@message_handler(Letter)
def read(message: MessageOf[Letter]) -> None: ...


def test_a_secret_whose_class_writes_it_is_published(queues: RedisServer) -> None:
    """As Pydantic's docs have it."""
    assert Letter(password=SecretStr("abc")).publish_sync() is SendOutcome.SENT
    assert queued(queues)[0]["delivery"].payload == '{"password":"abc"}'


def caused(cause: Exception) -> Exception:
    error = OperationalError()
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "is_away"),
    [
        (OSError(), True),
        (OperationalError(), True),
        (caused(redis.ConnectionError()), True),
        (redis.ResponseError("OOM command not allowed"), True),
        (caused(amqp.exceptions.MessageNacked()), True),
        (amqp.exceptions.AccessRefused("ACCESS_REFUSED - Login was refused"), True),
        # Of this process, which may have a broken URL: others may have a better one.
        (KeyError("No such transport: redsi"), True),
        (QueueNotFound("nowhere"), False),
        (amqp.exceptions.PreconditionFailed("inequivalent arg"), False),
        (amqp.exceptions.AccessRefused("access to queue 'reports' refused"), False),
        (caused(amqp.exceptions.ContentTooLarge()), False),
        (EncodeError(), False),
    ],
    ids=repr,
)
def test_what_is_of_one_message_is_told_from_what_is_of_the_broker(error: Exception, is_away: bool) -> None:
    assert _is_away(error) is is_away


def test_each_sending_is_a_task_of_its_own() -> None:
    """Celery may be told to drop what comes back under an id that has succeeded, and a failed try has."""
    delivery = a_delivery()
    assert _options(delivery, 0)["task_id"] != _options(delivery.next_try(attempt=2), 0)["task_id"]


def test_who_does_not_know_the_handler_sends_it_where_its_publisher_would() -> None:
    """A relay of before the deploy that added the handler."""
    options = _options(a_delivery(handler="new.handler", queue="reports", timeout=30), 0)
    assert (options["queue"], options["time_limit"]) == ("reports", 40)


def a_delivery(**values: Any) -> Delivery:
    known = {"id": str(uuid4()), "message_id": str(uuid4()), "topic": "tests.refused.parcel", "handler": "x"}
    return Delivery(**{**known, "payload": "{}", "published_at": datetime.now(UTC), **values})


class Query(BusMessage):
    MESSAGE_TOPIC = "tests.refused.query"
    blocks: bool


begun, is_cut_off, may_end = threading.Event(), threading.Event(), threading.Event()


@message_handler(Query, timeout=1)
async def query(message: MessageOf[Query]) -> None:
    if message.payload().blocks:
        try:
            await sync_to_async(slow_query)()
        except asyncio.CancelledError:
            is_cut_off.set()
            raise


def slow_query() -> None:
    begun.set()
    may_end.wait(timeout=30)


def test_a_slow_query_does_not_hold_up_a_handler_that_makes_none() -> None:
    """They share the thread of all ORM calls."""
    with ThreadPoolExecutor() as threads:
        slow = threads.submit(take_query, blocks=True)
        assert begun.wait(timeout=10)
        try:
            threads.submit(take_query, blocks=False).result(timeout=15)
            # Cut off, it waits for its query: so its process is killed if that never ends.
            assert is_cut_off.wait(timeout=15)
            threads.submit(take_query, blocks=False).result(timeout=15)
            assert not slow.done()
        finally:
            may_end.set()
        assert isinstance(slow.exception(timeout=15), TimeoutError)


def take_query(*, blocks: bool) -> None:
    """As a thread of a worker does."""
    (handler,) = handlers.of(Query.MESSAGE_TOPIC)
    payload = Query(blocks=blocks).model_dump_json()
    call(handler, MessageOf(a_delivery(topic=Query.MESSAGE_TOPIC, handler=handler.name, payload=payload), Query))
