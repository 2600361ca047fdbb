"""Publishing: nothing that was rolled back, nothing lost while the broker or Redis or the database is away."""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import OperationalError, connection, transaction
from django.utils import timezone
from pydantic import field_validator

from rooms_app import SendOutcome, provide_ws_manager
from rooms_app.bus import BusMessage, BusUnavailable, MessageOf, Retry, message_handler
from rooms_app.bus.broker import broker
from rooms_app.bus.delivery import Delivery
from rooms_app.bus.leaving import try_again
from rooms_app.bus.running import handle
from rooms_app.layers import channel_layer
from rooms_app.manager import ChannelLayerManager
from rooms_app.models import DeadLetter, OutboxEntry
from rooms_app.relay import relay_due
from tests.app.messages import KeptNote, Note
from tests.bus_project.worker import broker_url, publishes_to
from tests.live import RedisServer, free_port
from tests.waiting import wait_until

SENT, DEFERRED = SendOutcome.SENT, SendOutcome.DEFERRED

pytestmark = pytest.mark.django_db(transaction=True)

called: list[str] = []


class Letter(BusMessage):
    """What these tests publish."""

    MESSAGE_TOPIC = "tests.letter"
    text: str = ""


@message_handler(Letter, timeout=7)
def read_letter(message: MessageOf[Letter]) -> None:
    called.append(message.payload().text)
    Note(text=message.payload().text).send_sync("readers")


@message_handler(Letter, timeout=20, retry=Retry(max_retries=0), queue="copies")
async def copy_letter(message: MessageOf[Letter]) -> None:
    raise ValueError("never copied")


class PickyLetter(BusMessage):
    """A message whose validator knows two texts."""

    MESSAGE_TOPIC = "tests.picky-letter"
    text: str

    @field_validator("text")
    @classmethod
    def known(cls, text: str) -> str:
        return {"odd": text, "own": text}[text]


@message_handler(PickyLetter, retry=Retry(max_retries=0))
def pick(message: MessageOf[PickyLetter]) -> None:
    if message.payload().text == "own":
        Letter.model_validate({"text": 7})
    raise ValueError("bad \udcff and \0\n")


class SavedLetter(BusMessage):
    """What is published with the transaction that saves something."""

    MESSAGE_TOPIC = "tests.saved-letter"
    OUTBOX = True
    is_rolled_back: bool = False


@message_handler(SavedLetter, retry=Retry(max_retries=1, backoff=20))
def save_and_fail(message: MessageOf[SavedLetter]) -> None:
    with contextlib.suppress(ArithmeticError), transaction.atomic():
        KeptNote(text="saved").send_sync("readers")
        SavedLetter().publish_sync()
        Note(text="not saved").send_sync("readers")
        Letter().publish_sync()
        if message.payload().is_rolled_back:
            raise ArithmeticError
    raise ValueError("after the commit")


READ, COPY, PICK = (f"{__name__}.{function.__name__}" for function in (read_letter, copy_letter, pick))


@pytest.fixture(autouse=True)
def nothing_called() -> None:
    called.clear()


@pytest.fixture
def queues(own_redis: RedisServer) -> Iterator[RedisServer]:
    """A broker that no worker reads from, so that a test sees what is in it."""
    with publishes_to(broker_url(own_redis)):
        yield own_redis


@pytest.fixture(autouse=True)
def fresh_broker() -> Iterator[None]:
    """After a failure sends fail at once for a second; the next test has no part in it."""
    yield
    broker._retry_at = 0


def queued(server: RedisServer, queue: str = "celery") -> list[dict[str, Any]]:
    """The headers of what is in a queue, and the delivery."""
    found = []
    # Of database 1, which is the broker's; the newest first.
    server.client.select(1)
    for raw in reversed(server.client.lrange(queue, 0, -1)):
        message = json.loads(raw)
        (body,), _, _ = json.loads(base64.b64decode(message["body"]))
        found.append({**message["headers"], "delivery": Delivery.model_validate(body)})
    return found


def a_delivery(**changes: Any) -> Delivery:
    known = {
        "id": str(uuid.uuid4()),
        "message_id": str(uuid.uuid4()),
        "topic": Letter.MESSAGE_TOPIC,
        "handler": READ,
        "payload": '{"text": "hello"}',
        "published_at": timezone.now(),
    }
    return Delivery(**{**known, **changes})


