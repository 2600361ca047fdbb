"""What a client says: its options in the URL, and frames, which are only counted. Sockets go one way."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import parse_qs

from rooms_app.asgi import Receive
from rooms_app.closing import CloseCode, Refused
from rooms_app.conf import rooms_settings

_MAX_SINCE = 64
_MAX_PING = 3600
_WINDOW = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions:
    """What a client asked for: by `?since=`, `?ping=` and the subprotocol `rooms.v1`."""

    SUBPROTOCOL: ClassVar[str] = "rooms.v1"
    LATEST: ClassVar[str] = "latest"

    #: The last id it has seen, "latest", or None where it wants no answer.
    since: str | None = None
    #: After so many silent seconds it wants a `sys.ping`; 0 for none.
    ping: float = 0.0
    #: Whether it offered `rooms.v1`, which switches all protocol messages on.
    speaks_rooms: bool = False
    #: What is wrong with the request, for a close with 4501.
    problem: str | None = None

    @property
    def opted_in(self) -> bool:
        """Whether it understands protocol messages: others get none."""
        return self.speaks_rooms or self.since is not None or self.ping > 0

    @classmethod
    def parse(cls, scope: dict[str, Any]) -> ClientOptions:
        """The options in an ASGI scope; a malformed one is named in `problem`."""
        speaks_rooms = cls.SUBPROTOCOL in scope.get("subprotocols", ())
        try:
            query_string = scope.get("query_string", b"").decode()
            query = parse_qs(query_string, keep_blank_values=True, max_num_fields=100)
            return cls(
                since=_since(query),
                ping=_ping(query) or (rooms_settings().ping if speaks_rooms else 0.0),
                speaks_rooms=speaks_rooms,
            )
        except (Refused, ValueError) as error:
            problem = error.reason if isinstance(error, Refused) else "malformed query string"
            return cls(speaks_rooms=speaks_rooms, problem=problem)


def _since(query: dict[str, list[str]]) -> str | None:
    if "since" not in query:
        return None
    since = query["since"][-1]
    if not 0 < len(since) <= _MAX_SINCE:
        raise Refused(CloseCode.BAD_REQUEST, f"since: 1 to {_MAX_SINCE} characters")
    return since


def _ping(query: dict[str, list[str]]) -> float:
    if "ping" not in query:
        return 0.0
    text = query["ping"][-1]
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= _MAX_PING:
        raise Refused(CloseCode.BAD_REQUEST, f"ping: 1 to {_MAX_PING} seconds")
    return float(text)


class FrameLimit:
    """Caps what a client sends, in size and in rate."""

    __slots__ = ("_count", "_since")

    def __init__(self) -> None:
        self._count = 0
        self._since = 0.0

    def check(self, event: dict[str, Any]) -> CloseCode | None:
        """The code to close with if this frame is too large, or one too many in ten seconds."""
        settings = rooms_settings()
        text = event.get("text")
        payload = text.encode() if text is not None else event.get("bytes") or b""
        if len(payload) > settings.max_inbound_bytes:
            return CloseCode.BAD_REQUEST
        now = time.monotonic()
        if now - self._since > _WINDOW:
            self._count, self._since = 0, now
        self._count += 1
        return CloseCode.TOO_MANY_FRAMES if self._count > settings.max_inbound_frames else None


class Inbound:
    """The client's side of one connection, as the server tells it: the handshake, frames, the disconnect."""

    __slots__ = ("_has_connected", "_limit", "_receive", "_receiver", "is_abandoned")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._limit = FrameLimit()
        #: The task that waits for the next event.
        self._receiver: asyncio.Task[Any] | None = None
        self._has_connected = False
        #: The client did not take its close frame, and the server did not say so: nothing more is waited for.
        self.is_abandoned = False

    async def connected(self) -> dict[str, Any] | None:
        """Wait for the client's handshake; gives the disconnect where that comes instead."""
        if self._has_connected:
            return None
        event = await self._receive()
        if event["type"] == "websocket.disconnect":
            return event
        self._has_connected = True
        return None

    async def next(self) -> dict[str, Any] | None:
        """The next frame or the disconnect; None where it was abandoned meanwhile."""
        receiver = self._receiver = asyncio.current_task()
        try:
            return await self._receive()
        except asyncio.CancelledError:
            if not self.is_abandoned or receiver is None or receiver.uncancel():
                raise
            return None
        finally:
            self._receiver = None

    def refusal(self, event: dict[str, Any]) -> CloseCode | None:
        """The code to close with if this frame is too large, or one too many."""
        return self._limit.check(event)

    def abandon(self) -> None:
        """Wait for the client no longer."""
        self.is_abandoned = True
        # Elsewhere than in `next` the application is at work of its own, and is left to it.
        if self._receiver is not None:
            self._receiver.cancel()
