"""Broadcasts: each is sent once, by whoever is first, and late rather than never."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_django
from django.contrib.auth.models import Permission, User
from django.core.management import CommandError, call_command
from django.db import connections, transaction
from django.utils import timezone
from websockets.sync.client import ClientConnection, connect

from rooms_app import WebSocketMessage, broadcasts, provide_ws_manager
from rooms_app.exceptions import RoomsUnavailable
from rooms_app.layers import channel_layer
from rooms_app.manager import ChannelLayerManager, SendOutcome
from rooms_app.models import AuditEntry, Broadcast
from tests.live import ROOT, DemoServers, Process, RedisServer
from tests.waiting import wait_until

State = Broadcast.State
CHAT = {"user_id": "1", "username": "ops", "content": "hi", "timestamp": "2026-01-01T00:00:00Z"}

uses_database = pytest.mark.django_db(transaction=True)


def note(**values: Any) -> Broadcast:
    return Broadcast.objects.create(**{"message_type": "tests.note", "payload": {"number": 1}, **values})


def due(**values: Any) -> Broadcast:
    return note(state=State.SCHEDULED, send_at=timezone.now() - timedelta(hours=1), **values)


def actions() -> list[str]:
    return list(AuditEntry.objects.order_by("id").values_list("action", flat=True))


class Recorder(ChannelLayerManager):
    """Keeps what is sent, with its rooms and key; an error set here is raised instead."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[tuple[list[str], str | None]] = []
        self.error: Exception | None = None
        #: After so many sends Redis does not confirm any more.
        self.fails_after: int | None = None
        #: Called at each send.
        self.on_send: Callable[[], None] = lambda: None
        #: The keys of what was not confirmed.
        self.refused: list[str | None] = []

    def send_sync(self, rooms: Any, message: Any, *, idempotency_key: str | None = None, **options: Any) -> SendOutcome:
        if self.error is not None or self.fails_after == len(self.sent):
            self.refused.append(idempotency_key)
            raise self.error or RoomsUnavailable()
        self.sent.append((list(rooms), idempotency_key))
        self.on_send()
        return SendOutcome.SENT


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """For whom and when something is sent; that it arrives is shown with real clients."""
    manager = Recorder()
    with provide_ws_manager(manager):
        yield manager


