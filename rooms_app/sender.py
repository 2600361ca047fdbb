"""The sender: when a message leaves. In sync code after the commit: what was rolled back never does."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from django.db import DEFAULT_DB_ALIAS, connections, transaction
from django.db.transaction import TransactionManagementError

from rooms_app.background import refuse_in_event_loop
from rooms_app.connection import HasConnection
from rooms_app.manager import SendOutcome, WebSocketConnectionManager, check_message
from rooms_app.registry import WebSocketMessageBase
from rooms_app.rooms import check_rooms

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


class OnCommitSender:
    """Sends at once from async code, where Django has no transactions; after the commit from sync code."""

    def __init__(self, manager: Callable[[], WebSocketConnectionManager]) -> None:
        self._manager = manager

    async def send(self, rooms: Sequence[str], message: WebSocketMessageBase, **options: Any) -> SendOutcome:
        return await self._manager().send(rooms, message, **options)

    def send_sync(
        self, rooms: Sequence[str], message: WebSocketMessageBase, *, using: str | None = None, **options: Any
    ) -> SendOutcome:
        refuse_in_event_loop("send_sync")
        using = using or DEFAULT_DB_ALIAS
        if not is_in_transaction(using):
            return self._manager().send_sync(rooms, message, **options)
        # Here, where the caller can still mend it, and as the message is now.
        check_message(message)
        send = functools.partial(
            self._manager().send_sync, check_rooms(rooms), message.model_copy(deep=True), **options
        )
        transaction.on_commit(functools.partial(_send_in_hook, send), using=using)
        return SendOutcome.DEFERRED


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


def _send_in_hook(send: Callable[[], SendOutcome]) -> None:
    # The transaction is committed: an error here would only skip the hooks that come after this one.
    try:
        send()
    except Exception:
        logger.exception("a message could not be sent after the commit")