@contextlib.contextmanager
def database_away() -> Iterator[None]:
    """Every query fails, as it would without the server."""

    def refuse(*args: Any) -> None:
        raise OperationalError("the database is away")

    with connection.execute_wrapper(refuse):
        yield


def test_what_was_rolled_back_is_not_published(queues: RedisServer) -> None:
    """What was committed is, after that; outside of a transaction a message leaves at once."""
    with contextlib.suppress(LookupError), transaction.atomic():
        assert Letter(text="never").publish_sync() is DEFERRED
        raise LookupError
    with transaction.atomic():
        with contextlib.suppress(LookupError), transaction.atomic():
            Letter(text="never").publish_sync()
            raise LookupError
        assert Letter(text="committed").publish_sync() is DEFERRED
        assert queued(queues) == []
    assert Letter(text="at once").publish_sync() is SENT
    assert [json.loads(each["delivery"].payload)["text"] for each in queued(queues)] == ["committed", "at once"]
    assert not OutboxEntry.objects.exists()


def test_a_message_is_published_as_it_was_at_the_call(queues: RedisServer) -> None:
    """Not as it is at the commit."""
    letter = Letter(text="before")
    with transaction.atomic():
        letter.publish_sync()
        letter.text = "after"
    assert queued(queues)[0]["delivery"].payload == '{"text":"before"}'


async def test_each_handler_has_its_queue_and_limits(queues: RedisServer) -> None:
    """Monitoring sees the handler's name, and no payload. A sync handler is interrupted, any is killed later."""
    assert await Letter(text="secret").publish() is SENT
    (read,), (copy,) = queued(queues), queued(queues, "copies")
    assert (read["shadow"], copy["shadow"]) == (READ, COPY)
    assert read["timelimit"] == [17, 7]
    # An async one is not interrupted, whatever limit the app has for its other tasks.
    assert copy["timelimit"] == [30, 30]
    assert "secret" not in read["argsrepr"]
    assert read["delivery"].message_id == copy["delivery"].message_id
    assert read["delivery"].id != copy["delivery"].id


async def test_a_message_is_stored_while_the_broker_is_away_and_published_when_it_is_back(queues: RedisServer) -> None:
    """From async and from sync code, without making the caller wait."""
    queues.kill()
    started = time.monotonic()
    assert await Letter(text="async").publish() is DEFERRED
    assert time.monotonic() - started < 5
    await _in_thread(_publish_in_transaction)
    assert await OutboxEntry.objects.filter(kind="bus").acount() == 4
    queues.restart()
    broker._retry_at = 0
    await OutboxEntry.objects.aupdate(claimed_until=None)
    assert await _in_thread(relay_due) == 4
    texts = [json.loads(each["delivery"].payload)["text"] for each in queued(queues)]
    assert texts == ["async", "sync"]


def _publish_in_transaction() -> None:
    with transaction.atomic():
        Letter(text="sync").publish_sync()


async def _in_thread(function: Any) -> Any:
    from asgiref.sync import sync_to_async

    return await sync_to_async(function)()


def test_a_broker_that_does_not_answer_holds_up_one_publisher_for_a_few_seconds(queues: RedisServer) -> None:
    """The next ones not at all, for a while."""
    Letter().publish_sync()
    queues.signal(signal.SIGSTOP)
    started = time.monotonic()
    for _ in range(5):
        assert Letter().publish_sync() is DEFERRED
    took = time.monotonic() - started
    queues.signal(signal.SIGCONT)
    assert took < 10
    assert OutboxEntry.objects.filter(kind="bus").count() == 10


