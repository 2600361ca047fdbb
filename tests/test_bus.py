"""The message bus with a real worker: handlers are called, tried again, given up, and what they send leaves once."""

from __future__ import annotations

import itertools
import uuid
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db import transaction
from django.test import Client
from django.utils import timezone

from rooms_app import SendOutcome
from rooms_app.bus import NoHandler
from rooms_app.bus.broker import broker
from rooms_app.bus.delivery import Delivery
from rooms_app.bus.handlers import handlers
from rooms_app.models import DeadLetter, OutboxEntry
from tests.app.messages import Note
from tests.bus_project.celery import app
from tests.bus_project.handlers import QUICK
from tests.bus_project.messages import AsyncJob, Job, Shared, StoredJob, Unhandled, UserActivityMessage
from tests.bus_project.worker import Bus, bus, rooms
from tests.clients import OpenRoom, clients, signed_in
from tests.waiting import until, wait_until

__all__ = ["bus", "rooms"]

POOL = "prefork"

# All of them: those that need it not would be run apart, with a worker of their own.
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def tag() -> str:
    """A name of the test's own."""
    return f"tag-{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="module", autouse=True)
def stubborn(bus: Bus) -> str:
    """The tag of a message whose handler heeds no interruption: it takes a while, and the other tests go on."""
    tag = uuid.uuid4().hex
    Job(tag=tag, todo="sleep-stubbornly").publish_sync()
    return tag


def dead_letter(tag: str) -> DeadLetter:
    """The one for this tag, once it is there."""
    found: list[DeadLetter] = []

    def look() -> bool:
        found[:] = [letter for letter in DeadLetter.objects.all() if tag in letter.delivery["payload"]]
        return bool(found)

    wait_until(look, what="a dead letter", timeout=40)
    (letter,) = found
    return letter


@pytest.mark.usefixtures("rooms")
async def test_a_handler_sends_to_the_room_of_a_user(bus: Bus) -> None:
    """The example of the docs: an async method, its payload, and a browser that is told."""
    user = get_user_model()(pk=7, username="ann")
    async with clients("/", application=signed_in(OpenRoom, user, rooms="lobby")) as (browser,):
        assert await UserActivityMessage(user_id="7", action="login").publish() is SendOutcome.SENT
        frame = await browser.frame()
    assert frame["message"] == {"user_id": "7", "action": "login"}
    assert frame["room"] == "user-7"


async def test_async_and_sync_handlers_are_called_with_what_is_known_of_the_message(bus: Bus, tag: str) -> None:
    """Each delivery has an id of its own, also where several handlers take one message."""
    await Job(tag=tag).publish()
    await AsyncJob(tag=tag).publish()
    first, second = await bus.arecorded(tag, 2)
    assert first["count"] == second["count"] == 1
    assert len({first["id"], second["id"], first["message_id"], second["message_id"]}) == 4


def test_of_several_handlers_only_the_one_that_failed_is_tried_again(bus: Bus, tag: str) -> None:
    """Each gets the message, in a delivery of its own."""
    Shared(tag=tag).publish_sync()
    calls = bus.recorded(tag, 3)
    assert sorted((call["name"], call["count"]) for call in calls) == [("first", 1), ("second", 1), ("second", 2)]
    assert len({call["message_id"] for call in calls}) == 1
    assert len({call["id"] for call in calls}) == 2
    assert not bus.has_recorded(tag)


def test_a_handler_that_fails_is_tried_again_with_growing_delays_then_its_message_is_dead(bus: Bus, tag: str) -> None:
    """The dead letter has the traceback, and all that is needed to try once more."""
    Job(tag=tag, todo="fail").publish_sync()
    calls = bus.recorded(tag, QUICK.max_retries + 1)
    letter = dead_letter(tag)
    assert [call["count"] for call in calls] == [1, 2, 3, 4]
    times = [call["at"] for call in calls]
    waits = [later - earlier for earlier, later in itertools.pairwise(times)]
    for number, wait in enumerate(waits):
        assert wait >= QUICK.backoff * 2**number / 2
    assert letter.reason == DeadLetter.Reason.RETRIES
    assert (letter.topic, letter.handler, letter.attempts) == ("tests.job", "tests.bus_project.handlers.do_job", 4)
    assert "Traceback" in letter.error
    assert f"ValueError: failed as told {tag}" in letter.error
    assert Delivery.model_validate(letter.delivery).id == calls[0]["id"]
    assert not bus.has_recorded(tag)


def test_a_payload_that_does_not_fit_is_dead_at_once(bus: Bus, tag: str) -> None:
    """No handler is called with it: as after a deploy that changed the class."""
    broker.send(delivery(tag, payload=f'{{"tag": ["{tag}"]}}'))
    letter = dead_letter(tag)
    assert letter.reason == DeadLetter.Reason.PAYLOAD
    assert "Input should be a valid string" in letter.error
    assert not bus.has_recorded(tag)


