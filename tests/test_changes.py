"""Model changes: clients are told what was committed, once for each object and transaction."""

from __future__ import annotations

import contextlib
import itertools
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import pytest_django
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.core import serializers
from django.db import transaction
from django.db.models.deletion import Collector
from django.db.transaction import TransactionManagementError
from django.test import TestCase

from rooms_app import SendOutcome, WebSocketMessageBase, provide_ws_manager
from rooms_app.changes import sends_changes
from rooms_app.layers import channel_layer
from rooms_app.manager import ChannelLayerManager
from tests.app.models import Document, Line, Order, PaperOrder, RushOrder, SignedDocument
from tests.clients import Client, clients
from tests.conftest import use_layer
from tests.live import free_port

uses_databases = pytest.mark.django_db(transaction=True, databases=["default", "other"])


class Recorder:
    """Stands in for the manager where only the order and number of messages matter."""

    def __init__(self) -> None:
        self.sent: list[WebSocketMessageBase] = []
        self.rooms: list[list[str]] = []

    def send_sync(self, rooms: list[str], message: WebSocketMessageBase, **options: object) -> SendOutcome:
        self.sent.append(message)
        self.rooms.append(list(rooms))
        return SendOutcome.SENT

    def changes(self) -> list[tuple[str, str]]:
        """What was sent since it was last asked, as pairs of change and status."""
        found = [(str(message.change), message.status) for message in self.sent]  # type: ignore[attr-defined]
        self.sent.clear()
        return found


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with provide_ws_manager(Recorder()) as manager:  # type: ignore[arg-type, type-var]
        yield manager  # type: ignore[misc]


@contextlib.contextmanager
def rolled_back(using: str | None = None) -> Iterator[None]:
    """An atomic block, nested or not, that ends in a rollback."""
    with contextlib.suppress(LookupError), transaction.atomic(using=using):
        yield
        raise LookupError


def set_status(order: Order, status: str, **options: Any) -> None:
    order.status = status
    order.save(**options)


async def told(client: Client) -> tuple[str, str, str]:
    """The room, change and status of the next frame."""
    frame = await client.frame()
    return frame["room"], frame["message"]["change"], frame["message"]["status"]


@uses_databases
@pytest.mark.parametrize("kind", ["memory", "rooms"])
async def test_a_client_is_told_what_was_created_changed_and_deleted(
    kind: str, request: pytest.FixtureRequest, settings: pytest_django.fixtures.SettingsWrapper
) -> None:
    """In the object's room, and from the object's fields; also across a real Redis."""
    use_layer(kind, request, settings)

    @sync_to_async
    def work() -> None:
        order = Order.objects.create(pk=7)
        set_status(order, "paid")
        order.delete()

    async with clients("/rooms/order-7", "/rooms/order-8") as (watcher, other):
        await work()
        assert [await told(watcher) for _ in range(3)] == [
            ("order-7", "created", "new"),
            ("order-7", "changed", "paid"),
            ("order-7", "deleted", "paid"),
        ]
        assert await other.silent()


@uses_databases
async def test_async_saves_send_as_well() -> None:
    """Django runs them, and their signals, in a thread."""
    async with clients("/rooms/orders") as (watcher,):
        order = await Order.objects.acreate(status="new")
        order.status = "paid"
        await order.asave()
        await order.adelete()
        expected = [("orders", "created", "new"), ("orders", "changed", "paid"), ("orders", "deleted", "paid")]
        assert [await told(watcher) for _ in range(3)] == expected


@uses_databases
def test_many_changes_of_an_object_in_one_transaction_are_one_message(recorder: Recorder) -> None:
    """It tells what was committed; each object has its own, in the order of their first changes."""
    with transaction.atomic():
        first, second = Order.objects.create(), Order.objects.create()
        transaction.on_commit(lambda: None)
        for number in range(3):
            set_status(second, f"second {number}")
            set_status(first, f"first {number}")
        assert recorder.sent == []
    assert recorder.changes() == [("created", "first 2"), ("created", "second 2")]
    assert recorder.rooms == [["orders", f"order-{order.pk}"] for order in (first, second)]
    with transaction.atomic():
        set_status(first, "paid")
        Order.objects.filter(pk=first.pk).update(status="sent")
    assert recorder.changes() == [("changed", "sent")]


@uses_databases
def test_an_object_that_came_and_went_in_one_transaction_sends_nothing(recorder: Recorder) -> None:
    """One that was there before is deleted, one that came back has changed."""
    with transaction.atomic():
        set_status(order := Order.objects.create(), "paid")
        order.delete()
    assert recorder.changes() == []
    order = Order.objects.create(status="old")
    with transaction.atomic():
        set_status(order, "paid")
        pk = order.pk
        order.delete()
    assert recorder.changes() == [("created", "old"), ("deleted", "paid")]
    order = Order.objects.create(pk=pk)
    recorder.changes()
    with transaction.atomic():
        order.delete()
        Order.objects.create(pk=str(pk), status="back")
    assert recorder.changes() == [("changed", "back")]


