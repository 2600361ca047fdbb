"""What a client that gave `since` is answered: a replay, or one reset; and what rooms keep for those who join."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rooms_app import envelope
from rooms_app.connection import RoomSocket
from rooms_app.cursor import Entry
from rooms_app.fanout import Payload, payload_for
from rooms_app.feeds import Feed
from rooms_app.rooms import group_name
from rooms_app.servers import Batch, batches


def replay_frames(feed: Feed, connection: RoomSocket, entries: Iterable[Entry]) -> Iterator[Batch]:
    """The frames of what a connection missed, made as it takes them."""
    return batches(_payloads(feed, connection, entries))


def retained_frames(feed: Feed, connection: RoomSocket, rooms: Sequence[str], *, only_unkept: bool) -> list[Batch]:
    """The frames of what rooms keep for those who join: all, or only what is in no history.

    They have no place in history: it would be before what their client has already.
    """
    entries = {
        entry.payload: entry
        for room in rooms
        for entry in feed.retained(group_name(room)).values()
        if entry.cursor is None or not only_unkept
    }
    ordered = [Entry(None, entry.payload) for entry in sorted(entries.values(), key=_place)]
    return list(replay_frames(feed, connection, ordered))


def _place(entry: Entry) -> int:
    return entry.cursor.id if entry.cursor is not None else 0


def _payloads(feed: Feed, connection: RoomSocket, entries: Iterable[Entry]) -> Iterator[Payload]:
    for entry in entries:
        event = feed.event(entry)
        message = envelope.parse(event, entry.cursor) if event is not None else None
        if message is None or message.exclude == connection.id:
            continue
        room = next((room for room in message.rooms if room in connection.rooms), None)
        if room is not None:
            yield payload_for(message, room)
