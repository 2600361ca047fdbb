"""Redis as the broker: a worker that is killed between taking a message and noting that it has it loses nothing."""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from kombu import Connection, Producer, Queue
from kombu.transport.redis import Channel, SentinelChannel

from rooms_app.bus import BusMessage, MessageOf, message_handler
from rooms_app.bus.broker import broker
from rooms_app.bus.delivery import TASK
from rooms_app.bus.redis_records import RecordingConnection, RecordingPool, RecordsMessages
from rooms_app.bus.redis_recovery import Recovery
from tests.bus_project.messages import Job
from tests.bus_project.worker import Bus, Worker, broker_url, publishes_to
from tests.live import RedisServer
from tests.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True)

TAKEN, WAITING = "taken", "waiting"
BACKLOG = 500


class Copied(BusMessage):
    """A message that has a queue of its own."""

    MESSAGE_TOPIC = "tests.copied"


@message_handler(Copied, queue="copies")
def copy(message: MessageOf[Copied]) -> None:
    raise AssertionError("never handled here")


class Queues:
    """A database of Redis as the broker, and the stock transport on it."""

    def __init__(self, redis_server: RedisServer, **options: Any) -> None:
        self.options = options
        self.url = broker_url(redis_server)
        self.client = redis_server.client.__class__.from_url(self.url, socket_timeout=5)
        self.client.flushdb()

    def key(self, name: str) -> str:
        return f"{self.options.get('global_keyprefix', '')}{self.options.get(f'{name}_key', name)}"

    def waiting(self, queue: str = "celery") -> list[dict[str, Any]]:
        return [json.loads(item) for item in self.client.lrange(self.key(queue), 0, -1)]  # type: ignore[union-attr]

    @property
    def on_record(self) -> int:
        with self.client.pipeline(transaction=True) as pipe:
            hash_size, index_size = pipe.hlen(self.key("unacked")).zcard(self.key("unacked_index")).execute()
        assert hash_size == index_size
        return int(hash_size)

    def lose(self, queue: str = "celery") -> Any:
        """Take a message as a worker does that is then killed."""
        item = self.client.rpop(self.key(queue))
        assert item is not None
        return json.loads(item)  # type: ignore[arg-type]

    def age(self) -> None:
        """As if all that is on record had been published a minute earlier."""
        for tag in self.client.zrange(self.key("unacked_index"), 0, -1):  # type: ignore[union-attr]
            self.client.zincrby(self.key("unacked_index"), -60, tag)

    def look(self, times: int = 2) -> int:
        """Have one look that finds what is missing, and then those that put it back; how much that was."""
        recovery = Recovery()
        with broker.channel() as channel:
            return sum(recovery.look(channel, patience=0) for _ in range(times))

    @contextlib.contextmanager
    def taken(self, queue: str = "celery") -> Iterator[Any]:
        """A message that a stock consumer has taken and noted, and then handled."""
        with Connection(self.url, transport_options=self.options) as connection:
            message = connection.default_channel.basic_get(queue)
            assert message is not None
            yield message
            message.ack()


@pytest.fixture
def queues(redis_server: RedisServer, request: pytest.FixtureRequest) -> Iterator[Queues]:
    """The shared Redis as the broker of this process, with the transport options of the test's parameter."""
    queues = Queues(redis_server, **getattr(request, "param", {}))
    with publishes_to(queues.url, broker_transport_options=queues.options):
        yield queues


def publish(tag: str = "any") -> None:
    Job(tag=tag).publish_sync()


@pytest.fixture(scope="module")
def survived(tmp_path_factory: pytest.TempPathFactory, django_db_setup: None) -> Iterator[tuple[Bus, Queues]]:
    """A worker that was killed when Redis had given it a message; then a backlog, and a worker that handles all."""
    directory = tmp_path_factory.mktemp("gap")
    server = RedisServer(directory / "redis").start()
    queues = Queues(server)
    workers = [Worker(server, directory / name, VISIBILITY_TIMEOUT="1") for name in (TAKEN, WAITING)]
    for name in (TAKEN, WAITING):
        (directory / name).mkdir()
    try:
        with publishes_to(queues.url):
            workers[0].start()
            hold_back_while_it_waits(workers[0], server)
            publish(TAKEN)
            wait_until(lambda: not queues.waiting(), what="the worker to be given the message")
            workers[0].kill()
            for _ in range(BACKLOG):
                publish(WAITING)
            queues.age()
            assert queues.on_record == BACKLOG + 1
            workers[1].start()
            bus = Bus(server, workers[1])
            wait_until(lambda: not queues.on_record, what="all to be handled", timeout=30)
            yield bus, queues
    finally:
        for worker in workers:
            worker.stop()
        server.stop()


