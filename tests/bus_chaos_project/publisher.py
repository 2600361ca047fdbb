"""`python -m tests.bus_chaos_project.publisher WHAT NUMBER`: publishes from a process of its own, which may die."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from datetime import timedelta

import django
from django.db import transaction
from django.utils import timezone


def publish(number: int) -> None:
    """A message whose first run takes until its worker is killed."""
    Work(number=number, seconds=18).publish_sync()


def publish_six(number: int) -> None:
    """Six of them, with this number and those after it."""
    for each in range(number, number + 6):
        publish(each)


def delay(number: int) -> None:
    """One that is to be handled in two seconds."""
    Work(number=number).delay_sync(2)


def delay_many(number: int) -> None:
    """Forty that are due at once, in a second: one process works on them for twelve seconds."""
    for each in range(number, number + 40):
        Work(number=each, seconds=0.3).delay_sync(1)


def schedule(number: int) -> None:
    """One that is to be handled in an hour."""
    Work(number=number).schedule_sync(timezone.now() + timedelta(hours=1))


def hasten(number: int) -> None:
    """What is to be handled in an hour is due now."""
    OutboxEntry.objects.filter(due_at__gt=timezone.now() + timedelta(minutes=50)).update(due_at=timezone.now())


def die(number: int) -> None:
    """Save and publish, and die between the commit and what comes after it."""
    _die(SafeWork, number)


def die_without_outbox(number: int) -> None:
    """The same with a message that nothing keeps."""
    _die(Work, number)


def roll_back(number: int) -> None:
    """Publish this number and the next in a transaction that is rolled back."""
    with contextlib.suppress(ZeroDivisionError), transaction.atomic():
        Work(number=number).publish_sync()
        SafeWork(number=number + 1).publish_sync()
        _ = 1 / 0


def _die(message_type: type[Work], number: int) -> None:
    with transaction.atomic():
        # The first of the transaction's hooks: none of those that publish gets its turn.
        transaction.on_commit(lambda: os.kill(os.getpid(), signal.SIGKILL))
        Saved.objects.create(number=number)
        message_type(number=number).publish_sync()


_COMMANDS: dict[str, Callable[[int], None]] = {
    each.__name__: each
    for each in (publish, publish_six, delay, delay_many, schedule, hasten, die, die_without_outbox, roll_back)
}

if __name__ == "__main__":
    django.setup()
    from rooms_app.models import OutboxEntry
    from tests.bus_chaos_project.messages import SafeWork, Work
    from tests.bus_chaos_project.models import Saved

    _COMMANDS[sys.argv[1]](int(sys.argv[2]))
