"""What waits for one connection: nothing, as a rule; a bounded backlog while its client is slow."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from rooms_app.servers import Batch, Outlet


class Outbox:
    """Writes to an outlet in order, and keeps what the server has no room for, up to a bound.

    Until the connection is accepted, and while a resume is answered, it is held: frames wait here too.
    """

    __slots__ = (
        "_backlog",
        "_backlog_bytes",
        "_backlog_messages",
        "_is_flowing",
        "_is_held",
        "_max_bytes",
        "_max_messages",
        "_on_overflow",
        "is_shut",
        "outlet",
        "writes",
    )

    def __init__(self, outlet: Outlet, *, max_messages: int, max_bytes: int, on_overflow: Callable[[], None]) -> None:
        self.outlet = outlet
        outlet.on_resume = self._resume
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        #: Called once the bound is passed; the batch that passed it is still in order.
        self._on_overflow = on_overflow
        self._backlog: deque[Batch] = deque()
        self._backlog_messages = 0
        self._backlog_bytes = 0
        self._is_held = True
        #: Not held, not shut, nothing waiting: a write can go straight through.
        self._is_flowing = False
        #: After a close: what is written is dropped.
        self.is_shut = False
        #: How many writes there were; what sees a silence.
        self.writes = 0

    def write(self, batch: Batch) -> None:
        """Send the batch now, or keep it behind what waits already."""
        self.writes += 1
        if self._is_flowing and not self.outlet.paused:
            self.outlet.write(batch)
        elif not self.is_shut:
            self._keep(batch)

    def hold(self) -> None:
        """Keep what is written from now on, until `release`."""
        self._is_held = True
        self._is_flowing = False

    def release(self, *first: str) -> None:
        """Send these texts, then what was held, then go on live."""
        self._is_held = False
        if first and not self.is_shut:
            self._backlog.appendleft(Batch(first))
            self._backlog_messages += len(first)
            self._backlog_bytes += self._backlog[0].size
        self._resume()

    def shut(self) -> None:
        """Drop what is written from now on, and what waits."""
        self.is_shut = True
        self._is_flowing = False
        self._backlog.clear()
        self._backlog_messages = self._backlog_bytes = 0

    def flush(self) -> None:
        """Hand all that waits to the server, whether or not it has room: a close frame comes behind it.

        What is held for a resume is dropped: its client would take it for what follows its cursor.
        """
        while self._backlog and not self._is_held:
            self.outlet.write(self._backlog.popleft())
        self._backlog.clear()
        self._backlog_messages = self._backlog_bytes = 0

    @property
    def is_behind(self) -> bool:
        """Whether the client has not taken what it was sent."""
        return bool(self._backlog) or self.outlet.paused

    def _keep(self, batch: Batch) -> None:
        self._is_flowing = False
        self._backlog.append(batch)
        self._backlog_messages += len(batch)
        self._backlog_bytes += batch.size
        if self._backlog_messages > self._max_messages or self._backlog_bytes > self._max_bytes:
            self._on_overflow()
        elif self.outlet.paused:
            self.outlet.wait()

    def _resume(self) -> None:
        if self._is_held or self.is_shut:
            return
        while self._backlog and not self.outlet.paused:
            batch = self._backlog.popleft()
            self._backlog_messages -= len(batch)
            self._backlog_bytes -= batch.size
            self.outlet.write(batch)
        self._is_flowing = not self._backlog
        if self._backlog:
            self.outlet.wait()
