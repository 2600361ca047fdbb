"""One message on its way to one handler: what crosses the broker, and what the handler gets."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Generic, NoReturn, TypeVar
from uuid import UUID, uuid4, uuid5

from pydantic import AwareDatetime, BaseModel, ConfigDict

from rooms_app.bus.control import Rejected, RetryRequested
from rooms_app.bus.registry import BusMessageBase
from rooms_app.bus.retrying import check_seconds

M = TypeVar("M", bound=BusMessageBase)

#: The one Celery task, which every delivery is for. Not one per handler: Celery throws away messages of a task that a
#: worker doesn't know, and a deploy that adds a handler would lose some.
TASK = "rooms.handle"

#: Ids that are made of something, rather than at random, are made in here.
_NAMESPACE = UUID("6d1f8f0e-6c3b-4f6b-9d5e-5a3f0f4f7d10")


def derived_id(*parts: str) -> str:
    """An id that is the same whenever the parts are."""
    return str(uuid5(_NAMESPACE, "\n".join(parts)))


class Delivery(BaseModel):
    """A message for one handler: what crosses the broker as JSON."""

    model_config = ConfigDict(frozen=True)

    #: Of the message and this handler; the same at each try.
    id: str
    #: The same for all handlers of the message.
    message_id: str
    topic: str
    #: The handler's dotted name.
    handler: str
    #: The message's fields, as JSON text.
    payload: str
    #: Which try this is, from 1.
    attempt: int = 1
    #: How often it came back from a worker that died, or was stopped.
    losses: int = 0
    #: How often it came to a worker that doesn't know its handler.
    waits: int = 0
    idempotency_key: str | None = None
    published_at: AwareDatetime
    #: The handler's queue and timeout, for a process on the way that does not know it.
    queue: str | None = None
    timeout: float | None = None

    def next_try(self, **changes: Any) -> Delivery:
        """The same delivery with some counts changed."""
        return self.model_copy(update=changes)

    def body(self) -> dict[str, Any]:
        """It as JSON values; `Delivery.model_validate` reads them."""
        return self.model_dump(mode="json")


def message_id_for(topic: str, idempotency_key: str | None) -> str:
    """A message's id: the same for the same topic and key, else a new one."""
    return str(uuid4()) if idempotency_key is None else derived_id(topic, idempotency_key)


class MessageOf(Generic[M]):
    """What a handler gets: the message, what is known of its delivery, and how to say what becomes of it.

    `retry`, `retry_later` and `reject` end the handler by raising a `HandlerControl`, an ordinary exception:
    a handler that catches `Exception` around them has to raise it on.
    """

    def __init__(self, delivery: Delivery, message_type: type[M], *, on_ack: Callable[[], None] | None = None) -> None:
        self._delivery = delivery
        self._message_type = message_type
        self._payload: M | None = None
        self._is_acked = False
        #: Called by the first `ack`.
        self._on_ack = on_ack

    def payload(self) -> M:
        """The message, validated. A handler is never called with one that does not fit."""
        if self._payload is None:
            # As `model_dump_json` wrote it, with whatever aliases the fields have.
            self._payload = self._message_type.model_validate_json(self._delivery.payload, by_alias=True, by_name=True)
        return self._payload

    @property
    def id(self) -> str:
        """Of this message for this handler; the same at each try."""
        return self._delivery.id

    @property
    def message_id(self) -> str:
        """Of the message; the same for all its handlers."""
        return self._delivery.message_id

    @property
    def topic(self) -> str:
        """The message's MESSAGE_TOPIC."""
        return self._delivery.topic

    @property
    def delivery_count(self) -> int:
        """How often it was given to a worker, from 1: tries that failed, and workers that it came back from."""
        return self._delivery.attempt + self._delivery.losses

    @property
    def published_at(self) -> datetime:
        """When `publish`, `delay` or `schedule` was called."""
        return self._delivery.published_at

    @property
    def idempotency_key(self) -> str | None:
        """What the publisher gave."""
        return self._delivery.idempotency_key

    @property
    def is_acked(self) -> bool:
        """Whether the handler has called `ack`."""
        return self._is_acked

    def ack(self) -> None:
        """Done: what fails after this is logged, and not tried again.

        What the handler has sent so far leaves at its end in any case, what it sends from here on only if it
        succeeds. A worker that dies is another matter: then the message is handled again.
        """
        if not self._is_acked:
            self._is_acked = True
            if self._on_ack is not None:
                self._on_ack()

    def retry(self) -> NoReturn:
        """Try again after the backoff of the handler's `Retry`; counts as a try that failed."""
        raise RetryRequested

    def retry_later(self, seconds: float) -> NoReturn:
        """Try again after so many seconds; counts as a try that failed. Raises `ValueError` unless above 0."""
        check_seconds("retry_later(…)", seconds)
        raise RetryRequested(seconds)

    def reject(self, reason: str = "") -> NoReturn:
        """To the dead letters, with this reason, and not tried again."""
        raise Rejected(reason)
