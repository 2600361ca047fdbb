"""Messages with `OUTBOX`: what was saved is announced, also if Redis is away or the process dies in between."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import connections, transaction
from django.db.transaction import TransactionManagementError
from django.test import TestCase
from django.utils import timezone
from pydantic import field_serializer

from rooms_app import InvalidRoom, MessageTooLarge, RoomsError, SendOutcome, WebSocketMessage, provide_ws_manager
from rooms_app.checks import check_project
from rooms_app.layers import channel_layer
from rooms_app.manager import ChannelLayerManager
from rooms_app.models import OutboxEntry
from rooms_app.registry import registry
from rooms_app.relay import relay_due, store
from rooms_app.stored_sends import KIND, stored_send
from tests.app.messages import KeptNote, Note
from tests.clients import clients
from tests.live import ROOT, Process, RedisServer
from tests.outbox_rows import let_time_pass, refuse_changes
from tests.waiting import until

pytestmark = pytest.mark.django_db(transaction=True)

SENT, DEFERRED, FAILED = SendOutcome.SENT, SendOutcome.DEFERRED, SendOutcome.FAILED
State = OutboxEntry.State

#: Stores three notes, and hangs on the way to Redis.
COMMIT_AND_HANG = """
import time
import django
django.setup()
from django.db import transaction
from rooms_app import provide_ws_manager
from rooms_app.manager import ChannelLayerManager
from tests.app.messages import KeptNote

class Stuck(ChannelLayerManager):
    def send_sync(self, *arguments, **options):
        print("committed", flush=True)
        time.sleep(60)

with provide_ws_manager(Stuck()), transaction.atomic():
    for number in range(3):
        KeptNote(number=number).send_sync("a")
"""


@pytest.fixture(autouse=True)
async def closed_connections() -> AsyncIterator[None]:
    """The thread of `sync_to_async` keeps its connection, and PostgreSQL deletes no database that one is open to."""
    yield
    await sync_to_async(connections.close_all)()


@pytest.fixture
def prefix(settings: Any, redis_server: RedisServer) -> str:
    """Of a layer with history, in force here and in the processes of the test."""
    return use_rooms_layer(settings, redis_server)


def use_rooms_layer(settings: Any, server: RedisServer) -> str:
    name = f"outbox-{uuid.uuid4().hex[:8]}"
    settings.CHANNEL_LAYERS = {"default": channel_layer("rooms", server.url, prefix=name)}
    return name


@pytest.fixture
def environment(prefix: str, redis_server: RedisServer) -> dict[str, str]:
    """That of a process on this test's Redis and database."""
    name = str(connections["default"].settings_dict["NAME"])
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.settings_relay",
        "REDIS_URL": redis_server.url,
        "CHANNEL_PREFIX": prefix,
        "DATABASE_FILE": name,
        "TEST_POSTGRES_NAME": name,
    }


@contextlib.contextmanager
def schedulers(count: int, environment: dict[str, str], directory: Path) -> Iterator[list[Process]]:
    command = [sys.executable, "manage.py", "rooms_scheduler", "--interval", "0.1", "--json"]
    running = [Process(command, log=directory / f"relay-{index}.log", env=environment) for index in range(count)]
    try:
        for process in running:
            process.spawn()
        yield running
    finally:
        for process in running:
            process.stop()


@sync_to_async
def commit(*numbers: int, **options: Any) -> None:
    with transaction.atomic():
        for number in numbers:
            assert KeptNote(number=number).send_sync("a", **options) is DEFERRED


in_thread: Callable[..., Any] = sync_to_async


