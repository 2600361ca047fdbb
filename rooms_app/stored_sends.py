"""Messages whose class has `OUTBOX`: stored with what they tell of, sent after the commit, kept until that works."""

from __future__ import annotations

import json
import logging
import secrets
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from asgiref.sync import sync_to_async
from django.db import Error as DatabaseError

from rooms_app import sender
from rooms_app.carrying import Claim, State, outbox, register_carrier
from rooms_app.connection import HasConnection
from rooms_app.context import use_ws_manager
from rooms_app.exceptions import RoomsError
from rooms_app.manager import SendOutcome, check_idempotency_key, check_message
from rooms_app.payloads import restore, text_of
from rooms_app.protocols import excluded_id
from rooms_app.registry import WebSocketMessageBase
from rooms_app.relay import Stored, insert, store_and_carry
from rooms_app.rooms import check_audience

logger = logging.getLogger(__name__)

#: The kind of outbox entries that are sends to rooms.
KIND = "send"

_OUTCOMES = {State.DONE: SendOutcome.SENT, State.WAITING: SendOutcome.DEFERRED, State.FAILED: SendOutcome.FAILED}


def connect() -> None:
    """Have this process store what is to be stored, and send what is in the outbox."""
    register_carrier(KIND, carry)
    sender.set_stored_sends(StoredSends())


def stored_send(
    rooms: Sequence[str],
    message: WebSocketMessageBase,
    *,
    exclude: str | HasConnection | None = None,
    idempotency_key: str | None = None,
    due_at: datetime | None = None,
) -> Stored:
    """A send to rooms as the outbox keeps it. Raises what the send itself would: here the caller can still mend it."""
    check_message(message)
    key = check_idempotency_key(idempotency_key)
    text = text_of(message)
    try:
        restore(message.MESSAGE_ID, text)
    except RoomsError as error:
        raise RoomsError(f"{message.MESSAGE_ID} can't be stored: it does not read what it writes. {error}") from error
    body = {
        "message_type": message.MESSAGE_ID,
        # As texts: PostgreSQL's JSON has no NUL, and an order of keys of its own.
        "message": text,
        "rooms": json.dumps(check_audience(rooms)),
        "exclude": excluded_id(exclude),
    }
    return Stored(key=key or secrets.token_hex(16), body=body, is_remembered=key is not None, due_at=due_at)


def carry(body: dict[str, Any], key: str, /) -> None:
    """Send what is stored, as the carrier of its kind."""
    rooms, message, options = _restored(body, key)
    use_ws_manager().send_sync(rooms, message, **options)


class StoredSends:
    """Stores each message, and sends it from there."""

    async def send(self, rooms: Sequence[str], message: WebSocketMessageBase, **options: Any) -> SendOutcome:
        """From async code; at once, unless a transaction is open in the thread that its ORM calls run in."""
        stored = _stored(rooms, message, **options)
        claim = await sync_to_async(_insert)(stored)
        if not isinstance(claim, Claim):
            return claim
        (entry,) = claim.entries
        rooms, message, send_options = _restored(entry.body, entry.key)
        try:
            await use_ws_manager().send(rooms, message, **send_options)
        except Exception as error:
            return _OUTCOMES[await sync_to_async(_settle)(claim, error)]
        await sync_to_async(_settle)(claim, None)
        return SendOutcome.SENT

    def send_sync(
        self, rooms: Sequence[str], message: WebSocketMessageBase, *, using: str | None = None, **options: Any
    ) -> SendOutcome:
        """From sync code: after the commit where a transaction is open."""
        stored = _stored(rooms, message, **options)
        result = store_and_carry(KIND, [stored], using=using)
        return SendOutcome.DEFERRED if result is None else _outcome(result, stored)


def _stored(rooms: Sequence[str], message: WebSocketMessageBase, *, robust: bool = True, **options: Any) -> Stored:
    # Robust or not, a failure is nothing that the caller could mend: it is stored, and tried again.
    return stored_send(rooms, message, **options)


def _restored(body: dict[str, Any], key: str) -> tuple[list[str], WebSocketMessageBase, dict[str, Any]]:
    message = restore(body["message_type"], body["message"])
    # A manager of a team's own may not know it.
    excluded = {} if body["exclude"] is None else {"exclude": body["exclude"]}
    return json.loads(body["rooms"]), message, {**excluded, "idempotency_key": key, "robust": False}


def _insert(stored: Stored) -> Claim | SendOutcome:
    """The claim on it, or what becomes of it without us: it goes with a transaction, or its key has been before."""
    group = insert(KIND, [stored])
    if group.is_deferred:
        return SendOutcome.DEFERRED
    return group.claim(KIND, [stored.key]) or _outcome(Counter(), stored)


def _settle(claim: Claim, error: Exception | None) -> State:
    try:
        if error is not None:
            return claim.settle(error)
        claim.finish()
    except DatabaseError:
        logger.exception("it could not be noted what became of a message in the outbox")
        return State.WAITING
    return State.DONE


def _outcome(result: Counter[State], stored: Stored) -> SendOutcome:
    for state in result:
        return _OUTCOMES[state]
    # Someone else's, with the same key: what became of that?
    known = outbox().filter(kind=KIND, key=stored.key).values_list("state", flat=True).first()
    return _OUTCOMES[State(known)] if known else SendOutcome.SENT