@uses_database
class TestStates:
    """Compare and set."""

    def test_two_operators_at_once_send_one(self, settings: Any, redis_server: RedisServer) -> None:
        """Each in a thread and database connection of her own."""
        settings.CHANNEL_LAYERS = {"default": channel_layer("rooms", redis_server.url, prefix="twice")}
        broadcast = note(audience="rooms", rooms=["a"])
        barrier, won = threading.Barrier(4), []

        def press() -> None:
            barrier.wait(timeout=10)
            try:
                won.append(broadcasts.send_now(broadcast.pk, None))
            finally:
                connections.close_all()

        threads = [threading.Thread(target=press) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=30)
        assert sorted(won) == [False, False, False, True]
        broadcast.refresh_from_db()
        assert (broadcast.state, actions()) == (State.SENT, ["sent"])

    def test_what_is_rolled_back_is_not_sent(self, recorder: Recorder) -> None:
        broadcast = note()
        with transaction.atomic():
            assert broadcasts.send_now(broadcast.pk, None)
            assert recorder.sent == []
            transaction.set_rollback(True)
        broadcast.refresh_from_db()
        assert (recorder.sent, broadcast.state) == ([], State.DRAFT)
        with transaction.atomic():
            assert broadcasts.send_now(broadcast.pk, None)
        assert [rooms for rooms, _ in recorder.sent] == [["*"]]

    def test_a_cancelled_one_is_never_sent(self, recorder: Recorder) -> None:
        broadcast = due()
        assert broadcasts.cancel(broadcast.pk, None)
        assert (broadcasts.send_due().sent, broadcasts.send_now(broadcast.pk, None), recorder.sent) == (0, False, [])
        assert not broadcasts.cancel(broadcast.pk, None)
        assert actions() == ["cancelled"]

    def test_a_draft_without_a_time_is_not_scheduled(self) -> None:
        now_or_never, later = note(), note(send_at=timezone.now() + timedelta(hours=1))
        assert not broadcasts.schedule(now_or_never.pk, None)
        assert [broadcasts.schedule(later.pk, None) for _ in range(2)] == [True, False]

    def test_what_a_dead_process_was_sending_is_sent_when_its_claim_has_run_out(self, recorder: Recorder) -> None:
        alive = note(state=State.SENDING, claimed_until=timezone.now() + timedelta(seconds=30))
        dead = note(state=State.SENDING, claimed_until=timezone.now() - timedelta(seconds=1))
        assert broadcasts.send_due().sent == 1
        alive.refresh_from_db()
        dead.refresh_from_db()
        assert (len(recorder.sent), alive.state, dead.state) == (1, State.SENDING, State.SENT)

    def test_a_claim_that_was_taken_over_is_left_to_who_has_it(self, recorder: Recorder) -> None:
        """The slow process notes no outcome."""
        broadcast = note(state=State.SENDING, claimed_until=timezone.now())
        taken_over = timezone.now() + timedelta(seconds=60)
        broadcasts._deliver(broadcast.pk, taken_over, retries=True)
        broadcast.refresh_from_db()
        assert (broadcast.state, actions()) == (State.SENDING, [])

    def test_what_was_corrected_after_a_failure_is_another_message(self, recorder: Recorder) -> None:
        """The first one was perhaps sent; the same, tried again, has the same key."""
        recorder.error = RoomsUnavailable()
        broadcast = note()
        assert broadcasts.send_now(broadcast.pk, None)
        recorder.error = None
        assert broadcasts.edit(broadcast.pk, 1, payload={"number": 2})
        assert not broadcasts.edit(broadcast.pk, 1, payload={"number": 3})
        assert not broadcasts.send_now(broadcast.pk, None, revision=1)
        assert broadcasts.send_now(broadcast.pk, None, revision=2)
        (corrected,) = [key for _, key in recorder.sent]
        assert corrected not in recorder.refused

    def test_one_whose_process_died_can_be_sent_again_by_hand(self, recorder: Recorder) -> None:
        """With the same key, and not while that process may still live."""
        broadcast = note()
        recorder.error = RoomsUnavailable()
        assert broadcasts.send_now(broadcast.pk, None)
        recorder.error = None
        soon = timezone.now() + timedelta(seconds=30)
        Broadcast.objects.update(state=State.SENDING, claimed_until=soon)
        assert not broadcasts.send_now(broadcast.pk, None)
        Broadcast.objects.update(claimed_until=timezone.now())
        assert broadcasts.send_now(broadcast.pk, None)
        assert [key for _, key in recorder.sent] == recorder.refused


