"""Publishing: a message becomes one delivery for each of its handlers, and each leaves by itself."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from asgiref.sync import sync_to_async
from django.db import DEFAULT_DB_ALIAS, transaction
from pydantic import Secret, SecretBytes, SecretStr, ValidationError

from rooms_app.background import refuse_in_event_loop
from rooms_app.bus.broker import celery_app, is_eager, propagates
from rooms_app.bus.delivery import Delivery, derived_id, message_id_for
from rooms_app.bus.handlers import Handler, handlers
from rooms_app.bus.leaving import send_all, store_all
from rooms_app.bus.registry import BusMessageBase
from rooms_app.bus.running import handle_eagerly
from rooms_app.bus.staging import after_commit, current_staging
from rooms_app.manager import SendOutcome, check_idempotency_key
from rooms_app.payloads import first_problem
from rooms_app.sender import is_in_transaction

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """A message as it was when it was published, and when it is to be handled."""

    topic: str
    payload: str
    handlers: tuple[Handler, ...]
    published_at: datetime
    due_at: datetime | None
    idempotency_key: str | None
    #: Whether it is stored first, and published from there …
    in_outbox: bool
    #: … and with its transaction, since its class says so.
    is_saved: bool

    @classmethod
    def of(
        cls, message: BusMessageBase, *, due_at: datetime | None = None, idempotency_key: str | None = None
    ) -> Publication:
        """Raises `NoHandler`, `ValueError`, `RoomsConfigurationError`: here the caller can still mend it."""
        celery_app()
        # Aware, whatever USE_TZ says.
        now = datetime.now(UTC)
        is_later = due_at is not None and due_at > now
        return cls(
            topic=message.MESSAGE_TOPIC,
            payload=_payload_of(message),
            handlers=tuple(handlers.of(message.MESSAGE_TOPIC)),
            published_at=now,
            due_at=due_at,
            idempotency_key=check_idempotency_key(idempotency_key),
            in_outbox=message.OUTBOX or is_later or idempotency_key is not None,
            is_saved=message.OUTBOX,
        )

    def deliveries(self, message_id: str | None = None) -> list[Delivery]:
        """One for each handler."""
        if message_id is None or self.idempotency_key is not None:
            message_id = message_id_for(self.topic, self.idempotency_key)
        return [
            Delivery(
                # Of its own, so that what two handlers send has different keys.
                id=derived_id(message_id, handler.name),
                message_id=message_id,
                topic=self.topic,
                handler=handler.name,
                payload=self.payload,
                idempotency_key=self.idempotency_key,
                published_at=self.published_at,
                queue=handler.queue,
                timeout=handler.timeout,
            )
            for handler in self.handlers
        ]


def _payload_of(message: BusMessageBase) -> str:
    """A message's fields as JSON. Raises `ValueError` for what a worker could not read, or not as it was."""
    payload = message.model_dump_json(round_trip=True)
    name = type(message).__name__
    try:
        read = type(message).model_validate_json(payload, by_alias=True, by_name=True)
    except ValidationError as error:
        raise ValueError(f"{name} does not read what it writes: {first_problem(error)}") from error
    if list(_secrets(read.model_dump())) != list(_secrets(message.model_dump())):
        raise ValueError(
            f"{name} holds a secret, of which its JSON has asterisks alone: use str, or a field_serializer."
        )
    return payload


def _secrets(value: Any) -> Iterator[Any]:
    """What the secrets in a value hold."""
    if isinstance(value, Secret | SecretStr | SecretBytes):
        yield value.get_secret_value()
    elif isinstance(value, dict):
        for each in value.values():
            yield from _secrets(each)
    elif isinstance(value, list | tuple | set | frozenset):
        for each in value:
            yield from _secrets(each)


async def publish(publication: Publication) -> SendOutcome:
    """Publish from async code: at once, inside a handler when that has succeeded."""
    staging = current_staging()
    if staging is not None:
        staging.publish(functools.partial(_leave, publication))
        return SendOutcome.DEFERRED
    if is_eager():
        return await sync_to_async(_leave)(publication)
    deliveries = publication.deliveries()
    if not publication.in_outbox:
        # In a thread, but not in the one that all ORM calls wait for.
        deliveries = await asyncio.to_thread(send_all, deliveries)
        if not deliveries:
            return SendOutcome.SENT
    store = functools.partial(store_all, carry=publication.in_outbox)
    return await sync_to_async(store)(deliveries, publication.due_at)


def publish_sync(publication: Publication, *, name: str, using: str | None) -> SendOutcome:
    """Publish from sync code: after the commit where a transaction is open; `name` is what was called."""
    refuse_in_event_loop(name)
    staging, eager = current_staging(), is_eager()
    database = using or DEFAULT_DB_ALIAS
    in_transaction = is_in_transaction(database)
    # In a handler's transaction it goes with what is saved there, whatever becomes of the handler.
    goes_with_transaction = publication.is_saved and in_transaction and not eager
    if staging is not None and not goes_with_transaction:
        after_commit(functools.partial(staging.publish, functools.partial(_leave, publication)), using)
        return SendOutcome.DEFERRED
    if publication.in_outbox and not eager:
        return _leave(publication, using=using)
    if not in_transaction:
        return _leave(publication)
    transaction.on_commit(functools.partial(_leave_after_commit, publication), using=database)
    return SendOutcome.DEFERRED


def _leave(publication: Publication, message_id: str | None = None, *, using: str | None = None) -> SendOutcome:
    deliveries = publication.deliveries(message_id)
    if is_eager():
        for delivery in deliveries:
            handle_eagerly(delivery, propagates=propagates())
        return SendOutcome.SENT
    if not publication.in_outbox:
        deliveries = send_all(deliveries)
        if not deliveries:
            return SendOutcome.SENT
    return store_all(deliveries, publication.due_at, using=using, carry=publication.in_outbox)


def _leave_after_commit(publication: Publication) -> None:
    try:
        _leave(publication)
    except Exception:
        if is_eager() and propagates():
            raise
        # The transaction is committed: an error here would only skip the hooks that come after this one.
        logger.exception("a bus message could not be published after the commit topic=%s", publication.topic)
