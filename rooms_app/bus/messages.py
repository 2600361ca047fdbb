"""Bus messages that can be published: what a team declares for its workers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from django.utils import timezone

from rooms_app.bus.publishing import Publication, publish, publish_sync
from rooms_app.bus.registry import BusMessageBase
from rooms_app.bus.retrying import check_seconds
from rooms_app.manager import SendOutcome


class BusMessage(BusMessageBase, abstract=True):
    """A typed job for a worker, handled at least once by each of its handlers.

    Each call returns what became of it: `sent`, or `deferred`: to the commit, to the success of the handler that
    calls it, or into the outbox, from where it is published later. That is also where it goes while the broker is
    away; only if neither takes it, `BusUnavailable` is raised. Publishing twice with one `idempotency_key` within a
    day is publishing once. Raises `NoHandler` for a class that no handler takes.
    """

    async def publish(self, *, idempotency_key: str | None = None) -> SendOutcome:
        """Have it handled now, from async code; inside a handler: when that has succeeded."""
        return await publish(Publication.of(self, idempotency_key=idempotency_key))

    def publish_sync(self, *, idempotency_key: str | None = None, using: str | None = None) -> SendOutcome:
        """Have it handled now, from sync code: after the commit where a transaction is open on `using`."""
        publication = Publication.of(self, idempotency_key=idempotency_key)
        return publish_sync(publication, name="publish_sync", using=using)

    async def delay(self, seconds: float, *, idempotency_key: str | None = None) -> SendOutcome:
        """Have it handled in so many seconds, from async code."""
        return await publish(Publication.of(self, due_at=_in(seconds), idempotency_key=idempotency_key))

    def delay_sync(
        self, seconds: float, *, idempotency_key: str | None = None, using: str | None = None
    ) -> SendOutcome:
        """Have it handled in so many seconds, from sync code; counted from now, also inside a transaction."""
        publication = Publication.of(self, due_at=_in(seconds), idempotency_key=idempotency_key)
        return publish_sync(publication, name="delay_sync", using=using)

    async def schedule(self, when: datetime, *, idempotency_key: str | None = None) -> SendOutcome:
        """Have it handled at this time, from async code; a time that is past is now. Raises `ValueError` if naive."""
        return await publish(Publication.of(self, due_at=_aware(when), idempotency_key=idempotency_key))

    def schedule_sync(
        self, when: datetime, *, idempotency_key: str | None = None, using: str | None = None
    ) -> SendOutcome:
        """Have it handled at this time, from sync code."""
        publication = Publication.of(self, due_at=_aware(when), idempotency_key=idempotency_key)
        return publish_sync(publication, name="schedule_sync", using=using)


def _in(seconds: float) -> datetime:
    check_seconds("delay(…)", seconds)
    return datetime.now(UTC) + timedelta(seconds=seconds)


def _aware(when: datetime) -> datetime:
    if timezone.is_naive(when):
        raise ValueError(f"schedule({when!r}) needs an aware datetime, such as datetime.now(UTC) + timedelta(hours=1).")
    return when
