"""The fan-out of one hub: from its inbox to its connections, in order and in turns of a few milliseconds."""

from __future__ import annotations

import logging
from asyncio import AbstractEventLoop
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from rooms_app import envelope
from rooms_app.closing import CloseCode
from rooms_app.connection import RoomSocket
from rooms_app.cursor import Cursor, Entry
from rooms_app.fanout import Payload, plan
from rooms_app.feeds import Feed, Item
from rooms_app.recent import Recent
from rooms_app.rooms import group_name
from rooms_app.servers import Batch, batches

logger = logging.getLogger(__name__)

#: The fan-out gives the loop back after so many seconds, also inside one big room …
_TURN = 0.002
#: … and looks at the clock after so many writes, or messages read.
_WRITES_PER_LOOK = 8
#: How long what has arrived may wait for more that is known to follow, in seconds.
_PATIENCE = 0.005
#: So many messages are planned and joined together at most: their order and their unions are worked out in one go.
_MESSAGES_PER_PLAN = 256


class Outflow:
    """Delivers what is taken, to the members of rooms."""

    def __init__(
        self,
        loop: AbstractEventLoop,
        *,
        members: Callable[[str], Collection[RoomSocket]],
        control: Callable[[Mapping[str, Any], Cursor | None], None],
        counts: Counter[str],
    ) -> None:
        #: Reads items; None until the hub has one.
        self.feed: Feed | None = None
        #: Everything up to this place in history has been written to the connections it was due to.
        self.delivered: Cursor | None = None
        self._loop = loop
        self._members = members
        #: Is told of what hubs say to each other, and its place in history if it has one.
        self._control = control
        self._counts = counts
        self._inbox: list[Item] = []
        self._recent = Recent()
        #: The fan-out under way, where it gave the loop back in the middle.
        self._under_way: Iterator[int] | None = None
        self._is_scheduled = False
        self._expects_more = False
        #: Since when the oldest in the inbox waits, on the loop's clock.
        self._waiting_since = 0.0
        #: Connections for which some frames are not: those whose `since` is being answered, or was a moment ago.
        self._guarded: dict[RoomSocket, None] = {}

    def take(self, item: Item) -> None:
        """Deliver an item, together with those that arrive in the same turn."""
        self._inbox.append(item)
        if not self._is_scheduled:
            self._is_scheduled = True
            self._waiting_since = self._loop.time()
            self._loop.call_soon(self._deliver)

    def expect_more(self) -> None:
        """More is about to be taken: wait for it a moment, since what is delivered together is cheaper."""
        if self._under_way is None:
            self._expects_more = True

    def guard(self, connection: RoomSocket) -> None:
        """Look at each frame's place in history before it is written to this connection."""
        self._guarded[connection] = None

    def forget(self, connection: RoomSocket) -> None:
        """The connection has gone."""
        self._guarded.pop(connection, None)

    def reached(self, position: Cursor) -> None:
        """Everything up to this place in history has been delivered."""
        self.delivered = position
        for connection in tuple(self._guarded):
            if connection.guard is not None and connection.guard <= position.id:
                del self._guarded[connection]

    def _deliver(self) -> None:
        """Write what has arrived, for one turn; what is left then waits for the next."""
        now = self._loop.time()
        if self._expects_more and now - self._waiting_since < _PATIENCE:
            self._expects_more = False
            self._loop.call_soon(self._deliver)
            return
        until = now + _TURN
        try:
            while self._inbox or self._under_way is not None:
                if self._under_way is None:
                    items, self._inbox = self._inbox, []
                    self._under_way = self._write_all(items)
                for _ in self._under_way:
                    if self._loop.time() > until:
                        self._loop.call_soon(self._deliver)
                        return
                self._under_way = None
        except Exception:
            # A batch that can't be written must not keep those after it from being.
            logger.exception("a batch of messages was dropped")
            self._counts["dropped_batches"] += 1
            self._under_way = None
            self._loop.call_soon(self._deliver)
            return
        self._is_scheduled = False

    def _write_all(self, items: Sequence[Item]) -> Iterator[int]:
        """Write what has arrived, with a place to pause every so many writes."""
        messages: list[envelope.Received] = []
        for index, item in enumerate(items, start=1):
            if callable(item):
                # To be done when all before it is delivered.
                yield from self._write_messages(messages)
                messages = []
                item()
                continue
            message = self._read(item)
            if message is not None:
                messages.append(message)
            if len(messages) >= _MESSAGES_PER_PLAN:
                yield from self._write_messages(messages)
                messages = []
            if index % _WRITES_PER_LOOK == 0:
                yield index
        yield from self._write_messages(messages)

    def _write_messages(self, messages: Sequence[envelope.Received]) -> Iterator[int]:
        if not messages:
            return
        self._counts["messages"] += len(messages)
        for connections, payloads in plan(messages, self._members):
            yield 0
            # A snapshot: while the loop has a turn, connections come and go.
            yield from self._write(tuple(connections), payloads)
        cursor = next((message.cursor for message in reversed(messages) if message.cursor is not None), None)
        if cursor is not None:
            self.reached(cursor)

    def _write(self, connections: Collection[RoomSocket], payloads: Sequence[Payload]) -> Iterator[int]:
        guarded: Collection[RoomSocket] = ()
        if self._guarded:
            guarded = [connection for connection in connections if connection in self._guarded]
            if guarded:
                connections = [connection for connection in connections if connection not in self._guarded]
        for batch in batches(payloads):
            for index, connection in enumerate(connections, start=1):
                self._put(connection, batch)
                if index % _WRITES_PER_LOOK == 0:
                    yield index
            self._counts["deliveries"] += len(connections) * len(batch)
        for connection in guarded:
            for payload in payloads:
                if not payload.id or connection.guard is None or payload.id > connection.guard:
                    self._put(connection, Batch([payload.data], id=payload.id, is_volatile=payload.is_volatile))
                    self._counts["deliveries"] += 1
            yield 0

    def _put(self, connection: RoomSocket, batch: Batch) -> None:
        try:
            connection.backlog.write(batch)
        except Exception:
            logger.exception("could not write connection=%s", connection.id)
            connection.close_now(CloseCode.ERROR)

    def _read(self, item: dict[str, Any] | Entry) -> envelope.Received | None:
        try:
            event = self.feed.event(item) if self.feed is not None else None
        except Exception as error:
            # Anyone may publish; another key, or another serializer, too.
            logger.debug("could not read a message error=%r", error)
            self._counts["malformed"] += 1
            return None
        if event is None:
            return None
        kind = event.get("type")
        if kind == envelope.ROOM_CONTROL:
            self._control(event, item.cursor if isinstance(item, Entry) else None)
            return None
        if kind != envelope.ROOM_MESSAGE:
            self._counts["ignored"] += 1
            return None
        message = envelope.parse(event, item.cursor if isinstance(item, Entry) else None)
        if message is None:
            self._counts["malformed"] += 1
            return None
        if message.uid is not None and not self._recent.add(message.uid):
            self._counts["duplicates"] += 1
            return None
        if message.retain_as is not None and self.feed is not None and isinstance(item, Entry):
            for room in message.rooms:
                self.feed.keep(group_name(room), message.retain_as, item)
        return message
