"""Sends belong to transactions: what was rolled back never reaches a client."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator

import pytest
import pytest_django
from asgiref.sync import async_to_sync, sync_to_async
from django.db import connections, transaction
from django.db.transaction import TransactionManagementError
from django.test import TestCase

from rooms_app import (
    InvalidRoom,
    MessageTooLarge,
    SendOutcome,
    WebSocketMessage,
    provide_ws_manager,
    use_ws_manager,
    use_ws_message_sender,
)
from rooms_app.layers import channel_layer
from rooms_app.manager import ChannelLayerManager
from tests.app.messages import Note
from tests.clients import clients
from tests.live import free_port

SENT, DEFERRED = SendOutcome.SENT, SendOutcome.DEFERRED

uses_databases = pytest.mark.django_db(transaction=True, databases=["default", "other"])


class Basket(WebSocketMessage):
    """A message that is easily changed deep inside."""

    MESSAGE_ID = "tests.basket"
    items: list[str]


@pytest.fixture
def no_redis(settings: pytest_django.fixtures.SettingsWrapper) -> Iterator[None]:
    """A channel layer on a port where nobody listens, and a manager that has not noticed yet."""
    url = f"redis://127.0.0.1:{free_port()}/0"
    settings.CHANNEL_LAYERS = {"default": channel_layer("pubsub", url)}
    with provide_ws_manager(ChannelLayerManager()):
        yield


def send(number: int, *rooms: str, using: str | None = None) -> SendOutcome:
    return Note(number=number).send_sync(*(rooms or ["a"]), using=using)


def send_at_once(number: int) -> None:
    """Goes in between, and so shows what had left before it."""
    assert use_ws_manager().send_sync(["a"], Note(number=number)) is SENT


@contextlib.contextmanager
def rolled_back(using: str | None = None) -> Iterator[None]:
    """An atomic block, nested or not, that ends in a rollback."""
    with contextlib.suppress(LookupError), transaction.atomic(using=using):
        yield
        raise LookupError


@uses_databases
async def test_nothing_is_sent_before_the_commit() -> None:
    """A client that reloads on the message finds what was committed."""

    @sync_to_async
    def work() -> None:
        with transaction.atomic():
            with transaction.atomic():
                assert send(1) is DEFERRED
            send_at_once(2)

    async with clients("/rooms/a") as (receiver,):
        await work()
        assert await receiver.numbers(2) == [2, 1]


@uses_databases
async def test_outside_a_transaction_a_message_goes_at_once() -> None:
    """Each with its outcome; also when a transaction is over."""

    @sync_to_async
    def work() -> None:
        assert send(1) is SENT
        with transaction.atomic():
            pass
        assert send(2) is SENT

    async with clients("/rooms/a") as (receiver,):
        await work()
        assert await receiver.numbers(2) == [1, 2]


@uses_databases
async def test_what_was_rolled_back_is_never_sent() -> None:
    """Neither with its own transaction, nor with the next one."""

    @sync_to_async
    def work() -> None:
        with rolled_back():
            assert send(1) is DEFERRED
        with transaction.atomic():
            send(2)

    async with clients("/rooms/a") as (receiver,):
        await work()
        assert await receiver.numbers(1) == [2]
        assert await receiver.silent()


@uses_databases
async def test_a_savepoint_that_was_rolled_back_takes_only_its_own_messages_along() -> None:
    """With those of the savepoints inside it."""

    @sync_to_async
    def work() -> None:
        with transaction.atomic():
            send(1)
            with rolled_back():
                send(2)
                with transaction.atomic():
                    send(3)
            with transaction.atomic():
                send(4)

    async with clients("/rooms/a") as (receiver,):
        await work()
        assert await receiver.numbers(2) == [1, 4]
        assert await receiver.silent()


@uses_databases
async def test_deferred_messages_keep_their_order() -> None:
    """Across rooms and savepoints."""

    @sync_to_async
    def work() -> None:
        with transaction.atomic():
            for number in range(0, 40, 2):
                send(number, "a")
                with transaction.atomic():
                    send(number + 1, "b")

    async with clients("/rooms/a,b") as (receiver,):
        await work()
        assert await receiver.numbers(40) == list(range(40))


@uses_databases
async def test_using_names_the_database_whose_transaction_counts() -> None:
    """Another database's transaction neither delays a message nor takes it along."""

    @sync_to_async
    def work() -> None:
        with rolled_back(using="other"):
            assert send(1, using="other") is DEFERRED
            assert send(2) is SENT
        with transaction.atomic(using="other"):
            assert send(3, using="other") is DEFERRED
            assert send(4) is SENT

    async with clients("/rooms/a") as (receiver,):
        await work()
        assert await receiver.numbers(3) == [2, 4, 3]


