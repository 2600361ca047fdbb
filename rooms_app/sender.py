"""The sender: when a message leaves. In sync code after the commit: what was rolled back never does."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from django.db import DEFAULT_DB_ALIAS, connections, transaction
from django.db.transaction import TransactionManagementError

from rooms_app.background import refuse_in_event_loop
from rooms_app.connection import HasConnection
from rooms_app.exceptions import RoomsConfigurationError
from rooms_app.manager import (
    ChannelLayerManager,
    PendingSend,
    SendOutcome,
    WebSocketConnectionManager,
    check_idempotency_key,
    check_message,
)
from rooms_app.registry import WebSocketMessageBase
from rooms_app.rooms import check_audience

logger = logging.getLogger(__name__)


@runtime_checkable
class WebSocketMessageSender(Protocol):
    """What `use_ws_message_sender()` gives: decides when a message leaves."""

    async def send(
        self,
        rooms: Sequence[str],
        message: WebSocketMessageBase,
        *,
        exclude: str | HasConnection | None = None,
        idempotency_key: str | None = None,
        robust: bool = True,
    ) -> SendOutcome:
        """Send a message to rooms from async code."""

    def send_sync(
        self,
        rooms: Sequence[str],
        message: WebSocketMessageBase,
        *,
        exclude: str | HasConnection | None = None,
        idempotency_key: str | None = None,
        robust: bool = True,
        using: str | None = None,
    ) -> SendOutcome:
        """Send a message to rooms from sync code; `using` names the database whose transaction counts."""


class StoredSends(Protocol):
    """Sends messages whose class has `OUTBOX`, by way of the database. The Django app sets it, which has the table."""

    async def send(self, rooms: Sequence[str], message: WebSocketMessageBase, **options: Any) -> SendOutcome:
        """Send a message to rooms from async code."""

    def send_sync(
        self, rooms: Sequence[str], message: WebSocketMessageBase, *, using: str | None = None, **options: Any
    ) -> SendOutcome:
        """Send a message to rooms from sync code."""


_stored_sends: StoredSends | None = None


def set_stored_sends(sends: StoredSends) -> None:
    """Have messages whose class has `OUTBOX` sent so, in this process."""
    global _stored_sends
    _stored_sends = sends


def _sends_of(message: WebSocketMessageBase) -> StoredSends | None:
    if not message.OUTBOX:
        return None
    if _stored_sends is None:
        raise RoomsConfigurationError(
            f"{type(message).__name__} has OUTBOX = True, and the outbox is a table of the app rooms_app: put it into "
            "INSTALLED_APPS, and run manage.py migrate."
        )
    return _stored_sends


class OnCommitSender:
    """Sends at once from async code, where Django has no transactions; after the commit from sync code."""

    def __init__(self, manager: Callable[[], WebSocketConnectionManager]) -> None:
        self._manager = manager

    async def send(self, rooms: Sequence[str], message: WebSocketMessageBase, **options: Any) -> SendOutcome:
        stored = _sends_of(message)
        return await (self._manager() if stored is None else stored).send(rooms, message, **options)

    def send_sync(
        self, rooms: Sequence[str], message: WebSocketMessageBase, *, using: str | None = None, **options: Any
    ) -> SendOutcome:
        refuse_in_event_loop("send_sync")
        if (stored := _sends_of(message)) is not None:
            return stored.send_sync(rooms, message, using=using, **options)
        using = using or DEFAULT_DB_ALIAS
        if not is_in_transaction(using):
            return self._manager().send_sync(rooms, message, **options)
        # Here, where the caller can still mend it, and as the message is now.
        check_message(message)
        check_idempotency_key(options.get("idempotency_key"))
        send = _Send(check_audience(rooms), message.model_copy(deep=True), options)
        _CommittedSends.of(connections[using], self._manager()).add(send, using)
        return SendOutcome.DEFERRED


class _Send(NamedTuple):
    rooms: list[str]
    message: WebSocketMessageBase
    options: dict[str, Any]


class _CommittedSends:
    """Sends of one transaction that stand next to each other: they leave together, by the hook of the first."""

    def __init__(self, manager: WebSocketConnectionManager, savepoints: set[Any]) -> None:
        self._manager = manager
        #: Within which savepoints: what is rolled back of them takes all of it along.
        self._savepoints = savepoints
        self._sends: list[_Send | None] = []

    @classmethod
    def of(cls, connection: Any, manager: WebSocketConnectionManager) -> _CommittedSends:
        """Those of the last hook, where they have the same savepoints and manager, else new ones."""
        savepoints = set(connection.savepoint_ids)
        last = connection.run_on_commit[-1][1] if connection.run_on_commit else None
        group = last.args[0] if isinstance(last, functools.partial) and last.func is _send_from else None
        if isinstance(group, cls) and group._manager is manager and group._savepoints == savepoints:
            return group
        return cls(manager, savepoints)

    def add(self, send: _Send, using: str) -> None:
        """A hook for each, so that what counts hooks, or runs some of them, sees what it expects."""
        self._sends.append(send)
        transaction.on_commit(functools.partial(_send_from, self, len(self._sends) - 1), using=using)

    def send_from(self, index: int) -> None:
        """Send this one and those after it, unless they have been."""
        sends = [send for send in self._sends[index:] if send is not None]
        self._sends[index:] = [None] * len(self._sends[index:])
        # Not past a `send_sync` that a subclass made its own.
        if isinstance(self._manager, ChannelLayerManager) and _sends_itself(self._manager):
            self._manager.send_all_sync([PendingSend(rooms, message, **options) for rooms, message, options in sends])
            return
        for rooms, message, options in sends:
            self._manager.send_sync(rooms, message, **options)


def _sends_itself(manager: ChannelLayerManager) -> bool:
    return type(manager).send_sync is ChannelLayerManager.send_sync


def _send_from(group: _CommittedSends, index: int) -> None:
    # The transaction is committed: an error here would only skip the hooks that come after this one.
    try:
        group.send_from(index)
    except Exception:
        logger.exception("a message could not be sent after the commit")


def is_in_transaction(using: str) -> bool:
    """Whether a transaction is open on this database, without opening a connection to find out.

    Raises Django's `TransactionManagementError` where autocommit is off: there is no telling when that ends.
    """
    connection = connections[using]
    if connection.in_atomic_block:
        return True
    is_open = connection.connection is not None
    has_autocommit = connection.autocommit if is_open else connection.settings_dict.get("AUTOCOMMIT", True)
    if not has_autocommit:
        raise TransactionManagementError(f"Autocommit is off on {using!r}: send inside atomic(), or use the manager.")
    return False
