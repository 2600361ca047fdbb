"""The wire: the JSON text that a client receives, and the one message that crosses the channel layer.

Pure functions, but for `new_uid`. An envelope is made in two steps, so that each is done once: `encode` where a
message is sent, `addressed` where a process writes it to a room's connections.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rooms_app.cursor import Cursor
from rooms_app.registry import WebSocketMessageBase
from rooms_app.rooms import EVERYONE

#: The channel-layer type of everything sent to rooms: `room_message(event)` in a stock consumer.
ROOM_MESSAGE = "room.message"

# For `isinstance`, which is slower with a union that is made at each call.
_LIST = (list, tuple)
_TEXT_OR_NONE = (str, type(None))

#: The channel-layer type of what hubs tell each other.
ROOM_CONTROL = "room.control"


def encode(message: WebSocketMessageBase) -> str:
    """A message as the JSON object `{"MESSAGE_ID": …, "message": {…}}`, not yet addressed to a room."""
    return f'{{"MESSAGE_ID":{json.dumps(message.MESSAGE_ID)},"message":{message.model_dump_json()}}}'


def addressed(text: str, room: str, cursor: Cursor | None = None) -> str:
    """The envelope as the connections of one room get it: the encoded message with its `room`, and its `id`."""
    if cursor is None:
        return f'{text[:-1]},"room":{json.dumps(room, ensure_ascii=False)}}}'
    return f'{text[:-1]},"room":{json.dumps(room, ensure_ascii=False)},"id":"{cursor}"}}'


def to_json(value: Any) -> str:
    """A JSON text without needless spaces, in UTF-8 as it is."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def system(name: str, *, id: Cursor | None = None, **payload: Any) -> str:
    """The envelope of a protocol message such as `sys.hello`, for clients that opted in; `id` is a position."""
    frame = {"MESSAGE_ID": f"sys.{name}", "message": payload}
    return to_json(frame if id is None else {**frame, "id": str(id)})


def no_history_answer(*, is_first: bool) -> str:
    """What a client's `since` is answered where there is no history."""
    return system("resumed", replayed=0) if is_first else system("reset", reason="no_history")


_uid_prefix: str


def _draw_prefix() -> None:
    global _uid_prefix
    _uid_prefix = secrets.token_urlsafe(9)


_draw_prefix()
_uid_count = itertools.count()
if hasattr(os, "register_at_fork"):
    # A forked child would go on with its parent's numbers.
    os.register_at_fork(after_in_child=_draw_prefix)


def new_uid() -> str:
    """What names one send among all that any process ever made; as good as random, without a system call each."""
    return f"{_uid_prefix}{next(_uid_count):x}"


def room_message(
    rooms: Sequence[str],
    text: str,
    *,
    exclude: str | None = None,
    has_history: bool = True,
    is_volatile: bool = False,
    retain_as: str | None = None,
) -> dict[str, Any]:
    """What crosses the channel layer for a message to rooms; each copy carries the uid and all the rooms.

    `exclude` is the id of the one connection that does not get it. What differs from the default is told.
    """
    message: dict[str, Any] = {"type": ROOM_MESSAGE, "rooms": list(rooms), "uid": new_uid(), "text": text}
    if exclude is not None:
        message["exclude"] = exclude
    if not has_history:
        message["history"] = False
    if is_volatile:
        message["volatile"] = True
    if retain_as is not None:
        message["retain"] = retain_as
    return message


def raw_broadcast(data: bytes) -> dict[str, Any]:
    """What crosses the channel layer for raw bytes to every connection; text, so that any serializer takes it."""
    message = {"type": ROOM_MESSAGE, "rooms": [EVERYONE], "uid": new_uid(), "history": False}
    try:
        return {**message, "raw": data.decode()}
    except UnicodeDecodeError:
        return {**message, "raw_base64": base64.b64encode(data).decode()}


class Received(NamedTuple):
    """A `room.message` as the hub got it from the channel layer."""

    rooms: Sequence[str]
    #: The encoded message, to be addressed to each room …
    text: str | None
    #: … or what goes out as it is.
    raw: str | bytes | None
    uid: str | None
    exclude: str | None
    #: Its place in history, if it has one.
    cursor: Cursor | None = None
    #: Whether a slow connection may go without it.
    is_volatile: bool = False
    #: The name under which it is kept for those who join later.
    retain_as: str | None = None


def parse(event: Mapping[str, Any], cursor: Cursor | None = None) -> Received | None:
    """The `room.message` in a channel-layer event, or None where it is malformed: anyone may `group_send`."""
    rooms, text, uid, exclude = event.get("rooms"), event.get("text"), event.get("uid"), event.get("exclude")
    if not isinstance(rooms, _LIST) or not rooms or not all(map(_is_text, rooms)):
        return None
    if not isinstance(uid, _TEXT_OR_NONE) or not isinstance(exclude, _TEXT_OR_NONE):
        return None
    if isinstance(text, str) and text[:1] == "{" and text[-1:] == "}" and len(text) > 2:
        is_volatile, retain_as = bool(event.get("volatile")), event.get("retain")
        retain_as = retain_as if isinstance(retain_as, str) else None
        return Received(rooms, text, None, uid, exclude, cursor, is_volatile, retain_as)
    raw = _raw(event)
    return None if raw is None else Received(rooms, None, raw, uid, exclude, cursor)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _raw(event: Mapping[str, Any]) -> str | bytes | None:
    raw, encoded = event.get("raw"), event.get("raw_base64")
    if isinstance(raw, str):
        return raw
    if not isinstance(encoded, str):
        return None
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return None