@pytest.mark.usefixtures("prefix")
class TestSends:
    """With all well, as any other message."""

    async def test_it_leaves_after_the_commit_and_not_at_all_after_a_rollback(self) -> None:
        """Outside a transaction, and from async code, it leaves at once; nothing stays behind."""

        @sync_to_async
        def roll_back() -> None:
            with transaction.atomic():
                KeptNote(number=1).send_sync("a")
                transaction.set_rollback(True)

        async with clients("/rooms/a") as (receiver,):
            await roll_back()
            await commit(2, 3)
            assert await in_thread(KeptNote(number=4).send_sync)("a") is SENT
            assert await KeptNote(number=5).send("a") is SENT
            assert await KeptNote(number=6).broadcast() is SENT
            assert await in_thread(KeptNote(number=7).broadcast_sync)() is SENT
            assert await receiver.numbers(6) == [2, 3, 4, 5, 6, 7]
            assert await in_thread(OutboxEntry.objects.count)() == 0

    async def test_an_async_send_belongs_to_the_transaction_that_its_thread_has_open(self) -> None:
        """Unlike other messages: this one is a row."""

        @sync_to_async
        def work(number: int, *, fails: bool) -> None:
            with transaction.atomic():
                assert async_to_sync(KeptNote(number=number).send)("a") is DEFERRED
                transaction.set_rollback(fails)

        async with clients("/rooms/a") as (receiver,):
            await work(1, fails=True)
            await work(2, fails=False)
            assert await receiver.numbers(1) == [2]

    async def test_one_connection_is_left_out_also_by_the_relay(self) -> None:
        async with clients("/rooms/a", "/rooms/a", subprotocols=["rooms.v1"]) as (first, second):
            mine = (await first.frame())["message"]["connection"]
            await second.frame()
            await KeptNote(number=1).send("a", exclude=mine)
            await in_thread(store)(KIND, [stored_send(["a"], KeptNote(number=2), exclude=mine)], carry=False)
            assert await in_thread(relay_due)() == 1
            await KeptNote(number=3).send("a")
            assert await first.numbers(1) == [3]
            assert await second.numbers(3) == [1, 2, 3]

    async def test_a_key_is_one_message_for_a_day(self) -> None:
        async with clients("/rooms/a") as (receiver,):
            await commit(1, 2, idempotency_key="paid-7")
            assert await KeptNote(number=3).send("a", idempotency_key="paid-7") is SENT
            assert await in_thread(KeptNote(number=4).send_sync)("a", idempotency_key="paid-7") is SENT
            assert await KeptNote(number=5).send("a") is SENT
            assert await receiver.numbers(2) == [1, 5]

    async def test_what_is_not_known_to_have_left_is_sent_again_and_clients_get_it_once(self) -> None:
        """The database went away, or the process died, after the send and before the mark."""

        @sync_to_async
        def fail_to_mark() -> None:
            with connections["default"].execute_wrapper(refuse_changes):
                assert KeptNote(number=1).send_sync("a") is DEFERRED
                assert async_to_sync(KeptNote(number=2).send)("a") is SENT

        async with clients("/rooms/a") as (receiver,):
            await fail_to_mark()
            assert await receiver.numbers(2) == [1, 2]
            await in_thread(let_time_pass)(seconds=10)
            assert await in_thread(relay_due)() == 2
            await Note(number=3).send("a")
            assert await receiver.numbers(1) == [3]


def test_a_class_that_does_not_read_what_it_writes_is_refused_at_the_call() -> None:
    class OneWay(WebSocketMessage):
        MESSAGE_ID = "tests.one_way"
        OUTBOX = True
        number: int = 7

        @field_serializer("number")
        def in_words(self, number: int) -> str:
            return "seven"

    try:
        with pytest.raises(RoomsError, match=r"tests.one_way can't be stored.*number"):
            OneWay().send_sync("a")
        assert not OutboxEntry.objects.exists()
    finally:
        registry._types.pop(OneWay.MESSAGE_ID)


@pytest.mark.usefixtures("prefix")
def test_what_can_not_be_sent_is_refused_at_the_call_and_stores_nothing(settings: Any) -> None:
    settings.ROOMS = {"max_message_bytes": 200}
    with pytest.raises(InvalidRoom):
        KeptNote().send_sync("")
    with pytest.raises(MessageTooLarge):
        KeptNote(text="x" * 200).send_sync("a")
    with pytest.raises(ValueError, match="idempotency_key"):
        KeptNote().send_sync("a", idempotency_key="")
    assert not OutboxEntry.objects.exists()


def test_any_text_is_stored_and_sent_as_it_is() -> None:
    """Also a NUL, which PostgreSQL knows in no text."""
    room, text = "a\0b", 'nul \0, quote ", grüße 🎈'
    sent = []

    class Manager(ChannelLayerManager):
        def send_sync(self, rooms: Any, message: Any, **options: Any) -> SendOutcome:
            sent.append((rooms, message))
            return SENT

    with provide_ws_manager(Manager()):
        KeptNote(text=text).send_sync(room)
    assert sent == [([room], KeptNote(text=text))]


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
def test_the_transaction_has_to_be_on_the_outboxs_database() -> None:
    with transaction.atomic("other"):
        with pytest.raises(RoomsError, match="can't be part of a transaction on 'other'"):
            KeptNote().send_sync("a", using="other")
        assert Note().send_sync("a", using="other") is DEFERRED
    transaction.set_autocommit(False)
    try:
        with pytest.raises(TransactionManagementError, match="Autocommit is off"):
            KeptNote().send_sync("a")
    finally:
        transaction.set_autocommit(True)


