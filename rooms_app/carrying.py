"""Carrying what the outbox holds: each entry by whoever claims it first, and by nobody else while that one lives.

A claim is one UPDATE that names the state before it, and a token of its own. It lasts a while, and is renewed as long
as its owner goes on; then it counts as dead, and what it had not noted as done is carried again with the same key.
"""

from __future__ import annotations

import contextlib
import logging
import random
import secrets
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol

from django.db import connections, router, transaction
from django.db.models import F, Q, QuerySet
from django.utils import timezone

from rooms_app.exceptions import RoomsConfigurationError, RoomsError, Unavailable, explain
from rooms_app.models import OutboxEntry
from rooms_app.payloads import storable

logger = logging.getLogger(__name__)

State = OutboxEntry.State

#: How long a claim lasts.
CLAIM = timedelta(seconds=60)
#: How long the claim lasts that whoever stores an entry has on it from the start. Short: it is to go at once, and
#: when that process dies, this is how late it goes.
FIRST_CLAIM = timedelta(seconds=10)
#: How many entries one claim takes.
BATCH = 100

#: Seconds until an entry is tried again whose carrier got no answer; spread, so that relays don't come all at once.
_AWAY = (1.0, 5.0)
#: How often an entry is tried that fails otherwise, with growing delays, some two minutes in all.
_TRIES = 8

_MAX_ERROR = 2_000


class Carrier(Protocol):
    """Takes an entry to where it belongs. May be called again with the same key: the second time is to do nothing.

    Raises an `Unavailable` or a `RoomsConfigurationError` to be asked again later, another `RoomsError` for what can
    never leave.
    """

    def __call__(self, body: dict[str, Any], key: str, /) -> None: ...


_carriers: dict[str, Carrier] = {}


def register_carrier(kind: str, carry: Carrier) -> None:
    """Have entries of this kind carried so, in this process."""
    _carriers[kind] = carry


def forget_carrier(kind: str) -> None:
    """Leave entries of this kind to other processes."""
    _carriers.pop(kind, None)


def kinds() -> list[str]:
    """What this process can carry."""
    return list(_carriers)


def can_carry(kind: str) -> bool:
    """Whether this process can carry entries of this kind."""
    return kind in _carriers


def outbox() -> QuerySet[OutboxEntry]:
    """The entries, in the database that they are written to."""
    return OutboxEntry.objects.using(router.db_for_write(OutboxEntry))


def claim_due(kind: str, count: int = BATCH) -> Claim | None:
    """The next entries of a kind that are due, now ours; None where there are none."""
    while True:
        now = timezone.now()
        is_free = Q(claimed_until=None) | Q(claimed_until__lte=now)
        due = outbox().filter(is_free, kind=kind, state=State.WAITING, due_at__lte=now)
        # Most passes end here, without a transaction.
        if not due.exists():
            return None
        token, until = new_token(), now + CLAIM
        with _locks(due.db):
            # Rows that another relay is about to claim are passed over; waiting for each other, two could be stuck.
            free = due.select_for_update(skip_locked=True) if _can_skip(due.db) else due
            found = list(free.order_by("due_at", "id").values_list("pk", flat=True)[:count])
            if not found:
                return None
            due.filter(pk__in=found).update(claimed_by=token, claimed_until=until)
        entries = list(outbox().filter(pk__in=found, claimed_by=token).order_by("due_at", "id"))
        if entries:
            return Claim(entries, token, until=until, lasts=CLAIM)
        # Another relay was first: what is next?


def new_token() -> str:
    """What names one claim."""
    return secrets.token_hex(16)


def _can_skip(using: str) -> bool:
    return connections[using].features.has_select_for_update_skip_locked


@contextlib.contextmanager
def _locks(using: str) -> Iterator[None]:
    # Only where it locks: on SQLite a transaction would hold up whoever writes, once a second, for nothing.
    with transaction.atomic(using=using) if _can_skip(using) else contextlib.nullcontext():
        yield


