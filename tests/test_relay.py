"""The outbox: what is stored in a transaction leaves when that commits, once, in order, late rather than never."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, connections, transaction
from django.utils import timezone

from rooms_app import carrying
from rooms_app.carrying import Claim, claim_due
from rooms_app.exceptions import BusUnavailable, RoomsConfigurationError, RoomsError
from rooms_app.models import OutboxEntry
from rooms_app.relay import register_carrier, relay_due, store
from tests.live import ROOT
from tests.outbox_rows import BROKEN, KIND, Carried, State, entry, let_time_pass, refuse_changes, states, stored

pytestmark = pytest.mark.django_db(transaction=True)


class TestTransactions:
    """As the commit, so the entry."""

    def test_it_leaves_when_the_transaction_commits(self, carried: Carried) -> None:
        with transaction.atomic():
            store(KIND, stored("a", "b"))
            store(KIND, stored("c"))
            assert (carried.keys, list(states())) == ([], ["a", "b", "c"])
        assert carried.keys == ["a", "b", "c"]
        assert set(states().values()) == {State.DONE}
        store(KIND, stored("d"))
        assert carried.keys == ["a", "b", "c", "d"]

    def test_what_is_rolled_back_leaves_neither_a_row_nor_anything_else(self, carried: Carried) -> None:
        """A savepoint takes only its own along."""
        with transaction.atomic():
            store(KIND, stored("a"))
            transaction.set_rollback(True)
        assert (states(), carried.keys) == ({}, [])
        with transaction.atomic():
            with transaction.atomic():
                store(KIND, stored("first"))
                transaction.set_rollback(True)
            store(KIND, stored("b"))
            with transaction.atomic():
                store(KIND, stored("last"))
                transaction.set_rollback(True)
        assert (list(states()), carried.keys) == (["b"], ["b"])

    def test_once_it_is_stored_nothing_raises_and_no_commit_hook_is_skipped(
        self, carried: Carried, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The database goes away right then: a relay carries it, with the same key, once that is back."""
        ran = []
        with connection.execute_wrapper(refuse_changes):
            with transaction.atomic():
                store(KIND, stored("a"))
                transaction.on_commit(lambda: ran.append(1))
            store(KIND, stored("b"))
        assert (ran, carried.keys) == ([1], ["a", "b"])
        assert caplog.text.count("could not be carried") == 2
        assert relay_due() == 0
        let_time_pass(seconds=10)
        assert (relay_due(), carried.keys) == (2, ["a", "b", "a", "b"])

    @pytest.mark.django_db(transaction=True, databases=["default", "other"])
    def test_another_databases_transaction_is_refused_with_the_reason(self, carried: Carried) -> None:
        with transaction.atomic("other"), pytest.raises(RoomsError, match=r"'default'.*'other'"):
            store(KIND, stored("a"), using="other")
        assert states() == {}
        # As a hook after that transaction does.
        store(KIND, stored("b"), using="other")
        assert carried.keys == ["b"]

    @pytest.mark.django_db(transaction=True, databases=["default", "other"])
    def test_the_outbox_is_where_the_router_puts_it(self, carried: Carried, settings: Any) -> None:
        """A transaction on the default database then can't vouch for it; one on its own can."""
        settings.DATABASE_ROUTERS = ["tests.test_relay.OutboxOnOther"]
        with transaction.atomic(), pytest.raises(RoomsError, match=r"'other'.*'default'"):
            store(KIND, stored("a"))
        with transaction.atomic("other"):
            store(KIND, stored("b"), using="other")
            assert carried.keys == []
        store(KIND, stored("c"))
        assert carried.keys == ["b", "c"]
        assert OutboxEntry.objects.using("other").count() == 2


class OutboxOnOther:
    """A router."""

    def db_for_write(self, model: Any, **hints: Any) -> str | None:
        return "other" if model is OutboxEntry else None

    db_for_read = db_for_write


