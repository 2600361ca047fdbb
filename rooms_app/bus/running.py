"""One delivery in a worker: the handler is called, and what becomes of the message is decided."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from django.db import Error as DatabaseError
from pydantic import ValidationError

from rooms_app.bus.calling import call, call_eagerly
from rooms_app.bus.control import HandlerControl, Rejected, RetryRequested
from rooms_app.bus.delivery import Delivery, MessageOf
from rooms_app.bus.handlers import Handler, handlers
from rooms_app.bus.leaving import try_again
from rooms_app.bus.retrying import Retry
from rooms_app.bus.staging import Staging
from rooms_app.models import DeadLetter
from rooms_app.payloads import is_storable, storable
from rooms_app.relay import as_stored

logger = logging.getLogger(__name__)

Reason = DeadLetter.Reason

#: How often a delivery may come back from a worker.
MAX_LOSSES = 5
#: For a handler that this worker does not know: the new one's deploy may be under way. Some five minutes in all.
_UNKNOWN = Retry(max_retries=9, backoff=2.0, max_delay=60.0)
#: How long a delivery waits that could not become a dead letter.
_DATABASE_AWAY = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A try that failed."""

    error: Exception
    #: Seconds until the next try; None for none.
    delay: float | None
    #: Why there is none.
    reason: DeadLetter.Reason = Reason.RETRIES

    @property
    def text(self) -> str:
        """The error with its traceback, for whoever looks at the dead letter; a decision in its own words."""
        is_of_payload = self.reason == Reason.PAYLOAD and isinstance(self.error, ValidationError)
        if is_of_payload or isinstance(self.error, Rejected):
            return str(self.error)
        return "".join(traceback.format_exception(self.error))


def handle(body: Mapping[str, Any], *, was_redelivered: bool) -> None:
    """Have a delivery handled, in a worker. When this returns, the broker may forget it; else it must not."""
    try:
        delivery = Delivery.model_validate(body)
    except ValidationError as error:
        _bury_unreadable(body, str(error))
        return
    if was_redelivered:
        # Whoever had it before died, perhaps because of it, or was stopped. Not run, but sent anew with what is known
        # now: of the broker's own message nothing can be changed.
        _count_loss(delivery)
        return
    handler = handlers.find(delivery.topic, delivery.handler)
    if handler is None:
        _wait_for_handler(delivery)
        return
    failure = attempt(handler, delivery, call)
    if failure is None:
        return
    if failure.delay is None:
        bury(delivery, failure.reason, failure.text)
        return
    logger.warning(
        "a handler failed, and is tried again handler=%s id=%s attempt=%d seconds=%.1f",
        *(delivery.handler, delivery.id, delivery.attempt, failure.delay),
        exc_info=None if isinstance(failure.error, HandlerControl) else failure.error,
    )
    try_again(delivery.next_try(attempt=delivery.attempt + 1), failure.delay)


def handle_eagerly(delivery: Delivery, *, propagates: bool) -> None:
    """Have a delivery handled at once, in a test's own thread; retries don't wait. An error is raised if asked."""
    handler = handlers.find(delivery.topic, delivery.handler)
    while handler is not None and (failure := attempt(handler, delivery, call_eagerly)) is not None:
        if propagates:
            raise failure.error
        if failure.delay is None:
            bury(delivery, failure.reason, failure.text)
            return
        delivery = delivery.next_try(attempt=delivery.attempt + 1)


def attempt(handler: Handler, delivery: Delivery, call: Callable[[Handler, MessageOf[Any]], None]) -> Failure | None:
    """Call the handler once, and let what it sent leave; None where the message is done with."""
    staging = Staging(delivery.id)
    message = MessageOf(delivery, handler.message_type, on_ack=staging.keep)
    try:
        message.payload()
    except Exception as error:
        # Also what a team's own validator raises beside what Pydantic makes an error of.
        return Failure(error=error, delay=None, reason=Reason.PAYLOAD)
    try:
        try:
            with staging.in_force():
                call(handler, message)
        except Exception:
            staging.end(succeeded=False)
            raise
        staging.end(succeeded=True)
    except Exception as error:
        if not message.is_acked:
            return _failure(handler, delivery, error)
        logger.exception("a handler failed after its ack() handler=%s id=%s", delivery.handler, delivery.id)
    return None


def bury(delivery: Delivery, reason: DeadLetter.Reason, error: str) -> None:
    """Put a delivery among the dead letters; where the database is away, have it come again."""
    error = storable(error)
    logger.error(
        "a bus message is dead handler=%s id=%s reason=%s attempts=%d\n%s",
        *(delivery.handler, delivery.id, reason, delivery.attempt, error),
    )
    try:
        DeadLetter.objects.create(
            delivery=delivery.body(),
            topic=delivery.topic,
            handler=delivery.handler,
            reason=reason,
            error=error,
            attempts=delivery.attempt,
            published_at=as_stored(delivery.published_at),
        )
    except DatabaseError:
        logger.exception("a dead letter can't be stored, its message comes again id=%s", delivery.id)
        try_again(delivery, _DATABASE_AWAY)


def _bury_unreadable(body: Any, error: str) -> None:
    """What another version of this package may have published."""
    logger.error("what came is no delivery: %s", error)
    # As a text, where it holds what a database does not take.
    kept = body if is_storable(body) else {"text": storable(repr(body))}
    DeadLetter.objects.create(delivery=kept, reason=Reason.PAYLOAD, error=storable(error))


def _failure(handler: Handler, delivery: Delivery, error: Exception) -> Failure:
    if isinstance(error, Rejected):
        return Failure(error=error, delay=None, reason=Reason.REJECTED)
    if delivery.attempt > handler.retry.max_retries:
        return Failure(error=error, delay=None)
    asked = error.delay if isinstance(error, RetryRequested) else None
    return Failure(error=error, delay=handler.retry.delay(delivery.attempt) if asked is None else asked)


def _count_loss(delivery: Delivery) -> None:
    lost = delivery.next_try(losses=delivery.losses + 1)
    if lost.losses >= MAX_LOSSES:
        text = f"It came back {lost.losses} times, from workers that died, were stopped, or took too long."
        bury(lost, Reason.LOST, text)
        return
    logger.warning(
        "a bus message came back: its worker died, or was stopped handler=%s id=%s losses=%d",
        *(lost.handler, lost.id, lost.losses),
    )
    try_again(lost, 0)


def _wait_for_handler(delivery: Delivery) -> None:
    waits = delivery.waits + 1
    if waits > _UNKNOWN.max_retries:
        bury(delivery, Reason.UNKNOWN, f"No worker knows a handler {delivery.handler} of {delivery.topic!r}.")
        return
    logger.warning("no such handler here, perhaps yet handler=%s id=%s", delivery.handler, delivery.id)
    try_again(delivery.next_try(waits=waits), _UNKNOWN.delay(waits))