@uses_database
class TestFailures:
    """What goes wrong is said, and nothing is lost."""

    def test_with_redis_away_a_scheduled_one_waits_and_a_sent_one_fails(
        self, settings: Any, own_redis: RedisServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Then both go, without an exception in the log."""
        config = channel_layer("rooms", own_redis.url, prefix="away")
        settings.CHANNEL_LAYERS = {"default": config}
        own_redis.stop()
        with provide_ws_manager(ChannelLayerManager()):
            scheduled, pressed = due(), note()
            assert broadcasts.send_due().sent == 0
            assert broadcasts.send_now(pressed.pk, None)
            scheduled.refresh_from_db()
            pressed.refresh_from_db()
            assert (scheduled.state, pressed.state) == (State.SCHEDULED, State.FAILED)
            assert scheduled.error and pressed.error and scheduled.claimed_until is not None
            Broadcast.objects.filter(pk=scheduled.pk).update(claimed_until=None)
            with pytest.raises(CommandError, match="Redis is away: what is scheduled stays so"):
                call_command("rooms_scheduler", "--once", "--json", stdout=io.StringIO())
            assert broadcasts.send_due().sent == 0
            own_redis.restart()
            wait_until(lambda: broadcasts.send_due().sent, what="the scheduled one")
            assert broadcasts.send_now(pressed.pk, None)
        scheduled.refresh_from_db()
        pressed.refresh_from_db()
        assert (scheduled.state, pressed.state, scheduled.error) == (State.SENT, State.SENT, "")
        assert actions() == ["failed", "sent", "sent"]
        assert [record for record in caplog.records if record.exc_info] == []

    @pytest.mark.parametrize(
        ("values", "said"),
        [
            ({"message_type": "gone.message"}, "gone.message"),
            ({"payload": {"number": "many"}}, "number"),
            ({"audience": "rooms", "rooms": ["x" * 300]}, "room name"),
        ],
    )
    def test_what_can_not_be_sent_fails_with_the_reason(self, values: dict[str, Any], said: str) -> None:
        """Its class is gone or has changed since, or a room is no room; others that are due go on."""
        broken, whole = due(**values), due()
        assert broadcasts.send_due().sent == 1
        broken.refresh_from_db()
        whole.refresh_from_db()
        assert (broken.state, whole.state) == (State.FAILED, State.SENT)
        assert said in broken.error

    def test_an_error_of_a_teams_own_code_is_logged_and_fails_it(
        self, recorder: Recorder, caplog: pytest.LogCaptureFixture
    ) -> None:
        recorder.error = ZeroDivisionError("theirs")
        broadcast = due()
        assert broadcasts.send_due().sent == 0
        broadcast.refresh_from_db()
        assert (broadcast.state, broadcast.error) == (State.FAILED, "ZeroDivisionError: theirs")
        assert "could not be sent" in caplog.text

    def test_one_that_nobody_scheduled_does_not_become_scheduled(self, recorder: Recorder) -> None:
        """A process died while an operator's was on its way, and Redis is away, too."""
        recorder.error = RoomsUnavailable()
        orphan = note(state=State.SENDING, claimed_until=timezone.now())
        assert broadcasts.send_due().sent == 0
        orphan.refresh_from_db()
        assert orphan.state == State.FAILED


class Picky(WebSocketMessage):
    """Not for everybody who may send."""

    MESSAGE_ID = "tests.picky"

    @classmethod
    def may_broadcast(cls, user: Any) -> bool:
        return bool(user.first_name == "Trusted")


def demote(sender: User, what: str) -> None:
    """Take something from her since she pressed the button."""
    match what:
        case "account":
            sender.delete()
        case "activity":
            User.objects.filter(pk=sender.pk).update(is_active=False)
        case "permission":
            sender.user_permissions.clear()
        case "trust":
            User.objects.filter(pk=sender.pk).update(first_name="")


@uses_database
@pytest.mark.parametrize(
    ("taken", "said"),
    [
        ("nothing", ""),
        ("account", "Its sender is gone."),
        ("activity", "Its sender ops is not active any more."),
        ("permission", "Its sender ops may not send messages any more."),
        ("trust", "Its sender ops may not send tests.picky any more."),
    ],
)
def test_a_scheduled_one_goes_only_while_its_sender_may_send_it(taken: str, said: str, recorder: Recorder) -> None:
    """Else it fails with the reason, which is on record; another operator may still send it again."""
    sender = User.objects.create(username="ops", first_name="Trusted")
    sender.user_permissions.set(Permission.objects.filter(codename="send_broadcast"))
    broadcast = note(message_type="tests.picky", payload={}, send_at=timezone.now())
    assert broadcasts.schedule(broadcast.pk, sender)
    demote(sender, taken)
    assert broadcasts.send_due().sent == len(recorder.sent) == (not said)
    broadcast.refresh_from_db()
    assert (broadcast.state, broadcast.error) == (State.FAILED if said else State.SENT, said)
    last = AuditEntry.objects.first()
    assert last is not None and last.details.get("error", "") == said
    if said:
        assert broadcasts.send_now(broadcast.pk, User.objects.create(username="other"))
        broadcast.refresh_from_db()
        assert broadcast.state == State.SENT


@contextmanager
def schedulers(demo: DemoServers, count: int, directory: Path) -> Iterator[list[Process]]:
    """So many `rooms_scheduler` processes beside the demo's servers."""
    command = [sys.executable, "manage.py", "rooms_scheduler", "--interval", "0.1"]
    env = {**os.environ, **demo.env}
    running = [Process(command, log=directory / f"scheduler-{index}.log", env=env) for index in range(count)]
    try:
        for process in running:
            process.spawn()
        yield running
    finally:
        for process in running:
            process.stop()


def listening(demo: DemoServers, room: str) -> ClientConnection:
    # The second server: what the schedulers send has to cross processes.
    return connect(f"{demo.ws_urls[1]}/ws/{room}?since=latest")


def store(demo: DemoServers, room: str, *contents: str) -> None:
    """Broadcasts that fell due an hour ago, in the demo's own database."""
    rows = [json.dumps({**CHAT, "content": content}) for content in contents]
    code = (
        "import json; from django.utils import timezone as t; from datetime import timedelta as d;"
        "from rooms_app.models import Broadcast as B;"
        f"[B.objects.create(message_type='chat.message', payload=json.loads(row), audience='rooms', rooms=[{room!r}],"
        f" state='scheduled', send_at=t.now() - d(hours=1)) for row in {rows!r}]"
    )
    demo.manage("shell", "-c", code)


def contents(client: ClientConnection, count: int) -> list[str]:
    got: list[str] = []
    while len(got) < count:
        frame = json.loads(client.recv(timeout=20))
        if frame["MESSAGE_ID"] == "chat.message":
            got.append(frame["message"]["content"])
    return got


@pytest.mark.slow
def test_two_schedulers_send_each_once_late_rather_than_never(demo_servers: DemoServers, tmp_path: Path) -> None:
    """What fell due while none ran goes when they start; SIGTERM and SIGINT end them with status 0."""
    expected = [f"number {number}" for number in range(20)]
    with listening(demo_servers, "schedule") as client:
        store(demo_servers, "schedule", *expected)
        with schedulers(demo_servers, 2, tmp_path) as running:
            got = contents(client, len(expected))

            def sent() -> int:
                said = "".join(process.logged() for process in running)
                return sum(int(number) for number in re.findall(r"^(\d+) broadcasts? sent", said, re.MULTILINE))

            wait_until(lambda: sent() == len(expected), what="their word")
            # One may have sent it all while the other was still on its way up.
            wait_until(lambda: all("Ctrl-C ends it" in process.logged() for process in running), what="both")
            for process, number in zip(running, (signal.SIGTERM, signal.SIGINT), strict=True):
                process.signal(number)
                process.wait()
                assert process.process is not None and process.process.returncode == 0, process.logged()
        store(demo_servers, "schedule", "last")
        once = demo_servers.manage("rooms_scheduler", "--once", "--json")
        assert json.loads(once.stdout)["sent"] == 1
        got += contents(client, 1)
    assert sorted(got) == sorted([*expected, "last"])


def test_a_scheduler_outlives_a_database_that_is_away(tmp_path: Path, redis_server: RedisServer) -> None:
    """It says so once, and goes on when there are tables."""
    env = {**os.environ, "DJANGO_SETTINGS_MODULE": "project.settings", "REDIS_URL": redis_server.url}
    env["DATABASE_FILE"] = str(tmp_path / "db.sqlite3")
    command = [sys.executable, "manage.py", "rooms_scheduler", "--interval", "0.1"]
    scheduler = Process(command, log=tmp_path / "log", env=env)
    scheduler.spawn()
    try:
        wait_until(lambda: "does not answer" in scheduler.logged(), what="the complaint", timeout=30)
        subprocess.run([sys.executable, "manage.py", "migrate", "-v", "0"], cwd=ROOT, env=env, check=True, timeout=60)
        wait_until(lambda: "answers again" in scheduler.logged(), what="the all-clear")
        assert scheduler.logged().count("does not answer") == 1
        assert "Traceback" not in scheduler.logged()
    finally:
        scheduler.stop()
    assert scheduler.process is not None and scheduler.process.returncode == 0


def test_the_scheduler_says_how_it_is_called() -> None:
    argv = [sys.executable, "manage.py", "rooms_scheduler", "--help"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert "Example: python manage.py rooms_scheduler --interval" in " ".join(done.stdout.split())


@uses_database
def test_the_migrations_are_complete(settings: pytest_django.fixtures.SettingsWrapper) -> None:
    call_command("makemigrations", "rooms_app", "--check", "--dry-run", verbosity=0)