class Claim:
    """Entries of one kind that this process carries, until a time that moves on with it."""

    def __init__(self, entries: Sequence[OutboxEntry], token: str, *, until: datetime, lasts: timedelta) -> None:
        self.entries = list(entries)
        self._token = token
        self._until = until
        self._lasts = lasts
        #: Those that have left, to be noted together.
        self._done: list[OutboxEntry] = []
        #: Whether what they need did not answer, so that others need not be tried now.
        self.is_away = False

    def carry(self) -> Counter[State]:
        """Carry them in order, and note what became of each; how many are in each state now.

        Where what they need does not answer, it ends with the first: the rest waits, so that the order is kept.
        """
        result: Counter[State] = Counter()
        carry = _carriers[self.entries[0].kind]
        try:
            while self.entries and self.renew():
                entry = self.entries[0]
                try:
                    carry(entry.body, entry.key)
                except Exception as error:
                    left = len(self.entries)
                    state = self.settle(error)
                    result[state] += left - len(self.entries)
                else:
                    self._done.append(self.entries.pop(0))
                    result[State.DONE] += 1
        finally:
            self._note_done()
        return result

    def renew(self) -> bool:
        """Have a whole claim's time again, if half of it has passed; whether anything is left that is ours."""
        now = timezone.now()
        if self._until - now < self._lasts / 2:
            self._note_done()
            self._lasts, self._until = CLAIM, now + CLAIM
            self._ours(self.entries).update(claimed_until=self._until)
            kept = set(self._ours(self.entries).values_list("pk", flat=True))
            self.entries = [entry for entry in self.entries if entry.pk in kept]
        return bool(self.entries)

    def finish(self) -> None:
        """All of them have left."""
        self._done, self.entries = [*self._done, *self.entries], []
        self._note_done()

    def _note_done(self) -> None:
        # What may be stored again under its key is remembered by that alone.
        entries, self._done = self._done, []
        remembered = [entry for entry in entries if entry.is_remembered]
        if remembered:
            values = {"state": State.DONE, "done_at": timezone.now(), "body": {}, "error": ""}
            self._ours(remembered).update(**values, claimed_by="", claimed_until=None)
        if len(remembered) < len(entries):
            self._ours([entry for entry in entries if not entry.is_remembered]).delete()

    def settle(self, error: Exception) -> State:
        """The first has not left: whether it, or they all, will be tried again."""
        if isinstance(error, RoomsConfigurationError):
            # The fault of this process: another one may be able to.
            logger.error("outbox entries can't be carried here kind=%s: %s", self.entries[0].kind, error)
        if isinstance(error, Unavailable | RoomsConfigurationError):
            self._put_off(error)
            return State.WAITING
        entry = self.entries.pop(0)
        tries = entry.attempts + 1
        if not isinstance(error, RoomsError):
            logger.error("an outbox entry could not be carried kind=%s pk=%s", entry.kind, entry.pk, exc_info=error)
        if isinstance(error, RoomsError) or tries >= _TRIES:
            state, until = State.FAILED, None
        else:
            state, until = State.WAITING, timezone.now() + timedelta(seconds=2**tries * random.uniform(0.5, 1))
        text = str(error) if isinstance(error, RoomsError) else explain(error)
        values = {"state": state, "claimed_until": until, "error": storable(text)[:_MAX_ERROR]}
        self._ours([entry]).update(**values, claimed_by="", attempts=F("attempts") + 1)
        return state

    def _put_off(self, error: Exception) -> None:
        # All that is left of them, so that they stay in order.
        until = timezone.now() + timedelta(seconds=random.uniform(*_AWAY))
        self._ours(self.entries).update(claimed_by="", claimed_until=until, error=storable(str(error))[:_MAX_ERROR])
        self.entries = []
        self.is_away = True

    def _ours(self, entries: Sequence[OutboxEntry]) -> QuerySet[OutboxEntry]:
        """Those that nobody has taken over."""
        keys = [entry.pk for entry in entries]
        return outbox().filter(pk__in=keys, claimed_by=self._token, state=State.WAITING)
