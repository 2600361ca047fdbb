"""What a client that gave `since` is answered: a replay, or one reset; and what rooms keep for those who join."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from rooms_app import envelope
from rooms_app.connection import RoomSocket
from rooms_app.cursor import Entry
from rooms_app.fanout import Payload, payload_for
from rooms_app.feeds import Feed, Replay
from rooms_app.inbound import ClientOptions
from rooms_app.outflow import Outflow
from rooms_app.rooms import group_name
from rooms_app.servers import Batch, batches


class Answers:
    """Answers the `since` of one hub's connections. `counts` tells how many got replays, and how many resets."""

    def __init__(self, outflow: Outflow, *, counts: Counter[str]) -> None:
        self._outflow = outflow
        self._counts = counts

    async def answer(self, connection: RoomSocket, feed: Feed) -> None:
        """Answer it for the rooms that the connection is in. Raises `RoomsUnavailable`."""
        since = connection.options.since or ""
        rooms = sorted(connection.rooms)
        groups = [group_name(room) for room in rooms]
        if feed.epoch is None:
            is_first = since == ClientOptions.LATEST
            connection.answer([Batch([envelope.no_history_answer(is_first=is_first)])])
        elif since == ClientOptions.LATEST:
            await feed.sync(groups)
            answered = asyncio.get_running_loop().create_future()
            self._outflow.take(lambda: self._answer_latest(connection, feed, rooms, answered))
            await answered
        else:
            found = await feed.replay(groups, since)
            if not connection.rooms <= set(rooms):
                # Of a room joined meanwhile, live messages would be taken for replayed ones.
                await self.answer(connection, feed)
                return
            if found is None:
                connection.answer([Batch([envelope.no_history_answer(is_first=False)])])
                return
            is_complete = found.reason is None
            self._counts["replays" if is_complete else "resets"] += 1
            retained = retained_frames(feed, connection, rooms, only_unkept=is_complete)
            if is_complete:
                frames = _replay(feed, connection, found)
            else:
                frames = iter([Batch([envelope.system("reset", id=found.cursor, reason=found.reason)])])
            connection.answer(chain(retained, frames), guard=found.cursor.id)

    def _answer_latest(
        self, connection: RoomSocket, feed: Feed, rooms: Sequence[str], answered: asyncio.Future[None]
    ) -> None:
        """Now that all before the position is written: what follows is after it."""
        if answered.done():
            return
        answered.set_result(None)
        for batch in retained_frames(feed, connection, rooms, only_unkept=False):
            connection.backlog.write(batch)
        connection.answer_behind(envelope.system("resumed", id=self._outflow.delivered, replayed=0))


def replay_frames(feed: Feed, connection: RoomSocket, entries: Iterable[Entry]) -> Iterator[Batch]:
    """The frames of what a connection missed, made as it takes them."""
    return batches(_payloads(feed, connection, entries))


def _replay(feed: Feed, connection: RoomSocket, found: Replay) -> Iterator[Batch]:
    """The same, and what ends them. Not all that is kept becomes a frame: processes are told things, too."""
    replayed = 0
    for batch in replay_frames(feed, connection, found.entries):
        replayed += len(batch)
        yield batch
    yield Batch([envelope.system("resumed", id=found.cursor, replayed=replayed)])


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