def hold_back_while_it_waits(worker: Worker, server: RedisServer) -> None:
    """SIGSTOP a worker that waits for a message: it is the next one's, and Redis does not know how it is."""

    def waits() -> bool:
        worker.signal(signal.SIGSTOP)
        if any(client["cmd"] == "brpop" and "b" in client["flags"] for client in server.client.client_list()):
            return True
        worker.signal(signal.SIGCONT)
        return False

    wait_until(waits, what="a worker that waits for messages")


def test_what_a_killed_worker_had_not_noted_yet_is_handled_by_another(survived: tuple[Bus, Queues]) -> None:
    """Once, and as at first: nobody had begun it."""
    bus, _ = survived
    (call,) = bus.recorded(TAKEN)
    assert call["count"] == 1
    assert not bus.has_recorded(TAKEN)
    assert bus.worker.logged().count("a message was put back") == 1


def test_what_waits_for_a_worker_is_handled_once(survived: tuple[Bus, Queues]) -> None:
    """Though it has been on record for long, and workers look for what is missing while they take it."""
    bus, queues = survived
    calls = bus.recorded(WAITING, BACKLOG)
    assert Counter(call["count"] for call in calls) == {1: BACKLOG}
    assert len({call["id"] for call in calls}) == BACKLOG
    assert not bus.has_recorded(WAITING)
    assert queues.on_record == 0


OPTIONS = [
    {},
    {"global_keyprefix": "ours:"},
    {"global_keyprefix": "ours:", "unacked_key": "held", "unacked_index_key": "held_index"},
]


@pytest.mark.parametrize("queues", OPTIONS, indirect=True)
def test_what_is_missing_is_put_back_as_it_was(queues: Queues, caplog: pytest.LogCaptureFixture) -> None:
    """Under the same tag, on record again, and not as one that somebody has begun; with a warning."""
    publish()
    lost = queues.lose()
    queues.age()
    with caplog.at_level(logging.WARNING):
        assert queues.look() == 1
    assert queues.waiting() == [lost]
    assert queues.on_record == 1
    (record,) = caplog.records
    assert f"queue=celery id={lost['headers']['id']}" in record.getMessage()
    with queues.taken() as message:
        assert not message.delivery_info.get("redelivered")
    assert queues.on_record == 0


def test_what_is_lost_twice_is_put_back_twice(queues: Queues) -> None:
    """It is on record as before."""
    publish()
    for _ in range(2):
        queues.lose()
        queues.age()
        assert queues.look() == 1
    assert len(queues.waiting()) == 1


def test_what_is_in_its_queue_stays_there_once(queues: Queues) -> None:
    """Whatever its age, and behind however much else."""
    for _ in range(250):
        publish()
    queues.age()
    assert queues.look(times=6) == 0
    assert len(queues.waiting()) == 250


def test_what_was_published_just_now_is_left_alone(queues: Queues) -> None:
    """A worker may have it, and be about to note that."""
    publish()
    queues.lose()
    assert queues.look() == 0


def test_what_a_worker_notes_late_is_not_put_back(queues: Queues) -> None:
    """It was missing for a while: the worker was slow, and lives. So with what it holds until its countdown is over."""
    publish()
    (item,) = queues.waiting()
    recovery = Recovery()
    taken = queues.lose()
    queues.age()
    with broker.channel() as channel:
        recovery.look(channel, patience=0)
        with Connection(queues.url) as connection:
            noting = connection.default_channel
            noting.qos.append(noting.message_to_python(taken), item["properties"]["delivery_tag"])
            assert recovery.look(channel, patience=0) == 0
            assert queues.look() == 0
            assert queues.waiting() == []
            noting.basic_ack(item["properties"]["delivery_tag"])
    assert queues.on_record == 0


@pytest.mark.parametrize("queues", OPTIONS, indirect=True)
def test_what_a_worker_gives_back_is_on_record_too(queues: Queues) -> None:
    """It may be lost as it is taken once more, and then comes back as what it is: begun by somebody."""
    publish()
    with RecordingConnection(queues.url, transport_options=queues.options) as connection:
        message = connection.default_channel.basic_get("celery")
        message.requeue()
    assert queues.on_record == 1
    queues.lose()
    queues.age()
    assert queues.look() == 1
    with queues.taken() as message:
        assert message.delivery_info["redelivered"]
    assert queues.on_record == 0


