"""The transactional outbox: what is stored in a transaction leaves when that commits, also if the process dies.

Whoever stores an entry that is due carries it right after the commit. What is due later, and what nobody carried, is
taken by a relay: any number of processes that call `relay_due` again and again.
"""

from __future__ import annotations

import functools
import itertools
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import DEFAULT_DB_ALIAS, connections, router, transaction
from django.db import Error as DatabaseError
from django.utils import timezone

from rooms_app.carrying import (
    BATCH,
    FIRST_CLAIM,
    Carrier,
    Claim,
    State,
    can_carry,
    claim_due,
    kinds,
    new_token,
    outbox,
    register_carrier,
)
from rooms_app.exceptions import RoomsError
from rooms_app.models import OutboxEntry
from rooms_app.sender import is_in_transaction

__all__ = ["Carrier", "State", "Stored", "outbox_database", "register_carrier", "relay_due", "store", "store_and_carry"]

logger = logging.getLogger(__name__)

#: How long the key of what has left is remembered.
_REMEMBERED = timedelta(days=1)
#: How many of those are forgotten in one pass.
_FORGOTTEN_PER_PASS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What goes into the outbox."""

    #: Of up to 255 characters: of one kind, a second one with the same key is ignored.
    key: str
    #: As JSON.
    body: dict[str, Any]
    #: None for now.
    due_at: datetime | None = None
    #: Whether the key may be given again: then it is remembered for a day after it left.
    is_remembered: bool = True


def store(kind: str, entries: Sequence[Stored], *, using: str | None = None, carry: bool = True) -> None:
    """Store entries in the open transaction, if there is one, and carry those that are due once that commits.

    With `carry=False` they are left to the relay, as are those of a kind that this process can't carry. Raises
    `RoomsError` in a transaction on `using` where that is another database; from a commit hook nothing is raised.
    """
    store_and_carry(kind, entries, using=using, carry=carry)


def store_and_carry(
    kind: str, entries: Sequence[Stored], *, using: str | None = None, carry: bool = True
) -> Counter[State] | None:
    """As `store`; how many are in each state now, of those that were due and new, None inside a transaction."""
    group = insert(kind, entries, using=using, carry=carry)
    if group.is_deferred:
        return None
    try:
        return group.carry()
    except DatabaseError:
        # They are stored: a relay carries what is not known to have left.
        logger.exception("what was stored in the outbox could not be carried")
        return Counter({State.WAITING: len(entries)})


def as_stored(moment: datetime) -> datetime:
    """A moment as the database takes it: without a time zone where USE_TZ is off."""
    is_wrong = timezone.is_aware(moment) and timezone.is_naive(timezone.now())
    return timezone.make_naive(moment, timezone.get_default_timezone()) if is_wrong else moment


def insert(kind: str, entries: Sequence[Stored], *, using: str | None = None, carry: bool = True) -> Group:
    """Store entries; outside of a transaction it is left to the caller to carry them."""
    database = outbox_database(using)
    in_transaction = is_in_transaction(database)
    group = _open_group(database) if in_transaction else Group(is_deferred=False)
    now = timezone.now()
    start = len(group.keys)
    token, until = (group.token, now + FIRST_CLAIM) if carry and can_carry(kind) else ("", None)
    rows = []
    for entry in entries:
        due_at = now if entry.due_at is None else as_stored(entry.due_at)
        row = OutboxEntry(kind=kind, key=entry.key, body=entry.body, is_remembered=entry.is_remembered)
        row.due_at = due_at
        if due_at <= now and token:
            row.claimed_by, row.claimed_until = token, until
            group.keys.append((kind, entry.key))
        rows.append(row)
    # Who comes second with a key leaves the first alone.
    outbox().bulk_create(rows, ignore_conflicts=True, batch_size=BATCH)
    if in_transaction and token:
        transaction.on_commit(functools.partial(_carry_after_commit, group, start), using=database)
    return group


class Group:
    """What this process stored, and carries itself: in a transaction, by the first of its commit hooks."""

    def __init__(self, *, is_deferred: bool) -> None:
        self.is_deferred = is_deferred
        self.token = new_token()
        #: Kind and key of each, in order; some may have been rolled back since, or are someone else's.
        self.keys: list[tuple[str, str]] = []

    def carry(self, start: int = 0) -> Counter[State]:
        """Carry what is there, in order, from this index on; how many are in each state now."""
        result: Counter[State] = Counter()
        mine = self.keys[start:]
        del self.keys[start:]
        for kind, pairs in itertools.groupby(mine, key=lambda pair: pair[0]):
            keys = [key for _, key in pairs]
            for at in range(0, len(keys), BATCH):
                claim = self.claim(kind, keys[at : at + BATCH])
                if claim is not None:
                    result += claim.carry()
        return result

    def claim(self, kind: str, keys: Sequence[str]) -> Claim | None:
        """Those of these that are there, and still ours; None without any."""
        mine = outbox().filter(kind=kind, key__in=keys, claimed_by=self.token, state=State.WAITING)
        entries = list(mine.order_by("id"))
        if not entries:
            return None
        until = min(entry.claimed_until for entry in entries if entry.claimed_until is not None)
        return Claim(entries, self.token, until=until, lasts=FIRST_CLAIM)


def relay_due(*, limit: int = 1_000) -> int:
    """Carry what is due, each claimed first; how many left. At most so many of each kind that can be carried here.

    Also what a process that died had claimed. A kind whose carrier gets no answer is left until a later pass.
    """
    _forget_done()
    left = 0
    for kind in kinds():
        tried = 0
        while tried < limit and (claim := claim_due(kind, min(BATCH, limit - tried))):
            tried += len(claim.entries)
            carried = claim.carry()
            left += carried[State.DONE]
            if claim.is_away:
                break
    return left


def outbox_database(using: str | None = None) -> str:
    """The database of the outbox. Raises `RoomsError` where the open transaction that counts is on another one."""
    database = router.db_for_write(OutboxEntry)
    asked = using or DEFAULT_DB_ALIAS
    if asked != database and is_in_transaction(asked):
        raise RoomsError(
            f"The outbox is in the database {database!r}, and can't be part of a transaction on {asked!r}: one of the "
            f"two could be rolled back alone. Send inside atomic(using={database!r}), or outside of the transaction."
        )
    return database


def _open_group(database: str) -> Group:
    """That of the transaction's last hook, where it is one of ours, else a new one."""
    hooks = connections[database].run_on_commit
    last = hooks[-1][1] if hooks else None
    group = last.args[0] if isinstance(last, functools.partial) and last.func is _carry_after_commit else None
    return group if isinstance(group, Group) else Group(is_deferred=True)


def _carry_after_commit(group: Group, start: int) -> None:
    # It is committed: an error here would only skip the hooks that come after this one. A relay will carry the rest.
    try:
        group.carry(start)
    except Exception:
        logger.exception("what was stored in the outbox could not be carried after the commit")


def _forget_done() -> None:
    old = outbox().filter(state=State.DONE, done_at__lt=timezone.now() - _REMEMBERED)
    keys = list(old.order_by("done_at").values_list("pk", flat=True)[:_FORGOTTEN_PER_PASS])
    if keys:
        outbox().filter(pk__in=keys).delete()
