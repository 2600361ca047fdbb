"""Broadcasts from the admin: each is sent once, by whoever changes its state first.

Every change of state is one UPDATE that names the state before it, so that of two operators, or of any number of
schedulers, one wins. Who claims a broadcast has a minute, renewed as it goes on; then it counts as dead.
"""

from __future__ import annotations

import json
import logging
import random
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import Any

from django.db import Error as DatabaseError
from django.db import router, transaction
from django.db.models import F, Q, QuerySet
from django.utils import timezone

from rooms_app.audiences import Part, parts_of, reach_of
from rooms_app.context import use_ws_manager
from rooms_app.exceptions import RoomsError, RoomsUnavailable, explain
from rooms_app.models import AuditEntry, Broadcast
from rooms_app.payloads import restore, text_of
from rooms_app.registry import WebSocketMessageBase

logger = logging.getLogger(__name__)

State = Broadcast.State

#: What an operator needs to send anything; a message class may ask for more.
PERMISSION = "rooms_app.send_broadcast"

#: What can still be changed, and what can be sent.
EDITABLE = (State.DRAFT, State.SCHEDULED, State.FAILED)
SENDABLE = EDITABLE

_CLAIM = timedelta(seconds=60)
#: What a broadcast notes as it goes on, before the first part.
_NOT_BEGUN: dict[str, Any] = {"sent_up_to": "", "sending_up_to": "", "reached": None}
#: Seconds until a scheduled one that failed is tried again; spread, so that schedulers don't come all at once.
_RETRY = (1.0, 5.0)


def payload_of(message: WebSocketMessageBase) -> Any:
    """A message's fields as JSON values, as `Broadcast.payload` keeps them."""
    return json.loads(text_of(message))


def message_of(broadcast: Broadcast) -> WebSocketMessageBase:
    """The message that a broadcast holds. Raises `RoomsError` where its class is gone, or takes it no longer."""
    return restore(broadcast.message_type, json.dumps(broadcast.payload))


def target_of(broadcast: Broadcast) -> str:
    """What an audit entry calls it."""
    return f"broadcast {broadcast.pk}"


def is_sendable(broadcast: Broadcast) -> bool:
    """Whether it can be sent: also one whose sender died while it was being sent, and that no scheduler took up."""
    if broadcast.state == State.SENDING:
        return broadcast.claimed_until is not None and broadcast.claimed_until <= timezone.now()
    return broadcast.state in SENDABLE


def send_now(broadcast_pk: Any, user: Any, *, revision: int | None = None) -> bool:
    """Send a broadcast once the transaction commits, or at once without one; False where someone else was first.

    Of another revision than the one that was looked at, if that is given, nothing is sent.
    """
    now = timezone.now()
    until = now + _CLAIM
    is_orphaned = Q(state=State.SENDING, claimed_until__lte=now)
    mine = _only(broadcast_pk, revision).filter(Q(state__in=SENDABLE) | is_orphaned)
    if not mine.update(state=State.SENDING, claimed_until=until, sent_by=user, error=""):
        return False
    # After the commit: a row that is rolled back must not have been sent, and Redis is no reason to hold a lock.
    transaction.on_commit(lambda: _deliver_after_commit(broadcast_pk, until), using=router.db_for_write(Broadcast))
    return True


def schedule(broadcast_pk: Any, user: Any, *, revision: int | None = None) -> bool:
    """Have the scheduler send a draft at its `send_at`; False where it has none, or is no such draft any more."""
    draft = _only(broadcast_pk, revision).filter(state=State.DRAFT, send_at__isnull=False)
    return _change(draft, user, "scheduled", state=State.SCHEDULED, sent_by=user, claimed_until=None, error="")


def cancel(broadcast_pk: Any, user: Any) -> bool:
    """Never send what has not been sent yet; False where it has, or is on its way."""
    waiting = _only(broadcast_pk).filter(state__in=SENDABLE)
    return _change(waiting, user, "cancelled", state=State.CANCELLED, claimed_until=None)