def test_what_others_publish_on_our_connections_is_not_on_record(queues: Queues) -> None:
    """Such as the answers of a worker, which whoever asked takes without telling."""
    with broker.channel() as channel, Producer(channel) as producer:
        producer.publish({"ok": "pong"}, routing_key="celery")
    assert queues.on_record == 0
    assert len(queues.waiting()) == 1


def test_many_who_look_at_once_put_each_back_once(queues: Queues) -> None:
    """As many workers do."""
    for _ in range(30):
        publish()
    for _ in range(30):
        queues.lose()
    queues.age()
    recoveries = [Recovery() for _ in range(4)]
    together, counts = threading.Barrier(len(recoveries)), []

    def look(recovery: Recovery) -> None:
        with broker.channel() as channel:
            recovery.look(channel, patience=0)
            together.wait(timeout=10)
            counts.append(recovery.look(channel, patience=0))

    threads = [threading.Thread(target=look, args=(recovery,)) for recovery in recoveries]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts) == 30
    assert len({message["headers"]["id"] for message in queues.waiting()}) == len(queues.waiting()) == 30


def test_what_is_missing_is_found_behind_a_queue_that_nobody_reads(queues: Queues) -> None:
    """Each queue goes at its own pace."""
    for _ in range(250):
        Copied().publish_sync()
    publish()
    queues.lose()
    Copied().publish_sync()
    queues.age()
    assert queues.look(times=6) == 1
    assert len(queues.waiting()) == 1
    assert len(queues.waiting("copies")) == 251


def test_what_others_publish_to_the_same_queue_does_not_matter(queues: Queues) -> None:
    """It is not on record, and so does not tell how far the queue has got."""
    publish()
    queues.lose()
    with Connection(queues.url) as connection, Producer(connection) as stock:
        for number in range(60):
            stock.publish({"number": number}, routing_key="celery")
    publish()
    queues.age()
    assert queues.on_record == 2
    assert queues.look() == 1
    assert len(queues.waiting()) == 62


def test_a_message_with_a_priority_is_put_back_with_it(queues: Queues) -> None:
    """Redis has a list for each."""
    with broker.channel() as channel, Producer(channel) as producer:
        producer.publish({}, routing_key="celery", priority=9, headers={"task": TASK, "id": "any"})
    with_priority = "celery\x06\x169"
    queues.lose(with_priority)
    queues.age()
    assert queues.look() == 1
    assert len(queues.waiting(with_priority)) == 1


def test_the_stock_transport_takes_messages_in_two_steps(queues: Queues) -> None:
    """If this fails, it has mended the gap: then rooms_app/bus/redis_records.py can go."""
    publish()
    received: list[Any] = []
    with queues.client.monitor() as monitor, Connection(queues.url) as connection:
        with connection.Consumer(
            [Queue("celery")], callbacks=[lambda body, message: received.append(message)], accept=None
        ):
            connection.drain_events(timeout=5)
        (message,) = received
        message.ack()
        commands = []
        while not commands or not commands[-1].startswith("ZREM"):
            commands.append(monitor.next_command()["command"])
    names = [command.split(" ")[0] for command in commands]
    taken, noted = names.index("BRPOP"), names.index("ZADD")
    assert taken < names.index("MULTI", taken) < noted


@pytest.mark.parametrize(
    ("url", "channel"),
    [
        ("redis://localhost", Channel),
        ("rediss://localhost", Channel),
        ("redis+socket:///tmp/redis.sock", Channel),
        ("sentinel://localhost;sentinel://localhost:1", SentinelChannel),
    ],
)
def test_each_kind_of_redis_has_its_messages_on_record(url: str, channel: type) -> None:
    """Also after the connection has moved on to another server."""
    connection = RecordingPool(Connection(url, transport_options={"master_name": "main"})).new()
    for _ in range(2):
        made = connection.transport.Channel
        assert issubclass(made, RecordsMessages)
        assert issubclass(made, channel)
        connection.maybe_switch_next()


@pytest.mark.parametrize("url", ["memory://", "amqp://localhost"])
def test_another_broker_is_used_as_it_is(url: str, settings: Any) -> None:
    assert RecordingPool(Connection(url)).new().get_transport_cls() is Connection(url).get_transport_cls()