def test_of_many_publishers_one_tries_a_broker_that_does_not_answer(queues: RedisServer) -> None:
    """While it does, and for a while after it, the others don't wait."""
    Letter().publish_sync()
    queues.signal(signal.SIGSTOP)
    try:
        Letter().publish_sync()
        wait_until(lambda: time.monotonic() > broker._retry_at, what="the time of the next try")
        waited: list[float] = []

        def publish() -> None:
            started = time.monotonic()
            with contextlib.suppress(BusUnavailable):
                broker.send(a_delivery())
            waited.append(time.monotonic() - started)

        threads = [threading.Thread(target=publish) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        queues.signal(signal.SIGCONT)
    assert sum(seconds > 0.5 for seconds in waited) == 1


def test_without_broker_and_database_the_publisher_is_told(
    queues: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """After a commit it is logged: an error would skip the hooks that come after."""
    hooks: list[str] = []
    queues.kill()
    with database_away(), pytest.raises(BusUnavailable, match="the database is away"):
        Letter().publish_sync()
    with caplog.at_level(logging.ERROR, "rooms_app.bus"), contextlib.ExitStack() as stack, transaction.atomic():
        transaction.on_commit(lambda: stack.enter_context(database_away()))
        Letter().publish_sync()
        transaction.on_commit(lambda: hooks.append("called"))
    assert hooks == ["called"]
    assert "could not be published after the commit topic=tests.letter" in caplog.text


def test_what_is_due_later_waits_in_the_outbox(queues: RedisServer) -> None:
    """However near it is: a worker takes any number of tasks with a later time, and may be late for the last ones."""
    when = timezone.now() + timedelta(hours=1)
    assert Letter().schedule_sync(when) is DEFERRED
    assert Letter().delay_sync(2) is DEFERRED
    assert sorted(OutboxEntry.objects.values_list("due_at", flat=True))[-2:] == [when, when]
    assert queued(queues) == []
    OutboxEntry.objects.exclude(due_at=when).update(due_at=timezone.now())
    assert relay_due() == 2
    (near,) = queued(queues)
    assert near["eta"] is None


def test_a_retry_goes_by_the_broker_alone_while_the_database_is_away(queues: RedisServer) -> None:
    """After its delay, or ten seconds: not lost, and not for long with a worker."""
    with database_away():
        try_again(a_delivery(), 20)
    (again,) = queued(queues)
    assert 0 < (datetime.fromisoformat(again["eta"]) - timezone.now()).total_seconds() <= 10


def test_what_is_due_is_not_scheduled(queues: RedisServer) -> None:
    """A time that is past is now; one without a zone could be any, and is refused."""
    assert Letter().schedule_sync(timezone.now() - timedelta(days=1)) is SENT
    with pytest.raises(ValueError, match="aware datetime"):
        Letter().schedule_sync(datetime(2030, 1, 1))
    for seconds in (0, -1, float("nan"), "3"):
        with pytest.raises(ValueError, match="delay"):
            Letter().delay_sync(seconds)  # type: ignore[arg-type]


def test_a_key_makes_two_publishes_one_for_each_handler(queues: RedisServer) -> None:
    """Also when one is delayed, and only for messages of the same topic."""
    outcomes = [Letter().publish_sync(idempotency_key="order-7") for _ in range(3)]
    assert outcomes == [SENT, DEFERRED, DEFERRED]
    Letter().delay_sync(3_600, idempotency_key="order-7")
    assert len(queued(queues)) == len(queued(queues, "copies")) == 1
    assert queued(queues)[0]["delivery"].idempotency_key == "order-7"
    Letter().publish_sync(idempotency_key="order-8")
    assert len(queued(queues)) == 2


def test_a_handler_that_is_not_known_yet_is_waited_for(queues: RedisServer) -> None:
    """Some minutes, as a deploy takes; then its message is dead, and not gone."""
    unknown = a_delivery(handler="letters.handlers.burn")
    handle(unknown.body(), was_redelivered=False)
    again = OutboxEntry.objects.get()
    assert Delivery.model_validate(again.body) == unknown.next_try(waits=1)
    assert again.due_at > timezone.now()
    waited = 0
    while (letter := DeadLetter.objects.first()) is None:
        handle(unknown.next_try(waits=waited).body(), was_redelivered=False)
        waited += 1
    assert waited == 10
    assert letter.reason == DeadLetter.Reason.UNKNOWN
    assert Delivery.model_validate(letter.delivery).payload == unknown.payload


def test_a_message_whose_worker_died_is_sent_anew(queues: RedisServer) -> None:
    """With the loss counted, and not run: perhaps that is what killed it."""
    lost = a_delivery(attempt=2)
    handle(lost.body(), was_redelivered=True)
    assert [each["delivery"] for each in queued(queues)] == [lost.next_try(losses=1)]
    assert called == []


def test_what_can_not_be_read_is_kept(queues: RedisServer) -> None:
    """As another version may have published it."""
    handle({"version": 9}, was_redelivered=False)
    assert DeadLetter.objects.get().delivery == {"version": 9}


def test_what_can_not_be_read_and_not_be_stored_as_it_is_is_kept_as_a_text(queues: RedisServer) -> None:
    """PostgreSQL's JSON takes no NUL."""
    handle({"version": "\0"}, was_redelivered=False)
    assert DeadLetter.objects.get().delivery == {"text": "{'version': '\\x00'}"}


def test_a_payload_whose_validator_raises_something_else_does_not_fit_either(queues: RedisServer) -> None:
    """It is dead at once, and says where that was."""
    handle(a_delivery(topic="tests.picky-letter", handler=PICK, payload='{"text": "x"}').body(), was_redelivered=False)
    letter = DeadLetter.objects.get()
    assert letter.reason == DeadLetter.Reason.PAYLOAD
    assert "Traceback" in letter.error and "KeyError" in letter.error
    assert called == []


def test_an_error_whose_text_no_database_takes_is_kept_without_that(queues: RedisServer) -> None:
    """As of a file name that is no UTF-8."""
    delivery = a_delivery(topic="tests.picky-letter", handler=PICK, payload='{"text": "odd"}')
    handle(delivery.body(), was_redelivered=False)
    letter = DeadLetter.objects.get()
    assert letter.reason == DeadLetter.Reason.RETRIES
    assert "ValueError: bad ? and \n" in letter.error


def test_a_validation_error_of_the_handlers_own_has_its_traceback(queues: RedisServer) -> None:
    delivery = a_delivery(topic="tests.picky-letter", handler=PICK, payload='{"text": "own"}')
    handle(delivery.body(), was_redelivered=False)
    assert "Traceback" in DeadLetter.objects.get().error


def test_a_dead_letter_that_can_not_be_stored_comes_again(queues: RedisServer) -> None:
    """The handler's last try has failed, and the database is away just then."""
    failing = a_delivery(handler=COPY)
    with database_away():
        handle(failing.body(), was_redelivered=False)
    (again,) = queued(queues, "copies")
    assert again["delivery"] == failing
    handle(failing.body(), was_redelivered=False)
    assert "ValueError: never copied" in DeadLetter.objects.get().error


@pytest.mark.parametrize("is_rolled_back", [False, True], ids=["committed", "rolled back"])
def test_what_is_announced_with_what_a_handler_saved_leaves_though_it_fails(
    is_rolled_back: bool, queues: RedisServer
) -> None:
    """The next try may find it saved, and say nothing. What is not in the outbox leaves only when all went well."""
    sent: list[Any] = []

    class Manager(ChannelLayerManager):
        def send_sync(self, rooms: Any, message: Any, **options: Any) -> SendOutcome:
            sent.append(message)
            return SENT

    payload = SavedLetter(is_rolled_back=is_rolled_back).model_dump_json()
    delivery = a_delivery(topic="tests.saved-letter", handler=f"{__name__}.save_and_fail", payload=payload)
    with provide_ws_manager(Manager()):
        handle(delivery.body(), was_redelivered=False)
    first = [each["delivery"] for each in queued(queues) if each["delivery"].attempt == 1]
    left = (["saved"], ["tests.saved-letter"]) if not is_rolled_back else ([], [])
    assert ([message.text for message in sent], [delivery.topic for delivery in first]) == left


def test_sends_of_a_handler_wait_in_the_outbox_while_redis_is_away(
    queues: RedisServer, settings: Any, redis_server: RedisServer
) -> None:
    """The handler is done, and not run again; without the database too it is tried again."""
    delivery = a_delivery()
    settings.CHANNEL_LAYERS = {"default": channel_layer("rooms", f"redis://127.0.0.1:{free_port()}/0")}
    with provide_ws_manager(ChannelLayerManager()):
        handle(delivery.body(), was_redelivered=False)
        stored = OutboxEntry.objects.get(kind="send")
        assert stored.key == f"{delivery.id}:0"
        assert queued(queues) == []
        with database_away():
            handle(delivery.body(), was_redelivered=False)
        assert [each["delivery"] for each in queued(queues)] == [delivery.next_try(attempt=2)]
    settings.CHANNEL_LAYERS = {"default": channel_layer("rooms", redis_server.url, prefix=uuid.uuid4().hex)}
    with provide_ws_manager(ChannelLayerManager()):
        assert relay_due() == 1