class TestKeys:
    """Two with one key are one."""

    def test_a_key_is_taken_once_and_remembered_for_a_day(self, carried: Carried) -> None:
        """In the same call, in another transaction, before and after it left."""
        later = timezone.now() + timedelta(hours=1)
        with transaction.atomic():
            store(KIND, stored("a", "a", "b"))
            store(KIND, stored("b"))
        store(KIND, stored("a"))
        store(KIND, stored("later", due_at=later))
        store(KIND, stored("later"))
        assert (carried.keys, entry("later").due_at) == (["a", "b"], later)
        let_time_pass(hours=23)
        relay_due()
        store(KIND, stored("a"))
        let_time_pass(hours=1, minutes=1)
        relay_due()
        store(KIND, stored("a"))
        assert carried.keys == ["a", "b", "later", "a"]

    def test_of_what_has_left_the_key_alone_is_kept(self, carried: Carried) -> None:
        """And nothing at all where nobody can give it again."""
        store(KIND, stored("a"))
        store(KIND, stored("random", is_remembered=False))
        assert carried.keys == ["a", "random"]
        assert [(row.key, row.body, row.claimed_by) for row in OutboxEntry.objects.all()] == [("a", {}, "")]

    def test_old_ones_are_deleted_in_bounded_batches_and_failed_ones_are_kept(self, carried: Carried) -> None:
        long_ago = timezone.now() - timedelta(days=2)
        row = {"kind": KIND, "due_at": long_ago, "done_at": long_ago, "state": State.DONE}
        OutboxEntry.objects.bulk_create(OutboxEntry(key=f"{number}", **row) for number in range(1_500))
        carried.errors["broken"] = BROKEN
        store(KIND, stored("broken"))
        left = []
        for _ in range(3):
            relay_due()
            left.append(OutboxEntry.objects.count())
        assert (left, states()) == ([1_001, 501, 1], {"broken": State.FAILED})


class TestFailures:
    """Nothing is lost, and what is wrong is said."""

    @pytest.mark.parametrize("error", [BusUnavailable(), RoomsConfigurationError()])
    def test_where_nobody_answers_all_of_it_waits_and_leaves_in_order(self, carried: Carried, error: Exception) -> None:
        """Or where this process is set up wrongly. The pass ends there; other kinds go on."""
        carried.errors["b"] = error
        with transaction.atomic():
            store(KIND, stored("a", "b", "c"))
        assert (carried.keys, states()["c"]) == (["a"], State.WAITING)
        waiting = [entry("b"), entry("c")]
        assert {(row.error, row.attempts) for row in waiting} == {(str(error), 0)}
        assert all(row.claimed_until is not None and row.claimed_until > timezone.now() for row in waiting)
        assert relay_due() == 0
        other: list[str] = []
        register_carrier("tests.other", lambda body, key: other.append(key))
        store("tests.other", stored("x"), carry=False)
        let_time_pass(seconds=6)
        assert (relay_due(), carried.keys, other) == (1, ["a"], ["x"])
        carrying.forget_carrier("tests.other")
        carried.errors.clear()
        let_time_pass(seconds=6)
        assert (relay_due(), carried.keys) == (2, ["a", "b", "c"])
        assert entry("b").error == ""

    def test_what_can_never_leave_fails_with_the_reason_and_the_rest_goes_on(self, carried: Carried) -> None:
        carried.errors["b"] = RoomsError("This can \0 never leave." + "x" * 10_000)
        store(KIND, stored("a", "b", "c"))
        assert (carried.keys, entry("b").state) == (["a", "c"], State.FAILED)
        assert entry("b").error.startswith("This can  never leave.x") and len(entry("b").error) == 2_000
        let_time_pass(days=3)
        assert (relay_due(), entry("b").body) == (0, {"of": "b"})

    def test_an_unexpected_error_is_logged_and_tried_again_with_growing_delays_some_times(
        self, carried: Carried, caplog: pytest.LogCaptureFixture
    ) -> None:
        carried.errors["a"] = ZeroDivisionError("theirs")
        store(KIND, stored("a", "b"))
        delays: list[float] = []
        while (until := entry("a").claimed_until) is not None:
            delays.append((until - timezone.now()).total_seconds())
            relay_due()
            assert entry("a").attempts == len(delays)
            let_time_pass(seconds=delays[-1])
            assert relay_due() == 0
        assert len(delays) == 7
        # Full to half of 2, 4, 8 … seconds.
        assert all(0.4 < delay / 2**tries <= 1 for tries, delay in enumerate(delays, 1)), delays
        row = entry("a")
        assert (row.state, row.attempts, row.error) == (State.FAILED, 8, "ZeroDivisionError: theirs")
        assert caplog.text.count("ZeroDivisionError: theirs") == 8
        assert carried.keys == ["b"]


