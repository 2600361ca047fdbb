"""Typed messages that can be sent: what a team declares in its `messages.py`."""

from __future__ import annotations

from typing import Any

from rooms_app.connection import HasConnection
from rooms_app.context import use_ws_message_sender
from rooms_app.manager import SendOutcome
from rooms_app.registry import MessageRegistry, WebSocketMessageBase, registry
from rooms_app.rooms import EVERYONE

__all__ = ["MessageRegistry", "WebSocketMessage", "WebSocketMessageBase", "registry"]


class WebSocketMessage(WebSocketMessageBase, abstract=True):
    """A typed message that can send itself.

    Each send returns what became of it: `sent`, `deferred` (to the commit; with `OUTBOX` also until Redis is back) or
    `failed`. A failure of the channel layer is counted and logged; with `robust=False` it is raised as
    `RoomsUnavailable`, which means perhaps sent. `exclude` leaves one connection out ("to others"). On a layer with
    history, sends with the same `idempotency_key` within 5 minutes are one. Raises `InvalidRoom` and `MessageTooLarge`.
    """

    async def send(
        self,
        *rooms: str,
        exclude: str | HasConnection | None = None,
        idempotency_key: str | None = None,
        robust: bool = True,
    ) -> SendOutcome:
        """Send to rooms from async code, at once."""
        return await use_ws_message_sender().send(
            rooms, self, exclude=exclude, robust=robust, **_given(idempotency_key)
        )

    def send_sync(
        self,
        *rooms: str,
        exclude: str | HasConnection | None = None,
        idempotency_key: str | None = None,
        robust: bool = True,
        using: str | None = None,
    ) -> SendOutcome:
        """Send to rooms from sync code: after the commit where a transaction is open on `using`, else at once."""
        return use_ws_message_sender().send_sync(
            rooms, self, exclude=exclude, robust=robust, **_given(idempotency_key), using=using
        )

    async def broadcast(
        self, *, exclude: str | HasConnection | None = None, idempotency_key: str | None = None, robust: bool = True
    ) -> SendOutcome:
        """Send to every connection in all processes, from async code."""
        return await self.send(EVERYONE, exclude=exclude, robust=robust, **_given(idempotency_key))

    def broadcast_sync(
        self,
        *,
        exclude: str | HasConnection | None = None,
        idempotency_key: str | None = None,
        robust: bool = True,
        using: str | None = None,
    ) -> SendOutcome:
        """Send to every connection in all processes, from sync code: after the commit, as `send_sync`."""
        return self.send_sync(EVERYONE, exclude=exclude, robust=robust, **_given(idempotency_key), using=using)


def _given(idempotency_key: str | None) -> dict[str, Any]:
    # A manager or sender of a team's own may not know it.
    return {} if idempotency_key is None else {"idempotency_key": idempotency_key}
