"""`manage.py rooms_kick`: a user, or everyone in a room, has to go."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser

from rooms_app.context import use_ws_manager
from rooms_app.counts import count_connections_sync
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
from rooms_app.reports import connections_of_sync


class Command(RoomsCommand):
    """Tells every process whom to close, and how many that concerned."""

    help = (
        "Closes a user's connections (4503), takes her out of one room (4507 where it was her only one), or closes "
        "everyone's in a room (4503). It keeps nobody from coming back: change first what can_join looks at."
    )
    example = "--user ann --room chat-42"

    def add_arguments(self, parser: CommandParser) -> None:
        self.add_user_argument(parser, "--user")
        parser.add_argument("--room", type=room_name, metavar="ROOM", help="out of this room alone")
        parser.add_argument("--all", action="store_true", dest="everyone", help="with --room: everyone in it")
        self.add_json_argument(parser)

    def handle(
        self, *args: Any, user: str | None, room: str | None, everyone: bool, as_json: bool, **options: Any
    ) -> None:
        """Give the order, and print how many it concerned; `CommandError` where it was nobody."""
        if (user is None) != everyone or (everyone and room is None):
            raise CommandError(
                "Say whom: --user USER, --user USER --room ROOM, or --room ROOM --all.", returncode=MISUSE
            )
        layer = shared_layer("a command")
        manager = use_ws_manager()
        target = None if user is None else find_user(user)
        with layer_errors():
            # Before they go; and the order is given even where nobody is known: counts are a second old.
            number = _count(layer, target, room)
            if target is None:
                outcome = manager.close_room_sync(str(room), robust=False)
            elif room is None:
                outcome = manager.disconnect_user_sync(target, robust=False)
            else:
                outcome = manager.remove_user_sync(target, room, robust=False)
        key = None if target is None else str(target.pk)
        if as_json:
            self.write_json({"user": key, "room": room, "connections": number, "outcome": outcome.value})
        whom = "everyone" if user is None else user
        where = "" if room is None else f" in {room}"
        if number == 0:
            raise CommandError(f"Nobody to close: no connection of {whom}{where} was known.")
        if not as_json:
            how_many = "all connections" if number is None else counted(number, "connection")
            self.stdout.write(f"All processes are told: {how_many} of {whom}{where}.")


def _count(layer: Any, user: Any, room: str | None) -> int | None:
    """How many connections are meant; None where nobody knows."""
    if user is not None:
        return sum(room is None or room in report.rooms for report in connections_of_sync(user))
    if room is None or not counts_all_processes(layer):
        return None
    return count_connections_sync([room])[room]
