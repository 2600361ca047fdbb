"""`manage.py rooms_list`: which rooms there are now, how many are in each, and on which process."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from django.core.management.base import CommandError, CommandParser

from rooms_app.counts import list_rooms_sync
from rooms_app.management.base import (
    RoomsCommand,
    counted,
    counts_all_processes,
    layer_errors,
    shared_layer,
    whole_number,
)


class Command(RoomsCommand):
    """Reads the counts that all processes keep in Redis."""

    help = "Lists the rooms that have connections, those with most first, and the server processes."
    example = "--match 'chat-*' --limit 20"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--match", metavar="GLOB", help="only rooms whose name fits, such as chat-* (all)")
        parser.add_argument(
            "--limit", type=whole_number, default=100, metavar="N", help="show at most so many rooms (100)"
        )
        self.add_json_argument(parser)

    def handle(self, *args: Any, match: str | None, limit: int, as_json: bool, **options: Any) -> None:
        """Print them; `CommandError` where nobody keeps counts."""
        if not counts_all_processes(shared_layer("a command")):
            raise CommandError("Counts of connections need the channel layer with history.")
        with layer_errors():
            listing = list_rooms_sync(match=match, limit=limit)
        if as_json:
            self.write_json(
                {
                    "rooms": [asdict(room) for room in listing.rooms],
                    "total_rooms": listing.total_rooms,
                    "connections": listing.connections,
                    "processes": [asdict(process) for process in listing.processes],
                }
            )
            return
        width = max((len(f"{room.connections:,}") for room in listing.rooms), default=0)
        for room in listing.rooms:
            self.stdout.write(f"{room.connections:>{width},}  {room.room}")
        more = listing.total_rooms - len(listing.rooms)
        if more > 0:
            self.stdout.write(f"… and {counted(more, 'room')} more: --limit")
        which = "" if match is None else f" that fit {match!r}"
        self.stdout.write(f"{counted(listing.total_rooms, 'room')}{which}.")
        for process in listing.processes:
            self.stdout.write(
                f"{process.process}: {counted(process.connections, 'connection')}, {counted(process.rooms, 'room')}"
            )
        self.stdout.write(
            f"{counted(listing.connections, 'connection')} in "
            f"{counted(len(listing.processes), 'process', 'processes')}, about a second ago."
        )
