"""`manage.py rooms_listen`: what clients of a room get, as they get it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import math
import signal
from argparse import ArgumentTypeError
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote

from django.contrib.auth.models import AnonymousUser
from django.core.management.base import CommandError, CommandParser

from rooms_app.connection import RoomSocket
from rooms_app.context import use_ws_manager
from rooms_app.cursor import Cursor
from rooms_app.exceptions import RoomsUnavailable
from rooms_app.inbound import ClientOptions
from rooms_app.management.base import (
    RoomsCommand,
    counted,
    layer_errors,
    room_name,
    seconds,
    shared_layer,
    whole_number,
)
from rooms_app.registry import RESERVED_PREFIX
from rooms_app.rooms import EVERYONE


class Command(RoomsCommand):
    """Joins the rooms as one more connection, through a hub like a server's own."""

    help = (
        "Prints the frames of rooms as they come, one line of JSON each, until Ctrl-C or SIGTERM. Also another user's "
        "room (user-7) and broadcasts alone (*). It counts as a connection of these rooms."
    )
    example = "chat-42 --count 10 --seconds 60"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("rooms", nargs="+", type=room_name, metavar="ROOM", help="such as chat-42")
        parser.add_argument("--count", type=whole_number, metavar="N", help="end after so many messages")
        parser.add_argument("--seconds", type=seconds, metavar="S", help="end after so many seconds")
        parser.add_argument(
            "--since", type=_cursor, metavar="CURSOR", help="first what came after this one: the id of a frame"
        )
        self.add_json_argument(parser, help="print protocol messages (sys.…) too, rather than say them on stderr")

    def handle(
        self,
        *args: Any,
        rooms: Sequence[str],
        count: int | None,
        seconds: float | None,
        since: str | None,
        as_json: bool,
        **options: Any,
    ) -> None:
        """Print until it is enough; `CommandError` if the rooms can't be listened to, or no longer."""
        shared_layer("a command")
        # Ctrl-C is how it is meant to end.
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(self._listen(list(dict.fromkeys(rooms)), count, seconds, since, as_json=as_json))

    async def _listen(
        self, rooms: list[str], count: int | None, seconds: float | None, since: str | None, *, as_json: bool
    ) -> None:
        listener = Listener(self._print, self._tell, count=count, as_json=as_json, is_resuming=since is not None)
        connection = RoomSocket(_scope(since), _connects(), listener.send)
        # A client would be asked to come back after a while.
        connection.expires_at = math.inf
        manager = use_ws_manager()
        # Not every system has it, and only the main thread may.
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, listener.stop)
        try:
            with layer_errors():
                await connection.accept()
                await manager.add_websocket(connection)
                await manager.join([room for room in rooms if room != EVERYONE], connection, reserved=True)
            self._tell(f"Listening to {counted(len(rooms), 'room')}; Ctrl-C ends it.")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await listener.ended
        finally:
            connection.ended()
            # Redis may be away: whoever has enough of it need not wait for that to be settled.
            with contextlib.suppress(RoomsUnavailable):
                await manager.remove_websocket(connection)

    def _print(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()

    def _tell(self, text: str) -> None:
        self.stderr.write(text, self.style.NOTICE)
        self.stderr.flush()


class Listener:
    """What stands where a server's `send` does: it prints what a client would get."""

    def __init__(
        self,
        show: Callable[[str], None],
        tell: Callable[[str], None],
        *,
        count: int | None,
        as_json: bool,
        is_resuming: bool,
    ) -> None:
        self._show = show
        self._tell = tell
        self._left = math.inf if count is None else count
        self._as_json = as_json
        self._is_resuming = is_resuming
        #: Done when it is enough; with the error where it ended otherwise.
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def stop(self) -> None:
        """It is enough."""
        if not self.ended.done():
            self.ended.set_result(None)

    async def send(self, event: dict[str, Any]) -> None:
        """Take an ASGI event of the connection."""
        if self.ended.done():
            # The rest of the batch in which it became enough.
            return
        if event["type"] == "websocket.close":
            code, reason = event["code"], event.get("reason", "")
            self.ended.set_exception(CommandError(f"The connection was closed: {code} {reason}."))
        elif event["type"] == "websocket.send":
            try:
                self._take(event.get("text"), event.get("bytes"))
            except OSError as error:
                # Who read this has gone. Raised here, it would count as a client's end, and be said to nobody.
                self.ended.set_exception(error)

    def _take(self, text: str | None, data: bytes | None) -> None:
        frame = _parsed(text)
        name = frame.get("MESSAGE_ID") if isinstance(frame, dict) else None
        if isinstance(name, str) and name.startswith(RESERVED_PREFIX):
            if self._as_json:
                self._show(str(text))
            elif self._is_resuming or name != "sys.resumed":
                self._tell(_said(name, frame))
            return
        self._show(_line(text, data, frame))
        self._left -= 1
        if not self._left:
            self.stop()


def _line(text: str | None, data: bytes | None, frame: Any) -> str:
    """A frame in one line of JSON; raw broadcasts can hold anything."""
    if text is None:
        return json.dumps({"bytes": base64.b64encode(data or b"").decode()})
    if frame is None:
        return json.dumps({"text": text}, ensure_ascii=False)
    return text if len(text.splitlines()) == 1 else json.dumps(frame, ensure_ascii=False)


def _parsed(text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except (ValueError, RecursionError):
        return None


def _said(name: str, frame: dict[str, Any]) -> str:
    """A protocol message as a sentence."""
    message, place = frame.get("message") or {}, frame.get("id")
    at = f" at {place}" if place else ""
    if name == "sys.resumed":
        return f"Complete{at}: {counted(message.get('replayed', 0), 'message')} replayed."
    if name == "sys.reset":
        return f"Messages may be missing{at}: {message.get('reason')}."
    return f"{name} {json.dumps(message)}"


def _scope(since: str | None) -> dict[str, Any]:
    # It asks to be told where something is missing; a client that does not is closed.
    query = f"since={quote(since or ClientOptions.LATEST)}"
    return {
        "type": "websocket",
        "path": "",
        "query_string": query.encode(),
        "headers": [],
        "subprotocols": [],
        "user": AnonymousUser(),
    }


def _connects() -> Callable[[], Any]:
    """An ASGI `receive`: the handshake. A client that says nothing more is not waited for."""

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    return receive


def _cursor(text: str) -> str:
    if text != ClientOptions.LATEST and Cursor.parse(text) is None:
        raise ArgumentTypeError(f"{text!r} is no id of a frame")
    return text