class TestRelays:
    """Any number of them."""

    def test_what_is_due_later_waits_and_what_fell_due_meanwhile_leaves_late(self, carried: Carried) -> None:
        now = timezone.now()
        store(KIND, stored("soon", due_at=now + timedelta(seconds=60)))
        store(KIND, stored("late", due_at=now - timedelta(hours=1)), carry=False)
        assert (relay_due(), carried.keys) == (1, ["late"])
        let_time_pass(seconds=61)
        assert (relay_due(), carried.keys) == (1, ["late", "soon"])

    def test_what_this_process_can_not_carry_is_left_to_one_that_can(self, carried: Carried) -> None:
        """At once: nobody has a claim on it."""
        carrying.forget_carrier(KIND)
        store(KIND, stored("a"))
        assert (relay_due(), entry("a").claimed_by) == (0, "")
        register_carrier(KIND, carried)
        assert (relay_due(), carried.keys) == (1, ["a"])

    def test_two_relays_at_once_carry_each_of_300_once_each_batch_in_order(self, carried: Carried) -> None:
        """Each in a thread and database connection of its own."""
        keys = [f"{number:03}" for number in range(300)]
        store(KIND, stored(*keys), carry=False)
        by_thread: dict[int, list[str]] = {}
        barrier = threading.Barrier(2)

        def carry(body: dict[str, Any], key: str, /) -> None:
            by_thread.setdefault(threading.get_ident(), []).append(key)
            carried(body, key)

        register_carrier(KIND, carry)

        def relay() -> None:
            barrier.wait(timeout=10)
            try:
                while relay_due():
                    pass
            finally:
                connections.close_all()

        threads = [threading.Thread(target=relay) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=30)
        assert sorted(carried.keys) == keys
        assert [sorted(each) for each in by_thread.values()] == list(by_thread.values())
        assert set(states().values()) == {State.DONE}

    def test_whoever_stores_it_carries_it_unless_a_relay_was_first(self, carried: Carried) -> None:
        """Its claim is in the insert, and has run out where the transaction takes long."""
        with transaction.atomic():
            store(KIND, stored("quick"))
            assert entry("quick").claimed_by and relay_due() == 0
        with transaction.atomic():
            store(KIND, stored("slow"))
            let_time_pass(seconds=11)
            # As after the commit, before its hooks.
            assert relay_due() == 1
        assert carried.keys == ["quick", "slow"]

    def test_what_a_dead_process_had_claimed_is_carried_when_its_claim_has_run_out(self, carried: Carried) -> None:
        store(KIND, stored("a"), carry=False)
        assert claim_due(KIND) is not None
        assert (claim_due(KIND), relay_due()) == (None, 0)
        let_time_pass(seconds=61)
        assert (relay_due(), carried.keys) == (1, ["a"])

    def test_a_slow_relay_renews_its_claim_and_leaves_alone_what_was_taken_over(self, carried: Carried) -> None:
        store(KIND, stored("a", "b", "c"), carry=False)
        slow = claim_due(KIND)
        assert slow is not None and slow.renew()
        let_time_pass(seconds=61)
        OutboxEntry.objects.filter(key="c").update(claimed_by="", claimed_until=None)
        other = claim_due(KIND, 1)
        assert other is not None and [each.key for each in other.entries] == ["a"]
        aged = Claim(slow.entries, slow._token, until=timezone.now(), lasts=carrying.CLAIM)
        assert aged.carry() == Counter({State.DONE: 1})
        assert (carried.keys, entry("a").state, entry("c").state) == (["b"], State.WAITING, State.WAITING)
        other.finish()
        assert entry("a").state == State.DONE

    def test_with_its_claim_a_slow_relay_notes_what_has_left(self, carried: Carried) -> None:
        """Else others would take that up once the first claim had run out, while this one lives."""
        store(KIND, stored("a", "b", "c", "d"), carry=False)
        claim, seen = claim_due(KIND), list[list[str]]()
        assert claim is not None

        def carry(body: dict[str, Any], key: str, /) -> None:
            seen.append([each for each, state in states().items() if state == State.DONE])
            if key == "b":
                claim._until -= carrying.CLAIM / 2

        register_carrier(KIND, carry)
        assert claim.carry() == Counter({State.DONE: 4})
        assert seen == [[], [], ["a", "b"], ["a", "b"]]

    def test_a_limit_is_per_kind(self, carried: Carried) -> None:
        """So that a kind with much to carry holds up none of the others."""
        store(KIND, stored(*"abcde"), carry=False)
        assert [relay_due(limit=2) for _ in range(4)] == [2, 2, 1, 0]


#: Runs the scheduler once, with a bus message in the outbox, and prints what became of that.
SCHEDULE = """
import django
from django.conf import settings
settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "rooms_app"],
    USE_TZ=True,
)
django.setup()
from django.core.management import call_command
from rooms_app.models import OutboxEntry
from rooms_app.relay import Stored, store
call_command("migrate", verbosity=0)
store("bus", [Stored(key="a", body={})])
call_command("rooms_scheduler", "--once")
print(OutboxEntry.objects.values_list("state", "error", "claimed_by", "claimed_until").get())
"""


def test_a_scheduler_without_a_celery_app_leaves_bus_messages_to_the_workers() -> None:
    """It does not even touch them."""
    env = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    command = [sys.executable, "-c", SCHEDULE]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "0 broadcasts sent.\n('waiting', '', '', None)\n"