@uses_databases
async def test_a_deferred_message_goes_as_it_was_when_it_was_sent() -> None:
    """Whatever becomes of the object, and of the lists in it, before the commit."""

    @sync_to_async
    def work() -> None:
        basket = Basket(items=["apple"])
        rooms = ["a"]
        with transaction.atomic():
            use_ws_message_sender().send_sync(rooms, basket)
            basket.items.append("pear")
            basket.send_sync("a")
            basket.items = []
            rooms[:] = ["b"]

    async with clients("/rooms/a") as (receiver,):
        await work()
        items = [(await receiver.frame())["message"]["items"] for _ in range(2)]
        assert items == [["apple"], ["apple", "pear"]]


@uses_databases
async def test_async_send_goes_at_once_also_inside_a_transaction() -> None:
    """Async code has no transactions in Django: under `async_to_sync` a rollback comes too late."""

    @sync_to_async
    def work() -> None:
        with rolled_back():
            assert async_to_sync(Note(number=1).send)("a") is SENT

    async with clients("/rooms/a") as (receiver,):
        await work()
        assert await receiver.numbers(1) == [1]


@uses_databases
def test_what_can_not_be_sent_is_refused_at_the_call_and_not_at_the_commit(
    settings: pytest_django.fixtures.SettingsWrapper,
) -> None:
    """There the caller can still mend it, or let the transaction fail."""
    settings.ROOMS = {"max_message_bytes": 200}
    with transaction.atomic():
        with pytest.raises(InvalidRoom):
            Note().send_sync("a", "")
        with pytest.raises(TypeError):
            use_ws_message_sender().send_sync("a", Note())
        with pytest.raises(MessageTooLarge):
            Note(text="x" * 200).send_sync("a")
        assert connections["default"].run_on_commit == []


@uses_databases
@pytest.mark.parametrize("robust", [True, False])
def test_a_send_that_fails_after_the_commit_neither_raises_nor_skips_later_hooks(
    robust: bool, no_redis: None, caplog: pytest.LogCaptureFixture
) -> None:
    """It is committed, so nobody could undo it; the failure is counted and logged."""
    later = []
    with caplog.at_level(logging.WARNING), transaction.atomic():
        assert Note().send_sync("a", robust=robust) is DEFERRED
        transaction.on_commit(lambda: later.append(1))
    assert later == [1]
    assert use_ws_manager().counts == {"failed": 1}
    assert "sends to rooms fail" in caplog.text


@uses_databases
async def test_without_autocommit_a_message_needs_an_atomic_block() -> None:
    """There is no telling when such a transaction ends; inside `atomic()` it goes with the commit."""

    @sync_to_async
    def work() -> None:
        transaction.set_autocommit(False)
        try:
            with pytest.raises(TransactionManagementError, match="Autocommit is off"):
                send(1)
            send_at_once(2)
            with transaction.atomic():
                assert send(3) is DEFERRED
            send_at_once(4)
            transaction.commit()
        finally:
            transaction.set_autocommit(True)

    async with clients("/rooms/a") as (receiver,):
        await work()
        assert await receiver.numbers(3) == [2, 4, 3]


def test_no_database_connection_is_opened_to_find_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process without a database can send; this test may use none."""
    outcomes: list[object] = []

    def work() -> None:
        default = connections["default"]
        outcomes.append(send(1))
        monkeypatch.setitem(default.settings_dict, "AUTOCOMMIT", False)
        try:
            send(2)
        except TransactionManagementError:
            outcomes.append("refused")
        outcomes.append(default.connection)

    # In a thread of its own: connections belong to threads, and this one's is perhaps open.
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert outcomes == [SENT, "refused", None]


class SendInDjangosTestCase(TestCase):
    """Django's own `TestCase` runs each test in a transaction that never commits."""

    def test_capture_on_commit_callbacks_sees_a_send(self) -> None:
        """And carries it out with `execute=True`."""
        with provide_ws_manager(ChannelLayerManager()) as manager:
            with self.captureOnCommitCallbacks() as callbacks:
                self.assertIs(send(1), DEFERRED)
            self.assertEqual((len(callbacks), manager.counts), (1, {}))
            with self.captureOnCommitCallbacks(execute=True):
                send(2)
            self.assertEqual(manager.counts, {"sent": 1})