@uses_databases
def test_what_was_rolled_back_is_never_told(recorder: Recorder) -> None:
    """Nor does it hide what comes next."""
    order = Order.objects.create(status="old")
    recorder.changes()
    with rolled_back():
        set_status(order, "lost")
        Order.objects.create(status="lost")
        Order.objects.get(pk=order.pk).delete()
    assert recorder.changes() == []
    set_status(order, "paid")
    assert recorder.changes() == [("changed", "paid")]


def change(order_pk: int) -> None:
    """Save it once more, also where it was deleted: then it comes back."""
    order = Order.objects.filter(pk=order_pk).first() or Order(pk=order_pk)
    set_status(order, f"{order.status}+")


def delete(order_pk: int) -> None:
    for order in Order.objects.filter(pk=order_pk):
        order.delete()


STEPS: list[tuple[Callable[[int], None], bool]] = list(itertools.product([change, delete], [False, True]))


@uses_databases
@pytest.mark.parametrize("is_there", [True, False])
def test_a_savepoint_that_was_rolled_back_takes_only_its_own_changes_along(recorder: Recorder, is_there: bool) -> None:
    """Every order of three steps, each a change or a deletion, each kept or rolled back: told is what came of it."""
    for pk, steps in enumerate(itertools.product(STEPS, repeat=3), start=1):
        if is_there:
            Order.objects.create(pk=pk, status="old")
        recorder.changes()
        kept = [step for step, is_lost in steps if not is_lost]
        with transaction.atomic():
            for step, is_lost in steps:
                with rolled_back() if is_lost else transaction.atomic():
                    step(pk)
        after = Order.objects.filter(pk=pk).first()
        if after is not None:
            expected = [("changed" if is_there else "created", after.status)] if kept else []
        else:
            expected = [("deleted", "")] if is_there else []
        found = [(change, "" if change == "deleted" else status) for change, status in recorder.changes()]
        assert found == expected, (pk, is_there, steps)


@uses_databases
def test_a_deletion_that_was_rolled_back_does_not_speak_for_the_one_that_was_committed(recorder: Recorder) -> None:
    """Whichever of them was the first."""
    order = Order.objects.create(status="old")
    recorder.changes()
    with transaction.atomic():
        pk = order.pk
        with rolled_back():
            Order(pk=pk, status="lost").delete()
        order.delete()
        with rolled_back():
            Order.objects.create(pk=pk, status="lost").delete()
    assert recorder.changes() == [("deleted", "old")]


@uses_databases
def test_each_database_has_its_own_transaction_and_objects(recorder: Recorder) -> None:
    """Of the same key on two databases each is told from its own; another one's transaction delays nothing."""
    with transaction.atomic(using="other"):
        Order(pk=1, status="here").save(using="default")
        assert recorder.changes() == [("created", "here")]
        Order(pk=1, status="there").save(using="other")
        assert recorder.changes() == []
    assert recorder.changes() == [("created", "there")]
    with transaction.atomic(), transaction.atomic(using="other"):
        set_status(Order.objects.get(pk=1), "sent")
        Order.objects.using("other").get(pk=1).delete()
    assert recorder.changes() == [("deleted", "there"), ("changed", "sent")]


@uses_databases
def test_a_model_with_a_uuid_for_its_key_sends_what_its_abstract_base_says(recorder: Recorder) -> None:
    """Also where the key was given as text: it is the same object."""
    key = uuid.uuid4()
    with transaction.atomic():
        Document.objects.create(id=str(key))
        Document.objects.get(id=key).save()
    assert [message.id for message in recorder.sent] == [key] * 2  # type: ignore[attr-defined]
    assert recorder.rooms == [["documents"], ["archive"]]


@uses_databases
def test_each_decorator_above_a_class_sends_a_message(recorder: Recorder) -> None:
    """A proxy's own only for what is done through the proxy."""
    document = SignedDocument.objects.create()
    Document.objects.get(pk=document.pk).delete()
    assert recorder.rooms == [["documents"], ["archive"], ["signed"], ["documents"], ["archive"]]


@uses_databases
@pytest.mark.parametrize("kind", [PaperOrder, RushOrder])
def test_an_object_of_a_subclass_is_one_of_the_decorated_model(recorder: Recorder, kind: type[Order]) -> None:
    """A proxy's, and one with a table of its own: one message, whichever class it was changed through."""
    with transaction.atomic():
        order = kind.objects.create()
        set_status(Order.objects.get(pk=order.pk), "paid")
    assert recorder.changes() == [("created", "paid")]
    set_status(order, "sent")
    assert recorder.changes() == [("changed", "sent")]
    order.delete()
    assert recorder.changes() == [("deleted", "sent")]
    kind.objects.create()
    recorder.changes()
    Order.objects.all().delete()
    assert recorder.changes() == [("deleted", "new")]


