"""`manage.py rooms_send`: a typed message from the shell."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentTypeError
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.core.management.base import CommandError, CommandParser
from pydantic import ValidationError

from rooms_app.context import use_ws_manager
from rooms_app.counts import count_connections_sync
from rooms_app.exceptions import RoomsUnavailable
from rooms_app.management.base import (
    MISUSE,
    RoomsCommand,
    counted,
    counts_all_processes,
    find_user,
    layer_errors,
    room_name,
    shared_layer,
)
from rooms_app.manager import check_idempotency_key
from rooms_app.registry import WebSocketMessageBase, sendable
from rooms_app.rooms import EVERYONE, user_room


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """One `--set`: which field, the text that was written, and what that is as JSON."""

    path: tuple[str, ...]
    text: str
    value: Any


class Command(RoomsCommand):
    """Builds a message, checks it as its class does, and sends it."""

    help = "Sends one message to rooms, to users, or to every connection, at once. Give its fields as JSON or by --set."
    example = "chat.message --room chat-42 --set user_id=7 --set content=hi"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("message_id", metavar="MESSAGE_ID", help="such as chat.message; rooms_messages lists them")
        parser.add_argument(
            "payload",
            nargs="?",
            metavar="PAYLOAD",
            help="the fields as one JSON object, right behind MESSAGE_ID; - reads it from stdin",
        )
        audience = parser.add_mutually_exclusive_group(required=True)
        audience.add_argument(
            "--room", action="append", type=room_name, dest="rooms", metavar="ROOM", help="to this room; repeatable"
        )
        audience.add_argument(
            "--user",
            action="append",
            dest="users",
            metavar="USER",
            help="to this user's connections, by user name or pk:<pk>; repeatable",
        )
        audience.add_argument("--broadcast", action="store_true", help="to every connection in all processes")
        parser.add_argument(
            "--set",
            action="append",
            type=_assignment,
            default=[],
            dest="assignments",
            metavar="FIELD=VALUE",
            help="one field, over what PAYLOAD says; author.name=Ann reaches inside; the value is JSON, else text",
        )
        parser.add_argument(
            "--once",
            type=_key,
            metavar="KEY",
            help="send nothing if this key was sent within 5 minutes; needs the layer with history",
        )
        self.add_json_argument(parser)

    def handle(
        self,
        *args: Any,
        message_id: str,
        payload: str | None,
        rooms: Sequence[str] | None,
        users: Sequence[str] | None,
        broadcast: bool,
        assignments: Sequence[Assignment],
        once: str | None,
        as_json: bool,
        **options: Any,
    ) -> None:
        """Send it, and print where to; `CommandError` where the fields are wrong or the layer does not confirm."""
        message_type = sendable(message_id)
        message = _validated(message_type, _fields(payload, assignments), assignments)
        layer = shared_layer("a command")
        if once is not None and not counts_all_processes(layer):
            raise CommandError("--once needs the channel layer with history: this one would send again.")
        to = [EVERYONE] if broadcast else list(rooms or ()) or [user_room(find_user(user)) for user in users or ()]
        to = list(dict.fromkeys(to))
        with layer_errors():
            outcome = use_ws_manager().send_sync(to, message, idempotency_key=once, robust=False)
        connections = _connections(to) if counts_all_processes(layer) else {}
        if as_json:
            answer = [{"room": room, "connections": connections.get(room)} for room in to]
            self.write_json({"MESSAGE_ID": message_id, "outcome": outcome.value, "rooms": answer})
            return
        self.stdout.write(f"{message_id} {outcome.value} to {', '.join(_said(room, connections) for room in to)}.")


def _connections(rooms: Sequence[str]) -> dict[str, int]:
    """How many connections each room has, where that can be told."""
    try:
        return count_connections_sync(rooms)
    except RoomsUnavailable:
        # It was sent all the same.
        return {}


def _said(room: str, connections: dict[str, int]) -> str:
    name = "everyone" if room == EVERYONE else room
    return f"{name} ({counted(connections[room], 'connection')})" if room in connections else name


def _fields(payload: str | None, assignments: Sequence[Assignment]) -> Any:
    """What is in the payload, and over it the assignments."""
    fields: Any = {}
    if payload is not None:
        source = "stdin" if payload == "-" else "PAYLOAD"
        try:
            fields = json.loads(sys.stdin.read() if payload == "-" else payload)
        except (ValueError, RecursionError) as error:
            raise CommandError(f"{source} is no JSON: {error}.", returncode=MISUSE) from None
    for assignment in assignments:
        _assign(fields, assignment.path, assignment.value)
    return fields


def _assign(fields: Any, path: Sequence[str], value: Any) -> None:
    *parents, name = path
    inside = fields
    for parent in parents:
        inside = inside.setdefault(parent, {}) if isinstance(inside, dict) else None
    if not isinstance(inside, dict):
        raise CommandError(f"--set {'.'.join(path)}: there is no JSON object to set it in.", returncode=MISUSE)
    inside[name] = value


def _validated(
    message_type: type[WebSocketMessageBase], fields: Any, assignments: Sequence[Assignment]
) -> WebSocketMessageBase:
    try:
        # As JSON, since that is what was written: a strict field takes its time as text.
        return message_type.model_validate_json(json.dumps(fields))
    except ValidationError as error:
        wants_text = {tuple(map(str, each["loc"])) for each in error.errors() if each["type"] == "string_type"}
        as_text = [each for each in assignments if each.path in wants_text and each.value != each.text]
        if as_text:
            # `--set user_id=7` where user_id is a text.
            for each in as_text:
                _assign(fields, each.path, each.text)
            return _validated(message_type, fields, ())
        problems = "; ".join(
            f"{'.'.join(map(str, each['loc'])) or 'the payload'}: {each['msg']}" for each in error.errors()
        )
        raise CommandError(f"No valid {message_type.MESSAGE_ID}: {problems}.", returncode=MISUSE) from None


def _assignment(text: str) -> Assignment:
    path, equals, value = text.partition("=")
    if not equals or not all(path.split(".")):
        raise ArgumentTypeError(f"{text!r} is not of the form FIELD=VALUE")
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        parsed = value
    return Assignment(path=tuple(path.split(".")), text=value, value=parsed)


def _key(text: str) -> str:
    try:
        check_idempotency_key(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from error
    return text