def edit(broadcast_pk: Any, revision: int, **values: Any) -> bool:
    """Change what is not on its way yet; False where it is, or where somebody else has changed it meanwhile."""
    mine = _only(broadcast_pk, revision).filter(state__in=EDITABLE)
    changes = {"state": State.DRAFT, "error": "", "claimed_until": None, "revision": F("revision") + 1}
    # It is another message now, which has gone to nobody.
    return bool(mine.update(**values, **changes, **_NOT_BEGUN))


class _Outcome(Enum):
    """What became of a broadcast that was claimed."""

    SENT = auto()
    FAILED = auto()
    #: Redis is away.
    UNAVAILABLE = auto()
    #: Somebody else has it.
    LOST = auto()


@dataclass(slots=True, kw_only=True)
class Due:
    """What became of the broadcasts that were due."""

    sent: int = 0
    failed: int = 0
    #: Redis was away: what is left stays scheduled.
    is_cut_short: bool = False


def send_due() -> Due:
    """Send what is due, one at a time, each claimed first.

    Also what a process that died was sending. Where Redis is away it ends: what was scheduled stays so, and is
    tried again a little later.
    """
    due = Due()
    while claim := _claim_due():
        broadcast_pk, until = claim
        outcome = _deliver(broadcast_pk, until, retries=True)
        due.sent += outcome is _Outcome.SENT
        due.failed += outcome is _Outcome.FAILED
        if outcome is _Outcome.UNAVAILABLE:
            due.is_cut_short = True
            break
    return due


def _stored() -> QuerySet[Broadcast]:
    """Where they are written to: a replica may not have yet what was just changed."""
    return Broadcast.objects.using(router.db_for_write(Broadcast))


def _only(broadcast_pk: Any, revision: int | None = None) -> QuerySet[Broadcast]:
    found = _stored().filter(pk=broadcast_pk)
    return found if revision is None else found.filter(revision=revision)


def _change(broadcasts: QuerySet[Broadcast], user: Any, action: str, **values: Any) -> bool:
    """Compare and set, with its audit entry, for a query that names one broadcast and the states it may be in."""
    with transaction.atomic(using=router.db_for_write(Broadcast)):
        broadcast = broadcasts.first()
        if broadcast is None or not broadcasts.update(**values):
            return False
        AuditEntry.record(user, action, target_of(broadcast))
        return True


def _claim_due() -> tuple[Any, datetime] | None:
    """The next broadcast that is due, now ours, and until when."""
    now = timezone.now()
    is_due = Q(state=State.SCHEDULED, send_at__lte=now) & (Q(claimed_until=None) | Q(claimed_until__lte=now))
    is_orphaned = Q(state=State.SENDING, claimed_until__lte=now)
    due = _stored().filter(is_due | is_orphaned)
    until = now + _CLAIM
    while (broadcast_pk := due.order_by("send_at", "created_at").values_list("pk", flat=True).first()) is not None:
        if due.filter(pk=broadcast_pk).update(state=State.SENDING, claimed_until=until):
            return broadcast_pk, until
        # Another scheduler was first: what is next?
    return None


def _deliver_after_commit(broadcast_pk: Any, until: datetime) -> None:
    try:
        _deliver(broadcast_pk, until, retries=False)
    except DatabaseError:
        # The commit hooks after us are to run. The claim runs out, and a scheduler sends it with the same key.
        logger.exception("the outcome of a broadcast could not be stored broadcast=%s", broadcast_pk)


def _deliver(broadcast_pk: Any, until: datetime, *, retries: bool) -> _Outcome:
    """Send a claimed broadcast, and note what became of it."""
    broadcast = _stored().select_related("sent_by", "created_by").filter(pk=broadcast_pk).first()
    if broadcast is None:
        return _Outcome.LOST
    claim = _Claim(broadcast, until)
    try:
        if retries:
            _check_sender(broadcast)
        reached = _send(broadcast, claim)
    except RoomsUnavailable as error:
        if retries and broadcast.send_at is not None:
            later = timezone.now() + timedelta(seconds=random.uniform(*_RETRY))
            claim.finish(State.SCHEDULED, "", error=str(error), claimed_until=later)
        else:
            claim.finish(State.FAILED, "failed", error=str(error))
        return _Outcome.UNAVAILABLE
    except RoomsError as error:
        claim.finish(State.FAILED, "failed", error=str(error))
        return _Outcome.FAILED
    except _ClaimLostError:
        return _Outcome.LOST
    except DatabaseError:
        raise
    except Exception as error:
        # A team's own code, such as its user admin's search. Left to run out, the claim would be taken up for ever.
        logger.exception("a broadcast could not be sent broadcast=%s", broadcast_pk)
        claim.finish(State.FAILED, "failed", error=explain(error))
        return _Outcome.FAILED
    done = {**_NOT_BEGUN, "reached": reached}
    claim.finish(State.SENT, "sent", error="", sent_at=timezone.now(), **done)
    return _Outcome.SENT


