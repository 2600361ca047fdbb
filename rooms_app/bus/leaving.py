"""How deliveries leave: by the broker, or where that is away or they are due later, by the outbox.

What is due later is never left to the broker: a worker takes all such tasks at once, and holds them. When it comes to
the last of them, the broker may have taken it for dead, and have them handled by another.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from django.db import Error as DatabaseError
from django.utils import timezone

from rooms_app.bus.broker import MAX_COUNTDOWN, broker
from rooms_app.bus.delivery import Delivery
from rooms_app.exceptions import BusUnavailable, RoomsConfigurationError, explain
from rooms_app.manager import SendOutcome
from rooms_app.relay import State, Stored, register_carrier, store_and_carry

logger = logging.getLogger(__name__)

#: The kind of outbox entries that are deliveries.
KIND = "bus"


def send_all(deliveries: Sequence[Delivery]) -> list[Delivery]:
    """Hand deliveries to the broker, to be handled now; those that it did not take.

    Also those that it has something against, such as a queue that there is not: stored, they are told of.
    """
    refused: list[Delivery] = []
    for index, delivery in enumerate(deliveries):
        try:
            broker.send(delivery)
        except BusUnavailable:
            return [*refused, *deliveries[index:]]
        except Exception as error:
            logger.error(
                "a bus message is not taken handler=%s id=%s: %s", delivery.handler, delivery.id, explain(error)
            )
            refused.append(delivery)
    return refused


def store_all(
    deliveries: Sequence[Delivery], due_at: datetime | None, *, using: str | None = None, carry: bool = True
) -> SendOutcome:
    """Put deliveries into the outbox: in the open transaction, if there is one. Raises `BusUnavailable`.

    Outside of one, those that are due are published from there at once: `sent`. Unless `carry` is false.
    """
    entries = [_stored(delivery, due_at) for delivery in deliveries]
    try:
        result = store_and_carry(KIND, entries, using=using, carry=carry)
    except DatabaseError as error:
        raise BusUnavailable(f"The outbox can't be written: {explain(error)}") from error
    are_sent = result is not None and result[State.DONE] == len(entries)
    return SendOutcome.SENT if are_sent else SendOutcome.DEFERRED


def try_again(delivery: Delivery, delay: float) -> None:
    """Have a delivery handled once more, after so many seconds; sooner, rather than lost. Raises `BusUnavailable`."""
    if not delay and not send_all([delivery]):
        return
    due_at = timezone.now() + timedelta(seconds=delay) if delay else None
    try:
        store_all([delivery], due_at, carry=False)
    except BusUnavailable as error:
        logger.error("a bus message can't be stored, and goes by the broker alone: %s", error)
        broker.send(delivery, countdown=min(delay, MAX_COUNTDOWN))


def carry(body: dict[str, Any], key: str, /) -> None:
    """Hand what is stored to the broker, as the carrier of its kind."""
    try:
        broker.send(Delivery.model_validate(body))
    except RoomsConfigurationError as error:
        # Of this process alone, such as a web server that never imported the Celery app: the workers have one.
        raise BusUnavailable(str(error)) from error


def _stored(delivery: Delivery, due_at: datetime | None) -> Stored:
    is_first = delivery.attempt == 1 and not delivery.losses and not delivery.waits
    if is_first and delivery.idempotency_key is not None:
        # Made of topic, key and handler: publishing the same once more finds it there.
        return Stored(key=delivery.id, body=delivery.body(), due_at=due_at)
    return Stored(key=f"{delivery.id}:{uuid4().hex}", body=delivery.body(), due_at=due_at, is_remembered=False)


register_carrier(KIND, carry)