def test_a_rejected_message_is_dead_at_once(bus: Bus, tag: str) -> None:
    """With the reason that the handler gave."""
    Job(tag=tag, todo="reject").publish_sync()
    letter = dead_letter(tag)
    assert (letter.reason, letter.error, letter.attempts) == (DeadLetter.Reason.REJECTED, "not for me", 1)
    assert len(bus.recorded(tag)) == 1
    assert not bus.has_recorded(tag)


def test_a_dead_letter_that_an_operator_requeues_is_handled_as_if_for_the_first_time(
    bus: Bus, tag: str, client: Client
) -> None:
    """From the admin, through the outbox, by the worker."""
    Job(tag=tag, todo="reject").publish_sync()
    letter = dead_letter(tag)
    (first,) = bus.recorded(tag)
    client.force_login(get_user_model().objects.create_superuser(f"operator-{tag}"))
    answer = client.post(f"/admin/rooms_app/deadletter/{letter.pk}/requeue/", follow=True)
    assert "Requeued" in answer.content.decode()
    (again,) = bus.recorded(tag)
    assert (again["id"], again["count"]) == (first["id"], 1)
    letter.refresh_from_db()
    assert letter.state == DeadLetter.State.REQUEUED


def test_a_handler_asks_to_be_tried_again(bus: Bus, tag: str) -> None:
    """After the usual backoff, or after as long as it says."""
    Job(tag=tag, todo="retry").publish_sync()
    Job(tag=f"{tag}-later", todo="retry-later").publish_sync()
    assert [call["count"] for call in bus.recorded(tag, 2)] == [1, 2]
    first, second = bus.recorded(f"{tag}-later", 2)
    assert second["count"] == 2
    assert second["at"] - first["at"] >= 1.5


@pytest.mark.usefixtures("rooms")
async def test_what_fails_after_an_ack_is_not_tried_again(bus: Bus, tag: str) -> None:
    """What was sent before it leaves, what was sent after it does not."""
    async with clients(f"/rooms/{tag}") as (browser,):
        await Job(tag=tag, todo="ack").publish()
        assert await browser.numbers(1) == [1]
        (call,) = await bus.arecorded(tag)
        await until(
            lambda: (
                f"a handler failed after its ack() handler=tests.bus_project.handlers.do_job id={call['id']}"
                in bus.worker.logged()
            ),
            what="the failure in the log",
        )
        await Note(number=3).send(tag)
        assert await browser.numbers(1) == [3]
    assert not bus.has_recorded(tag)


@pytest.mark.parametrize("message_type", [Job, AsyncJob])
@pytest.mark.usefixtures("rooms")
async def test_a_try_that_failed_has_sent_nothing(bus: Bus, tag: str, message_type: type[Job]) -> None:
    """What the next one sends leaves once it has succeeded, under keys made of the delivery's id."""
    expected = {Job: [21, 22], AsyncJob: [2]}[message_type]
    async with clients(f"/rooms/{tag}") as (browser,):
        await message_type(tag=tag, todo="send").publish()
        first, _ = await bus.arecorded(tag, 2)
        assert await browser.numbers(len(expected)) == expected
        for number in range(len(expected)):
            await Note(number=99).send(tag, idempotency_key=f"{first['id']}:{number}")
        await Note(number=100).send(tag)
        assert await browser.numbers(1) == [100]


@pytest.mark.usefixtures("rooms")
async def test_what_was_rolled_back_inside_a_handler_never_leaves(bus: Bus, tag: str) -> None:
    """Also where the handler succeeds: neither what it sent to a room, nor what it published."""
    async with clients(f"/rooms/{tag}") as (browser,):
        await Job(tag=tag, todo="roll-back").publish()
        assert await browser.numbers(1) == [2]
        await bus.arecorded(f"{tag}-committed")
        await Note(number=3).send(tag)
        assert await browser.numbers(1) == [3]
    assert not bus.has_recorded(f"{tag}-rolled-back")


@pytest.mark.usefixtures("rooms")
async def test_what_the_manager_sends_leaves_at_once(bus: Bus, tag: str) -> None:
    """A progress report of a try that fails later is seen."""
    async with clients(f"/rooms/{tag}") as (browser,):
        await Job(tag=tag, todo="progress").publish()
        assert await browser.numbers(2) == [1, 2]


@pytest.mark.parametrize("message_type", [Job, AsyncJob])
def test_a_handler_that_takes_too_long_has_failed(bus: Bus, tag: str, message_type: type[Job]) -> None:
    """A sync one is interrupted, an async one cancelled."""
    message_type(tag=tag, todo="sleep").publish_sync()
    first, second = bus.recorded(tag, 2)
    assert second["count"] == 2
    assert second["at"] - first["at"] < 10


