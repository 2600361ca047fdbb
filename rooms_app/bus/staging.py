"""Staging: what a handler sends and publishes leaves when it has succeeded, and not at all when it failed."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

from django.db import DEFAULT_DB_ALIAS, transaction
from django.db import Error as DatabaseError

from rooms_app import stored_sends
from rooms_app.background import refuse_in_event_loop
from rooms_app.bus.delivery import derived_id
from rooms_app.context import provide_ws_message_sender, use_ws_manager
from rooms_app.exceptions import BusUnavailable, Unavailable, explain
from rooms_app.manager import PendingSend, SendOutcome, check_idempotency_key, check_message
from rooms_app.protocols import excluded_id
from rooms_app.registry import WebSocketMessageBase
from rooms_app.relay import store
from rooms_app.rooms import check_audience
from rooms_app.sender import is_in_transaction

#: A publication that waits: it leaves when called, under this id, or with None a new one.
Leave = Callable[[str | None], Any]

_current: ContextVar[Staging | None] = ContextVar("rooms_bus_staging", default=None)


class Staging:
    """What one try of a handler has sent and published so far."""

    def __init__(self, delivery_id: str) -> None:
        self._id = delivery_id
        self._lock = threading.Lock()
        self._sends: list[PendingSend] = []
        self._publications: list[Leave] = []
        #: How many of each leave even if the handler fails: those before its `ack`.
        self._kept: tuple[int, int] | None = None
        #: None while the handler runs; then whether what comes late leaves at once, or never.
        self._leaves_at_once: bool | None = None

    @property
    def is_open(self) -> bool:
        """Whether the handler still runs."""
        return self._leaves_at_once is None

    @property
    def has_failed(self) -> bool:
        """Whether the handler has failed: what a task that outlives it sends never leaves."""
        return self._leaves_at_once is False

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Collect what the code inside the `with` sends and publishes, and the tasks it starts."""
        token = _current.set(self)
        try:
            with provide_ws_message_sender(StagingSender(self)):
                yield
        finally:
            _current.reset(token)

    def send(self, send: PendingSend) -> None:
        """Keep a send."""
        with self._lock:
            if self._leaves_at_once is None:
                self._sends.append(send)
                return
        # A commit hook that runs after the handler, as in a TestCase, or a task that outlives it.
        if self._leaves_at_once:
            self._send_all([send])

    def publish(self, leave: Leave) -> None:
        """Keep a publication."""
        with self._lock:
            if self._leaves_at_once is None:
                self._publications.append(leave)
                return
        if self._leaves_at_once:
            leave(None)

    def keep(self) -> None:
        """What is here leaves at the end, also if the handler fails."""
        with self._lock:
            self._kept = len(self._sends), len(self._publications)

    def end(self, *, succeeded: bool) -> None:
        """The handler has ended: let what it sent leave. Raises `BusUnavailable` where it can't even be stored."""
        with self._lock:
            self._leaves_at_once = succeeded
            sends, publications = (None, None) if succeeded else self._kept or (0, 0)
            self._sends = self._sends[:sends]
            self._publications = self._publications[:publications]
        if self._sends:
            # The same at each try, so that a worker that dies half-way has nothing shown twice.
            keys = (f"{self._id}:{number}" for number in range(len(self._sends)))
            self._send_all(
                [
                    replace(send, idempotency_key=send.idempotency_key or key)
                    for send, key in zip(self._sends, keys, strict=True)
                ]
            )
        for number, leave in enumerate(self._publications):
            leave(derived_id(self._id, str(number)))

    def _send_all(self, sends: Sequence[PendingSend]) -> None:
        manager = use_ws_manager()
        for index, send in enumerate(sends):
            try:
                manager.send_sync(
                    send.rooms,
                    send.message,
                    exclude=send.exclude,
                    idempotency_key=send.idempotency_key,
                    robust=False,
                )
            except Unavailable:
                _store(sends[index:])
                return


class StagingSender:
    """The message sender inside a handler."""

    def __init__(self, staging: Staging) -> None:
        self._staging = staging

    async def send(self, rooms: Sequence[str], message: WebSocketMessageBase, **options: Any) -> SendOutcome:
        if self._staging.has_failed:
            return SendOutcome.FAILED
        if not self._staging.is_open:
            return await use_ws_manager().send(rooms, message, **options)
        self._staging.send(_pending(rooms, message, **options))
        return SendOutcome.DEFERRED

    def send_sync(
        self, rooms: Sequence[str], message: WebSocketMessageBase, *, using: str | None = None, **options: Any
    ) -> SendOutcome:
        refuse_in_event_loop("send_sync")
        if self._staging.has_failed:
            return SendOutcome.FAILED
        if message.OUTBOX and is_in_transaction(using or DEFAULT_DB_ALIAS):
            # It goes with what is saved, whatever becomes of the handler: at the next try that may be there already.
            return stored_sends.StoredSends().send_sync(rooms, message, using=using, **options)
        after_commit(functools.partial(self._staging.send, _pending(rooms, message, **options)), using)
        return SendOutcome.DEFERRED


def current_staging() -> Staging | None:
    """That of the handler we are in; None outside of one, and in a task that has outlived its own."""
    staging = _current.get()
    return staging if staging is not None and staging.is_open else None


def after_commit(call: Callable[[], Any], using: str | None) -> None:
    """Call it when the open transaction commits, or now without one."""
    using = using or DEFAULT_DB_ALIAS
    if is_in_transaction(using):
        transaction.on_commit(call, using=using)
    else:
        call()


def _pending(
    rooms: Sequence[str],
    message: WebSocketMessageBase,
    *,
    exclude: Any = None,
    idempotency_key: str | None = None,
    robust: bool = True,
) -> PendingSend:
    """A send as it is now. Raises here what it would raise later, where the handler can still mend it."""
    check_message(message)
    check_idempotency_key(idempotency_key)
    return PendingSend(check_audience(rooms), message.model_copy(deep=True), excluded_id(exclude), idempotency_key)


def _store(sends: Sequence[PendingSend]) -> None:
    """Redis is away: the relay sends them with the same keys when it is back."""
    entries = [
        stored_sends.stored_send(send.rooms, send.message, exclude=send.exclude, idempotency_key=send.idempotency_key)
        for send in sends
    ]
    try:
        store(stored_sends.KIND, entries, carry=False)
    except DatabaseError as error:
        raise BusUnavailable(f"Neither Redis nor the outbox took what a handler sent: {explain(error)}") from error