@uses_databases
def test_a_child_s_row_that_goes_alone_deletes_no_order(recorder: Recorder) -> None:
    """The order is still there."""
    order = RushOrder.objects.create()
    recorder.changes()
    order.delete(keep_parents=True)
    assert recorder.changes() == []
    assert Order.objects.count() == 1


@uses_databases
async def test_what_a_deletion_takes_along_is_told_as_it_was() -> None:
    """Rooms and messages are made while its order and the other lines can still be read."""

    @sync_to_async
    def work() -> None:
        order = Order.objects.create(pk=7)
        Line.objects.bulk_create([Line(order=order, item=item) for item in ("apple", "pear", "")])
        Order.objects.all().delete()

    async with clients("/rooms/order-7") as (watcher,):
        await work()
        assert await told(watcher) == ("order-7", "created", "new")
        frames = [(await watcher.frame())["message"] for _ in range(3)]
        lines = [frame for frame in frames if "item" in frame]
        expected = {"order": "new", "lines": 3, "change": "deleted"}
        assert sorted(lines, key=lambda line: line["item"]) == [
            {"item": item, **expected} for item in ("apple", "pear")
        ]
        assert {"pk": 7, "status": "new", "change": "deleted"} in frames
        assert await watcher.silent()


@uses_databases
def test_a_message_that_can_not_be_made_breaks_neither_the_save_nor_later_hooks(
    recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor the deletion; it is logged with the object. A function that returns None sends nothing."""
    order = Order.objects.create()
    recorder.changes()
    later = []
    with transaction.atomic():
        bad = Line.objects.create(order=order, item="bad")
        transaction.on_commit(lambda: later.append(1))
        Line.objects.create(order=order, item="apple")
        Line.objects.create(order=order, item="")
    assert (later, [message.item for message in recorder.sent]) == ([1], ["apple"])  # type: ignore[attr-defined]
    assert f"no message could be sent of a change: model=app.Line pk={bad.pk}" in caplog.text
    bad.delete()
    assert "no message could be made of a deletion: model=app.Line" in caplog.text
    assert (Line.objects.count(), len(recorder.sent)) == (2, 1)


@uses_databases
def test_without_autocommit_a_save_needs_an_atomic_block() -> None:
    """There is no telling when such a transaction ends."""
    transaction.set_autocommit(False)
    try:
        with pytest.raises(TransactionManagementError):
            Order.objects.create()
    finally:
        transaction.rollback()
        transaction.set_autocommit(True)


@uses_databases
def test_an_outage_of_redis_breaks_no_save(settings: pytest_django.fixtures.SettingsWrapper) -> None:
    """The failed sends are counted and logged, as all are."""
    settings.CHANNEL_LAYERS = {"default": channel_layer("rooms", f"redis://127.0.0.1:{free_port()}/0")}
    with provide_ws_manager(ChannelLayerManager()) as manager:
        Order.objects.create().delete()
        assert manager.counts == {"failed": 2}
    assert Order.objects.count() == 0


@uses_databases
def test_a_fixture_and_what_sends_no_signals_send_no_messages(recorder: Recorder) -> None:
    """`loaddata` saves raw; bulk operations tell nobody."""
    text = serializers.serialize("json", [Order(pk=7, status="old")])
    for each in serializers.deserialize("json", text):
        each.save()
    Order.objects.update(status="new")
    Order.objects.bulk_create([Order()])
    assert recorder.sent == []
    assert Order.objects.count() == 2


def test_other_models_keep_their_fast_deletes() -> None:
    """Django deletes rows unread only where nobody listens."""
    collector = Collector(using="default", origin=None)
    assert collector.can_fast_delete(User.groups.through.objects.all())
    assert not collector.can_fast_delete(Line.objects.all())


def test_only_a_message_that_can_send_itself_will_do() -> None:
    """Found when the model's module is imported, and not at the first save."""

    class NoMessage:
        pass

    with pytest.raises(TypeError, match="NoMessage can't send itself"):
        sends_changes(NoMessage, rooms=lambda order: "orders")  # type: ignore[arg-type]


class ChangesInDjangosTestCase(TestCase):
    """Django's own `TestCase` runs each test in a transaction that never commits."""

    def test_capture_on_commit_callbacks_carries_each_change_out(self) -> None:
        """Each block is told of its own: the hooks of the one before have run, though they are still in the list."""
        with provide_ws_manager(Recorder()) as recorder:  # type: ignore[arg-type, type-var]
            with self.captureOnCommitCallbacks(execute=True):
                order = Order.objects.create()
            with self.captureOnCommitCallbacks(execute=True):
                set_status(order, "paid")
                set_status(order, "sent")
            self.assertEqual(recorder.changes(), [("created", "new"), ("changed", "sent")])