async def test_with_redis_away_nothing_is_lost_and_all_of_it_leaves_when_it_is_back(
    settings: Any, own_redis: RedisServer
) -> None:
    """And no send breaks or fails: it is stored."""
    use_rooms_layer(settings, own_redis)
    own_redis.stop()
    with provide_ws_manager(ChannelLayerManager()):
        await commit(1, 2)
        assert await in_thread(KeptNote(number=3).send_sync)("a", robust=False) is DEFERRED
        assert await KeptNote(number=4).send("a", robust=False) is DEFERRED
        assert await in_thread(relay_due)() == 0
        own_redis.restart()
        async with clients("/rooms/a") as (receiver,):
            relayed = 0
            while relayed < 4:
                await in_thread(let_time_pass)(seconds=5)
                relayed += await in_thread(relay_due)()
            assert await receiver.numbers(4) == [1, 2, 3, 4]
            assert await receiver.silent()


@pytest.mark.parametrize(
    ("changed", "said"),
    [({"message_type": "tests.gone"}, "tests.gone"), ({"message": '{"number": "many"}'}, "number")],
)
def test_a_message_whose_class_is_gone_or_has_changed_fails_with_the_reason(
    prefix: str, changed: dict[str, str], said: str
) -> None:
    store(KIND, [stored_send(["a"], KeptNote(), idempotency_key="k")], carry=False)
    row = OutboxEntry.objects.get()
    row.body |= changed
    row.save()
    assert relay_due() == 0
    row.refresh_from_db()
    assert row.state == State.FAILED and said in row.error
    assert KeptNote().send_sync("a", idempotency_key="k") is FAILED


async def test_what_a_killed_process_had_committed_is_announced_once(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """Between the commit and the send; by whoever runs the scheduler, 10 s later at most."""
    writer = Process([sys.executable, "-c", COMMIT_AND_HANG], log=tmp_path / "writer.log", env=environment)
    writer.spawn()
    try:
        await until(lambda: "committed" in writer.logged(), what="the commit", timeout=30)
    finally:
        writer.signal(signal.SIGKILL)
        writer.wait()
    rows = await in_thread(list)(OutboxEntry.objects.all())
    assert [row.state for row in rows] == [State.WAITING] * 3
    assert all(row.claimed_until < timezone.now() + timedelta(seconds=10) for row in rows)
    await in_thread(let_time_pass)(seconds=10)
    async with clients("/rooms/a") as (receiver,):
        with schedulers(1, environment, tmp_path) as (relay,):
            assert await receiver.numbers(3) == [0, 1, 2]
            await until(lambda: '{"sent": 0, "relayed": 3}' in relay.logged(), what="its word")
        assert await receiver.silent()


async def test_two_relay_processes_send_each_of_300_once(environment: dict[str, str], tmp_path: Path) -> None:
    async with clients("/rooms/a") as (receiver,):
        with schedulers(2, environment, tmp_path) as running:
            # One by one until each of them has relayed: both are there when it counts.
            while not all("relayed" in process.logged() for process in running):
                await in_thread(store)(KIND, [stored_send(["nobody"], KeptNote())], carry=False)
                await asyncio.sleep(0.05)
            entries = [stored_send(["a"], KeptNote(number=number)) for number in range(300)]
            await in_thread(store)(KIND, entries, carry=False)
            assert sorted(await receiver.numbers(300)) == list(range(300))
        assert await receiver.silent()
        assert not await in_thread(OutboxEntry.objects.exists)()


def test_a_class_that_is_stored_and_then_dropped_is_a_warning() -> None:
    before = {each.id for each in check_project(None)}

    class Contradiction(WebSocketMessage):
        MESSAGE_ID = "tests.contradiction"
        OUTBOX = True
        VOLATILE = True

    try:
        assert {each.id for each in check_project(None)} - before == {"rooms.W011"}
    finally:
        registry._types.pop(Contradiction.MESSAGE_ID)


def test_without_the_app_the_error_says_what_to_install() -> None:
    code = (
        "from django.conf import settings; settings.configure(SECRET_KEY='x'); import django; django.setup()\n"
        "from tests.app.messages import KeptNote\n"
        "from rooms_app import RoomsError\n"
        "try:\n    KeptNote().send_sync('a')\n"
        "except RoomsError as error:\n    print(error)"
    )
    env = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert "KeptNote" in done.stdout and "INSTALLED_APPS" in done.stdout, done.stderr


class SendInDjangosTestCase(TestCase):
    """Django's own `TestCase` runs each test in a transaction that never commits."""

    def test_capture_on_commit_callbacks_carries_it_out(self) -> None:
        with provide_ws_manager(ChannelLayerManager()) as manager:
            with self.captureOnCommitCallbacks() as callbacks:
                self.assertIs(KeptNote().send_sync("a"), DEFERRED)
            self.assertEqual((len(callbacks), manager.counts), (1, {}))
            for sent in (1, 2):
                with self.captureOnCommitCallbacks(execute=True):
                    KeptNote().send_sync("a")
                self.assertEqual(manager.counts, {"sent": sent})
