"""`manage.py rooms_explain`: why a user does, or does not, get what is sent to a room."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from asgiref.sync import async_to_sync
from django.core.management.base import CommandParser

from rooms_app.background import background
from rooms_app.cancelling import within
from rooms_app.conf import rooms_settings
from rooms_app.counts import count_connections_sync
from rooms_app.cursor import Cursor
from rooms_app.management.admission import Admission, admissions
from rooms_app.management.base import (
    RoomsCommand,
    counted,
    counts_all_processes,
    find_user,
    layer_errors,
    room_name,
    shared_layer,
)
from rooms_app.reports import ConnectionReport, connections_of_sync
from rooms_app.rooms import group_name, user_room

_ANSWERS = {True: "yes", False: "no", None: "can't be told"}


class Command(RoomsCommand):
    """Puts together what the consumers, the processes and Redis say."""

    help = (
        "Tells whether a user may join a room, where she is connected, and what is in the room. May she join: her "
        "RoomConsumer is asked get_rooms and can_join; a function endpoint decides by calling join, and can't be asked."
    )
    example = "ann chat-42 --path /ws/rooms/42"

    def add_arguments(self, parser: CommandParser) -> None:
        self.add_user_argument(parser)
        parser.add_argument("room", type=room_name, metavar="ROOM", help="such as chat-42")
        parser.add_argument(
            "--path", metavar="PATH", help="the path she connects at (all routes are asked, without parameters)"
        )
        self.add_json_argument(parser)

    def handle(self, *args: Any, user: str, room: str, path: str | None, as_json: bool, **options: Any) -> None:
        """Print it; `CommandError` where there is no such user, or the layer does not answer."""
        layer = shared_layer("a command")
        person = find_user(user)
        with layer_errors():
            connections = connections_of_sync(person)
            has_record = counts_all_processes(layer)
            number = count_connections_sync([room])[room] if has_record else None
            last = background.run(lambda: _last(layer, room)) if has_record else None
        # Not by a loop of its own: what a can_join asks the database is asked here, in this thread.
        answers: list[Admission] = async_to_sync(admissions)(person, room, path)
        if as_json:
            self.write_json(
                {
                    "user": str(person.pk),
                    "is_active": bool(person.is_active),
                    "user_room": user_room(person),
                    "room": room,
                    "may_join": [asdict(answer) for answer in answers],
                    "connections": [report.as_dict() for report in connections],
                    "room_connections": number,
                    "room_last_id": last,
                }
            )
            return
        if not person.is_active:
            self.stdout.write(f"{user} is not active: by Django's own backend nobody is signed in as her.")
        for answer in answers:
            at = f" at {answer.route}" if answer.route else ""
            self.stdout.write(f"May {user} join {room}{at}? {_ANSWERS[answer.may_join].capitalize()}: {answer.why}.")
        self._write_connections(user, room, connections)
        if not has_record:
            self.stdout.write(f"How many are in {room}: that needs the channel layer with history.")
            return
        at = f"its last message is at {last}" if last else "no message is in its history"
        self.stdout.write(f"{room} has {counted(number or 0, 'connection')}; {at}.")

    def _write_connections(self, user: str, room: str, connections: Sequence[ConnectionReport]) -> None:
        inside = sum(room in report.rooms for report in connections)
        self.stdout.write(f"{user} has {counted(len(connections), 'connection')}, {inside} in {room}.")
        for report in connections:
            since = report.since.isoformat(sep=" ", timespec="seconds")
            self.stdout.write(f"    {report.process}  {report.path}  since {since}  in {', '.join(report.rooms)}")


async def _last(layer: Any, room: str) -> str | None:
    """The id of the room's last message; None where it has none in its history."""
    shard = layer.here().shard
    async with within(rooms_settings().send_timeout):
        number = await shard.command(*layer.calls.last_id(group_name(room)))
        now = Cursor.parse((await shard.call(layer.calls.tick())).decode())
    return None if number is None or now is None else str(Cursor(now.epoch, int(float(number))))
