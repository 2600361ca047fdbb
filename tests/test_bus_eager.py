"""`CELERY_TASK_ALWAYS_EAGER`: a team's own unit tests run handlers at once, in their own transaction."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.test import TestCase
from django.utils import timezone

from rooms_app import SendOutcome
from rooms_app.bus import BusMessage, MessageOf, Rejected, Retry, message_bus_controller, message_handler
from rooms_app.models import DeadLetter, OutboxEntry
from tests.app.messages import Note
from tests.bus_project.worker import publishes_to
from tests.clients import clients
from tests.live import free_port


class Grouped(BusMessage):
    """Have a group made."""

    MESSAGE_TOPIC = "tests.grouped"
    name: str
    failures: int = 0


class AsyncGrouped(Grouped):
    """The same for an async handler."""

    MESSAGE_TOPIC = "tests.async-grouped"


class Counted(BusMessage):
    """Published by the handlers above."""

    MESSAGE_TOPIC = "tests.counted"
    OUTBOX = True
    count: int


counts: list[int] = []


@message_handler(Grouped, retry=Retry(max_retries=2, backoff=60))
def make_group(message: MessageOf[Grouped]) -> None:
    data = message.payload()
    Note(text=data.name).send_sync("groups")
    if data.name == "unwanted":
        message.reject("no such group")
    if message.delivery_count <= data.failures:
        raise ValueError(f"try {message.delivery_count}")
    Group.objects.create(name=data.name)
    Counted(count=Group.objects.count()).publish_sync()


@message_bus_controller
class Groups:
    """An async handler."""

    @message_handler(AsyncGrouped)
    async def make_group(self, message: MessageOf[AsyncGrouped]) -> None:
        data = message.payload()
        await Note(text=data.name).send("groups")
        await Group.objects.acreate(name=data.name)
        await Counted(count=await Group.objects.acount()).publish()


@message_handler(Counted)
def note_count(message: MessageOf[Counted]) -> None:
    counts.append(message.payload().count)


@pytest.fixture(autouse=True)
def eager() -> Iterator[None]:
    """Settings as a team's tests have them; and no broker."""
    counts.clear()
    with publishes_to(f"redis://127.0.0.1:{free_port()}/0", task_always_eager=True, task_eager_propagates=False):
        yield


class InTestCase(TestCase):
    """Nothing is ever committed, and handlers see what the test has written."""

    def test_a_handler_runs_when_the_commit_callbacks_do(self) -> None:
        with self.captureOnCommitCallbacks(execute=True):
            self.assertIs(Grouped(name="staff").publish_sync(), SendOutcome.DEFERRED)
            self.assertFalse(Group.objects.exists())
        self.assertEqual(Group.objects.get().name, "staff")
        self.assertEqual(counts, [1])

    def test_async_handlers_run_in_the_same_transaction(self) -> None:
        Group.objects.create(name="before")
        with self.captureOnCommitCallbacks(execute=True):
            AsyncGrouped(name="staff").publish_sync()
        self.assertEqual(Group.objects.count(), 2)
        self.assertEqual(counts, [2])

    def test_delays_and_schedules_do_not_wait(self) -> None:
        with self.captureOnCommitCallbacks(execute=True):
            Grouped(name="delayed").delay_sync(3_600)
            Grouped(name="scheduled").schedule_sync(timezone.now() + timedelta(days=1), idempotency_key="once")
        self.assertEqual(sorted(Group.objects.values_list("name", flat=True)), ["delayed", "scheduled"])
        self.assertFalse(OutboxEntry.objects.exists())

    def test_retries_do_not_wait_and_end_in_a_dead_letter(self) -> None:
        with self.captureOnCommitCallbacks(execute=True):
            Grouped(name="third time", failures=2).publish_sync()
            Grouped(name="never", failures=3).publish_sync()
            Grouped(name="unwanted").publish_sync()
        self.assertEqual(Group.objects.get().name, "third time")
        rejected, retried = DeadLetter.objects.order_by("-died_at")
        self.assertEqual((rejected.reason, rejected.error), (DeadLetter.Reason.REJECTED, "no such group"))
        self.assertEqual((retried.reason, retried.attempts), (DeadLetter.Reason.RETRIES, 3))

    def test_errors_are_raised_where_the_team_asks_for_it(self) -> None:
        publishes = publishes_to("memory://", task_always_eager=True, task_eager_propagates=True)
        with publishes, self.assertRaisesMessage(ValueError, "try 1"), self.captureOnCommitCallbacks(execute=True):
            Grouped(name="never", failures=1).publish_sync()
        publishes = publishes_to("memory://", task_eager_propagates=True)
        with publishes, self.assertRaises(Rejected), self.captureOnCommitCallbacks(execute=True):
            Grouped(name="unwanted").publish_sync()
        self.assertFalse(DeadLetter.objects.exists())

    async def test_async_tests_publish_too(self) -> None:
        await get_user_model().objects.acreate(username="ann")
        await AsyncGrouped(name="async").publish()
        await Grouped(name="sync").publish()
        self.assertEqual(await Group.objects.acount(), 2)
        # A sync handler's commit never comes in a TestCase, and so neither does what it publishes then.
        self.assertEqual(counts, [1])


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("layer", ["memory"], indirect=True)
async def test_what_an_eager_handler_sends_reaches_clients(layer: Any) -> None:
    """When it has succeeded: a try that failed sends nothing, here neither."""
    async with clients("/rooms/groups") as (browser,):
        await Grouped(name="staff", failures=1).publish()
        assert (await browser.frame())["message"]["text"] == "staff"
        await AsyncGrouped(name="others").publish()
        assert (await browser.frame())["message"]["text"] == "others"
        await Grouped(name="never", failures=9).publish()
        await sync_to_async(Grouped(name="unwanted").publish_sync)()
        assert await browser.silent()
    assert counts == [1, 2]
