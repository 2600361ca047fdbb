"""What a manager of connections is, and what becomes of a send."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

from rooms_app.connection import HasConnection
from rooms_app.registry import WebSocketMessageBase


class SendOutcome(StrEnum):
    """What became of a send."""

    #: The channel layer has it.
    SENT = "sent"
    #: It is kept, and goes later: when the transaction commits, or when what it needs is back.
    DEFERRED = "deferred"
    #: The channel layer did not confirm; it was counted and logged.
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class PendingSend:
    """A send that waits for something, such as a commit."""

    rooms: Sequence[str]
    message: WebSocketMessageBase
    exclude: str | HasConnection | None = None
    idempotency_key: str | None = None
    robust: bool = True


def excluded_id(exclude: str | HasConnection | None) -> str | None:
    """The id of the connection that a send leaves out, if it leaves one out."""
    return exclude if isinstance(exclude, str | None) else exclude.connection.id


@runtime_checkable
class WebSocketConnectionManager(Protocol):
    """What `use_ws_manager()` gives; implement it to stand in for the real one in tests."""

    async def broadcast(self, message: bytes) -> SendOutcome:
        """Send raw bytes to every connection in all processes: a text frame where they are UTF-8, else binary."""

    async def send(
        self,
        rooms: Sequence[str],
        message: WebSocketMessageBase,
        *,
        exclude: str | HasConnection | None = None,
        idempotency_key: str | None = None,
        robust: bool = True,
    ) -> SendOutcome:
        """Send a message to rooms at once; a connection in several of them gets it once.

        `exclude` leaves one connection out, by itself or by its id. On a layer with history, sends with the same
        `idempotency_key` within 5 minutes are one. With `robust=False` a failure is raised as
        `RoomsUnavailable`, which means perhaps sent. Raises `InvalidRoom` and `MessageTooLarge` always.
        """

    async def join(self, rooms: Sequence[str], websocket: HasConnection, *, reserved: bool = False) -> None:
        """Put a connection into rooms, and return when their subscriptions stand.

        Calling it is the decision to let it in. Raises `InvalidRoom`, `ForbiddenRoom` for another user's room
        unless `reserved=True`, `RoomsUnavailable`, `ConnectionClosed`, `Refused` at a limit.
        """

    async def leave(self, rooms: Sequence[str], websocket: HasConnection) -> None:
        """Take a connection out of rooms; no error where it is not in."""

    async def add_websocket(self, websocket: HasConnection) -> None:
        """Register a connection: it gets broadcasts, and a signed-in user's what is sent to her own room."""

    async def remove_websocket(self, websocket: HasConnection) -> None:
        """Take a connection out of everything. Removing twice is no error."""

    async def disconnect_user(self, user: Any, *, robust: bool = True) -> SendOutcome:
        """Close all connections of a user in every process with 4503: their clients don't come back by themselves.

        What it returns is whether the processes were told; as a send, with `robust=False` it raises.
        """

    async def remove_user(self, user: Any, room: str, *, robust: bool = True) -> SendOutcome:
        """Take a user's connections out of a room in every process; those that are in no other are closed with 4507.

        Whoever connects again is asked `can_join` again: change first what that looks at.
        """

    async def close_room(self, room: str, *, robust: bool = True) -> SendOutcome:
        """Close all connections in a room in every process with 4503."""

    def disconnect_user_sync(self, user: Any, *, robust: bool = True) -> SendOutcome:
        """`disconnect_user` for sync code."""

    def remove_user_sync(self, user: Any, room: str, *, robust: bool = True) -> SendOutcome:
        """`remove_user` for sync code."""

    def close_room_sync(self, room: str, *, robust: bool = True) -> SendOutcome:
        """`close_room` for sync code."""

    def broadcast_sync(self, message: bytes) -> SendOutcome:
        """`broadcast` for sync code."""

    def send_sync(
        self,
        rooms: Sequence[str],
        message: WebSocketMessageBase,
        *,
        exclude: str | HasConnection | None = None,
        idempotency_key: str | None = None,
        robust: bool = True,
    ) -> SendOutcome:
        """`send` for sync code: at once, also inside a transaction."""

    def join_sync(self, rooms: Sequence[str], websocket: HasConnection, *, reserved: bool = False) -> None:
        """`join` for sync code in another thread than the connection's."""

    def leave_sync(self, rooms: Sequence[str], websocket: HasConnection) -> None:
        """`leave` for sync code in another thread than the connection's."""

    def add_websocket_sync(self, websocket: HasConnection) -> None:
        """`add_websocket` for sync code in another thread than the connection's."""

    def remove_websocket_sync(self, websocket: HasConnection) -> None:
        """`remove_websocket` for sync code in another thread than the connection's."""
