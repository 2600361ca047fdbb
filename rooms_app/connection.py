"""One connection: an accepted WebSocket, as an endpoint, a consumer and the hub see it."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import secrets
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol

from rooms_app import envelope
from rooms_app.asgi import Receive, Scope, Send
from rooms_app.backlog import Backlog
from rooms_app.closing import RETRY_AFTER_MS, CloseCode, Closing, reason_of
from rooms_app.conf import rooms_settings
from rooms_app.exceptions import ConnectionClosed
from rooms_app.inbound import ClientOptions, Inbound
from rooms_app.members import Member
from rooms_app.rooms import EVERYONE, user_room
from rooms_app.servers import Batch, find_outlet

logger = logging.getLogger(__name__)

_BOOT_ID = secrets.token_hex(3)


def process_id() -> str:
    """Names this process in `sys.hello` and health checks; a fork differs by its pid, a restart by the rest."""
    return f"{os.getpid()}-{_BOOT_ID}"


class HasConnection(Protocol):
    """What can join rooms: a `RoomSocket`, or a `RoomConsumer`, which has one."""

    @property
    def connection(self) -> RoomSocket:
        """The connection itself."""


class RoomSocket:
    """A WebSocket as an endpoint gets it: Starlette's names, plus `wait_closed`.

    What a client sends is capped in size and rate. From the disconnect on, `receive` and each send raise
    `ConnectionClosed`.
    """

    __slots__ = (
        "__weakref__",
        "_inbound",
        "_is_accepted",
        "_is_answering",
        "_is_close_due",
        "_send",
        "answerer",
        "backlog",
        "began_at",
        "closing",
        "expires_at",
        "guard",
        "id",
        "joins_user_room",
        "loop",
        "options",
        "rooms",
        "scope",
        "silence",
        "tracked",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        settings = rooms_settings()
        self.scope = scope
        #: Names this connection to `exclude=` and in `sys.hello`.
        self.id = secrets.token_urlsafe(9)
        #: Whether a signed-in user's connection is put into her own room.
        self.joins_user_room = True
        #: The rooms it is in; the hub's to change.
        self.rooms: set[str] = set()
        #: The rooms it counts as present in, and as whom, if anybody; None where it is not tracked.
        self.tracked: dict[str, Member | None] | None = None
        #: How it was closed, by either side; None while it lives.
        self.closing: Closing | None = None
        #: What the client asked for in the URL and the subprotocols.
        self.options = ClientOptions.parse(scope)
        self.loop = asyncio.get_running_loop()
        #: When it came, and when it is asked to reconnect, on the loop's clock.
        self.began_at = self.loop.time()
        self.expires_at = self.began_at + settings.max_age * random.uniform(0.9, 1.1)
        #: The count of writes at the last look, and when it last changed; for `sys.ping`.
        self.silence = (0, 0.0)
        self.backlog = Backlog(
            find_outlet(scope, send),
            max_messages=settings.max_unsent_messages,
            max_bytes=settings.max_unsent_bytes,
            on_overflow=self._overflow,
        )
        self._inbound = Inbound(receive)
        self._send = send
        self._is_accepted = False
        #: It was closed before the handshake was done: the close frame follows the accept.
        self._is_close_due = False
        #: Frames up to this place in history are not for it: a replay or a reset covers them. None while the
        #: client's `since` is not answered.
        self.guard: int | None = 0 if self.options.since is None else None
        self._is_answering = False
        #: Answers the client's `since`; the hub's, once the connection is in one.
        self.answerer: Callable[[RoomSocket], Awaitable[None]] = _answer_without_rooms

    @property
    def connection(self) -> RoomSocket:
        """Itself; so that a `RoomConsumer` can be passed wherever a `RoomSocket` can."""
        return self

    @property
    def user(self) -> Any:
        """The signed-in user, or Django's AnonymousUser."""
        return self.scope.get("user")

    @property
    def user_room(self) -> str | None:
        """The room of the signed-in user, or None for the anonymous."""
        user = self.user
        return user_room(user) if user is not None and user.is_authenticated else None

    @property
    def kwargs(self) -> dict[str, Any]:
        """The parameters of the URL pattern."""
        kwargs: dict[str, Any] = self.scope.get("url_route", {}).get("kwargs", {})
        return kwargs

    @property
    def is_accepted(self) -> bool:
        """Whether the handshake is done."""
        return self._is_accepted

    async def connected(self) -> None:
        """Wait for the client's handshake."""
        disconnect = await self._inbound.connected()
        if disconnect is not None:
            raise self._mark_closed(disconnect.get("code") or CloseCode.DONE, "")

    async def accept(self, subprotocol: str | None = None) -> None:
        """Complete the handshake; `rooms.v1` is chosen for a client that offers it, unless another is named."""
        await self.connected()
        if self._is_accepted:
            raise RuntimeError("This WebSocket is accepted already.")
        if subprotocol is None and self.options.speaks_rooms:
            subprotocol = ClientOptions.SUBPROTOCOL
        if self.closing is not None and not self._is_close_due:
            raise ConnectionClosed(*self.closing)
        await self._call_send({"type": "websocket.accept", "subprotocol": subprotocol})
        self._is_accepted = True
        self.backlog.outlet.opened(rooms_settings().send_buffer_bytes)
        hello = [self._hello()] if self.options.speaks_rooms else []
        if self.closing is not None:
            # It was closed before, where no close frame could be sent.
            self._say_closing(*self.closing)
            self.backlog.outlet.close(*self.closing, rooms_settings().slow_grace)
            await self.backlog.outlet.finish()
            raise ConnectionClosed(*self.closing)
        if self.guard is not None:
            self.backlog.release(*hello)
        elif hello:
            # What follows waits for the answer to `since`.
            self.backlog.outlet.write(Batch(hello))

    async def receive(self) -> dict[str, Any]:
        """The client's next frame, as the ASGI event `websocket.receive`. Raises `ConnectionClosed` at the end."""
        await self.connected()
        if self.guard is None and self._is_accepted:
            await self.answerer(self)
        if self.closing is not None and (self._inbound.is_abandoned or not self._is_accepted):
            raise ConnectionClosed(*self.closing)
        event = await self._inbound.next()
        if event is None:
            raise self._mark_closed(CloseCode.ERROR, "")
        if event["type"] == "websocket.disconnect":
            raise self._mark_closed(event.get("code") or 1005, event.get("reason") or "")
        refusal = self._inbound.refusal(event)
        if refusal is not None:
            await self.close(refusal)
            raise ConnectionClosed(refusal, refusal.reason)
        return event

    async def wait_closed(self) -> None:
        """Wait until the connection ends; whatever the client sends meanwhile is ignored."""
        try:
            while True:
                await self.receive()
        except ConnectionClosed:
            return

    async def send_text(self, text: str) -> None:
        """Send one text frame to this client alone."""
        await self._send_event({"type": "websocket.send", "text": text})

    async def send_bytes(self, data: bytes) -> None:
        """Send one binary frame to this client alone."""
        await self._send_event({"type": "websocket.send", "bytes": data})

    async def send_json(self, value: Any) -> None:
        """Send a value as JSON, in a text frame, to this client alone."""
        await self.send_text(envelope.to_json(value))

    async def close(self, code: int = CloseCode.DONE, reason: str = "") -> None:
        """Close the connection. Closing twice is no error."""
        if self.closing is not None:
            return
        if self._is_accepted:
            # Not by the server's own `send`: it waits for a client that does not read, or (daphne's) drops
            # the reason, and raises for the codes 1011 to 1013, so that the client would wait for ever.
            self.close_now(code, reason)
            await self.backlog.outlet.finish()
            return
        self._mark_closed(code, reason)
        try:
            await self._send({"type": "websocket.close", "code": int(code), "reason": reason or reason_of(code)})
        except Exception as error:
            logger.debug("close failed connection=%s error=%r", self.id, error)

    def close_now(self, code: int, reason: str = "") -> None:
        """Queue the close frame behind what is unsent, past `send`, and reset what is unread after the grace."""
        if self.closing is not None:
            return
        if self._is_accepted:
            self.backlog.flush()
            self._say_closing(code, reason)
            grace = rooms_settings().slow_grace
            self.backlog.outlet.close(int(code), reason or reason_of(code), grace)
            # Past the reset, which a server reports as a disconnect; not every server can be told to reset.
            self.loop.call_later(grace + 1, self._inbound.abandon)
        else:
            self._is_close_due = True
        self._mark_closed(code, reason)

    def begin_resume(self) -> None:
        """Hold live frames until the client's `since` is answered."""
        if self.guard is None and self._is_accepted:
            self.backlog.hold()

    def begin_answer(self) -> bool:
        """Whether the client's `since` is still to be answered, and nobody is at it."""
        if self.guard is not None or self._is_answering:
            return False
        self._is_answering = True
        return True

    def give_up_answer(self) -> None:
        """The answer failed; the next who tries may."""
        self._is_answering = False

    def answer(self, frames: Iterable[Batch], *, guard: int = 0) -> None:
        """Answer `since` by these frames, go on with what was held and comes after the guard's place in history."""
        self.backlog.put_first(frames, after=guard)
        self._answered(guard)

    def answer_behind(self, text: str) -> None:
        """Answer `since` by a frame that comes after what was held."""
        self.backlog.write(Batch([text]))
        self._answered(0)

    def _answered(self, guard: int) -> None:
        self.guard = guard
        if self._is_accepted:
            self.backlog.release()

    def _hello(self) -> str:
        rooms = sorted(self.rooms - {EVERYONE})
        return envelope.system("hello", connection=self.id, process=process_id(), rooms=rooms)

    def ended(self) -> None:
        """The application is done with it."""
        self._mark_closed(1006, "")

    async def _send_event(self, event: dict[str, Any]) -> None:
        if self.closing is not None:
            raise ConnectionClosed(*self.closing)
        if event["type"] == "websocket.send" and not self._is_accepted:
            raise RuntimeError("Accept the WebSocket before you send: await websocket.accept()")
        await self._call_send(event)

    async def _call_send(self, event: dict[str, Any]) -> None:
        try:
            await self._send(event)
        except Exception as error:
            # Each server has its own exception for a client that has gone: one of ours for all.
            raise self._mark_closed(1006, "lost") from error

    def _overflow(self) -> None:
        logger.info("closing a slow client connection=%s", self.id)
        self.close_now(CloseCode.SLOW)

    def _say_closing(self, code: int, reason: str) -> None:
        if self.options.opted_in and self._is_accepted:
            wait = RETRY_AFTER_MS.get(code, 0)  # type: ignore[call-overload]
            text = envelope.system("closing", code=int(code), reason=reason or reason_of(code), retry_after_ms=wait)
            self.backlog.outlet.write(Batch([text]))

    def _mark_closed(self, code: int, reason: str) -> ConnectionClosed:
        if self.closing is None:
            self.closing = Closing(int(code), reason or reason_of(code))
        self.backlog.shut()
        return ConnectionClosed(*self.closing)


async def _answer_without_rooms(connection: RoomSocket) -> None:
    """It is in no room, so that nothing was due to it; or nothing can be said of it."""
    if connection.begin_answer():
        is_first = connection.options.since == ClientOptions.LATEST
        connection.answer([Batch([envelope.no_history_answer(is_first=is_first)])])