def key_of(broadcast: Broadcast, part: Part) -> str:
    """The idempotency key of a part: what was corrected after a failure, which means perhaps sent, has another one."""
    return f"broadcast:{uuid.uuid5(broadcast.pk, f'{broadcast.revision}:{part.up_to}')}"


def _check_sender(broadcast: Broadcast) -> None:
    """Raises `RoomsError` where its sender may not send it any more: since she scheduled it, time has passed."""
    sender = broadcast.sent_by
    if sender is None:
        # Nobody ever, for one that a program made.
        entries = AuditEntry.objects.using(router.db_for_write(AuditEntry))
        by_somebody = entries.filter(target=target_of(broadcast), action="scheduled").exclude(actor_name="")
        if by_somebody.exists():
            raise RoomsError("Its sender is gone.")
        return
    name = sender.get_username()
    if not sender.is_active:
        raise RoomsError(f"Its sender {name} is not active any more.")
    if not sender.has_perm(PERMISSION):
        raise RoomsError(f"Its sender {name} may not send messages any more.")
    if not message_of(broadcast).may_broadcast(sender):
        raise RoomsError(f"Its sender {name} may not send {broadcast.message_type} any more.")


def _send(broadcast: Broadcast, claim: _Claim) -> int | None:
    """Send all parts that are left; how many connections there were to reach, None where Redis does not say."""
    message = message_of(broadcast)
    manager = use_ws_manager()
    reached = broadcast.reached if broadcast.sent_up_to else 0
    operator = broadcast.sent_by or broadcast.created_by
    for part in parts_of(broadcast, operator):
        claim.begin(part, reached)
        manager.send_sync(part.rooms, message, idempotency_key=key_of(broadcast, part), robust=False)
        reach = reach_of([part])
        reached = None if reached is None or reach is None else reached + reach
    return reached


class _ClaimLostError(Exception):
    """We took too long, and someone else sends it now."""


class _Claim:
    """That one process sends one broadcast, until a time that moves on with it."""

    def __init__(self, broadcast: Broadcast, until: datetime) -> None:
        self._broadcast = broadcast
        self._until = until
        #: Where the part ends that is being sent.
        self._begun = ""

    def begin(self, part: Part, reached: int | None) -> None:
        """Note that all before a part has been sent; the claim has its whole time again. Raises `_ClaimLostError`."""
        if not part.up_to:
            return
        until = timezone.now() + _CLAIM
        done = self._begun or self._broadcast.sent_up_to
        self._compare_and_set(claimed_until=until, sent_up_to=done, sending_up_to=part.up_to, reached=reached)
        self._until, self._begun = until, part.up_to

    def finish(self, state: State, action: str, *, claimed_until: datetime | None = None, **values: Any) -> None:
        """Note the outcome, unless someone else has taken over; an action leaves an audit entry."""
        with transaction.atomic(using=router.db_for_write(Broadcast)):
            try:
                self._compare_and_set(state=state, claimed_until=claimed_until, **values)
            except _ClaimLostError:
                return
            if action:
                details = {name: values[name] for name in ("error", "reached") if values.get(name) not in ("", None)}
                AuditEntry.record(self._broadcast.sent_by, action, target_of(self._broadcast), **details)

    def _compare_and_set(self, **values: Any) -> None:
        ours = _only(self._broadcast.pk).filter(state=State.SENDING, claimed_until=self._until)
        if not ours.update(**values):
            raise _ClaimLostError
