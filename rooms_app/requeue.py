"""What an operator gives another try: dead letters, and outbox entries that failed. Each once, by whoever is first."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.db import router, transaction
from django.utils import timezone

from rooms_app.carrying import outbox
from rooms_app.exceptions import RoomsError
from rooms_app.models import AuditEntry, DeadLetter, OutboxEntry
from rooms_app.relay import Stored, store

PERMISSION = "rooms_app.requeue_dead_letter"

#: The kind of outbox entries that are deliveries of bus messages: `bus.leaving.KIND`, which is not to be had without
#: Celery.
_BUS = "bus"

#: What a delivery has been through, forgotten.
_FRESH = {"attempt": 1, "losses": 0, "waits": 0}


def target_of(row: DeadLetter | OutboxEntry) -> str:
    """What an audit entry calls it."""
    return f"{row._meta.verbose_name} {row.pk}"


def requeue(letter_pk: UUID, user: Any) -> bool:
    """Have a dead letter handled once more, as if for the first time; False where somebody else was first.

    By way of the outbox, so a process without a broker can do it. Raises `RoomsError` for what is no delivery.
    """
    database = router.db_for_write(DeadLetter)
    letters = DeadLetter.objects.using(database).filter(pk=letter_pk, state=DeadLetter.State.DEAD)
    with transaction.atomic(using=database):
        letter = letters.first()
        if letter is not None and not (letter.handler and isinstance(letter.delivery, dict)):
            raise RoomsError("What came is no delivery, so there is nothing to handle.")
        values = {"state": DeadLetter.State.REQUEUED, "requeued_at": timezone.now(), "requeued_by": user}
        if letter is None or not letters.update(**values):
            return False
        entry = Stored(key=f"requeued:{letter_pk}", body={**letter.delivery, **_FRESH}, is_remembered=False)
        store(_BUS, [entry], using=database)
        AuditEntry.record(user, "requeued", target_of(letter))
    return True


def try_again(entry_pk: Any, user: Any) -> bool:
    """Have an outbox entry that failed carried once more, by a relay; False where somebody else was first."""
    failed = outbox().filter(pk=entry_pk, state=OutboxEntry.State.FAILED)
    with transaction.atomic(using=failed.db):
        entry = failed.first()
        if entry is None or not failed.update(state=OutboxEntry.State.WAITING, attempts=0, claimed_until=None):
            return False
        AuditEntry.record(user, "requeued", target_of(entry), error=entry.error)
    return True