def test_the_message_of_a_killed_process_is_handled_by_another(bus: Bus, tag: str) -> None:
    """It counts as one more delivery."""
    Job(tag=tag, todo="die").publish_sync()
    first, second = bus.recorded(tag, 2)
    assert (first["count"], second["count"]) == (1, 2)
    assert first["pid"] != second["pid"]


def test_a_message_that_always_kills_its_process_is_dead_after_five(bus: Bus, tag: str) -> None:
    """The worker goes on with others."""
    Job(tag=tag, todo="die-always").publish_sync()
    assert [call["count"] for call in bus.recorded(tag, 5)] == [1, 2, 3, 4, 5]
    assert dead_letter(tag).reason == DeadLetter.Reason.LOST
    Job(tag=tag).publish_sync()
    assert bus.recorded(tag)[0]["count"] == 1


def test_a_message_of_a_class_with_outbox_is_published_from_there(bus: Bus, tag: str) -> None:
    """In the transaction that stores it: rolled back, it never was."""
    with pytest.raises(LookupError), transaction.atomic():
        StoredJob(tag=f"{tag}-rolled-back").publish_sync()
        raise LookupError
    with transaction.atomic():
        assert StoredJob(tag=tag).publish_sync() is SendOutcome.DEFERRED
        assert OutboxEntry.objects.filter(kind="bus").count() == 1
        assert not bus.has_recorded(tag)
    bus.recorded(tag)
    assert not OutboxEntry.objects.filter(kind="bus").exists()
    assert not bus.has_recorded(f"{tag}-rolled-back")


def test_publishing_twice_with_one_key_is_publishing_once(bus: Bus, tag: str) -> None:
    """Also long after the first has been handled."""
    for _ in range(2):
        Job(tag=tag).publish_sync(idempotency_key=tag)
    bus.recorded(tag)
    Job(tag=tag).publish_sync(idempotency_key=tag)
    Job(tag=tag, todo="query").publish_sync()
    assert "is_open" in bus.recorded(tag, 2)[1]
    assert not bus.has_recorded(tag)


def test_the_relay_in_the_worker_publishes_what_is_due(bus: Bus, tag: str) -> None:
    """What is far away waits in the outbox, and not in a worker."""
    Job(tag=tag).schedule_sync(timezone.now() + timezone.timedelta(hours=1))
    Job(tag=tag).delay_sync(31)
    assert OutboxEntry.objects.filter(kind="bus", state=OutboxEntry.State.WAITING).count() == 2
    assert not bus.has_recorded(tag)
    OutboxEntry.objects.update(due_at=timezone.now())
    assert {call["count"] for call in bus.recorded(tag, 2)} == {1}


async def test_a_short_delay_is_kept(bus: Bus, tag: str) -> None:
    """Counted from the call."""
    called = timezone.now().timestamp()
    await Job(tag=tag).delay(0.5)
    (call,) = await bus.arecorded(tag)
    assert 0.5 <= call["at"] - called < 10


def test_a_message_without_a_handler_is_refused_where_it_is_published() -> None:
    """It would go nowhere, and nobody would know."""
    with pytest.raises(NoHandler, match=r"No handler takes 'tests.unhandled'"):
        Unhandled().publish_sync()


def test_connections_to_the_database_are_closed(bus: Bus, tag: str) -> None:
    """Before a handler is called nothing is left of those before it, in the thread that its queries run in."""
    for number in range(6):
        (Job, AsyncJob)[number % 2](tag=f"{tag}-{number}", todo="query").publish_sync()
    before, after = zip(*(bus.recorded(f"{tag}-{number}", 2) for number in range(6)), strict=True)
    assert {call["database_files"] for call in before} == {0}
    assert 0 not in {call["database_files"] for call in after}


def test_the_process_of_a_handler_that_heeds_no_interruption_is_killed(bus: Bus, stubborn: str) -> None:
    """Ten seconds after its timeout; its message is handled by another."""
    first, second = bus.recorded(stubborn, 2)
    assert (first["count"], second["count"]) == (1, 2)
    assert 10 < second["at"] - first["at"] < 30
    assert first["pid"] != second["pid"]


def test_a_worker_has_safe_defaults(bus: Bus) -> None:
    """In a real one they are in force; what the settings say stays."""
    (conf,) = app.control.inspect(timeout=0.5, connection=app.connection_for_write()).conf().values()
    assert conf["worker_prefetch_multiplier"] == 1
    assert conf["broker_transport_options"] == {
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
        "visibility_timeout": max(handler.timeout for handler in handlers if "bus_project" in handler.name) + 30,
    }


def delivery(tag: str, **changes: Any) -> Delivery:
    """One for `do_job`, as another version of this code could have published it."""
    known = {
        "id": str(uuid.uuid4()),
        "message_id": str(uuid.uuid4()),
        "topic": Job.MESSAGE_TOPIC,
        "handler": "tests.bus_project.handlers.do_job",
        "payload": Job(tag=tag).model_dump_json(),
        "published_at": timezone.now(),
    }
    return Delivery(**{**known, **changes})
