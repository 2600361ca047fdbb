"""What waits for one connection: nothing, as a rule; a bounded backlog while its client is slow."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from rooms_app.servers import Batch, Outlet


class Backlog:
    """Writes to an outlet in order, and keeps what the server has no room for, up to a bound.

    Until the connection is accepted, and while a resume is answered, it is held: frames wait here too.
    """

    __slots__ = (
        "_first",
        "_is_flowing",
        "_is_held",
        "_max_bytes",
        "_max_messages",
        "_on_overflow",
        "_waiting",
        "_waiting_bytes",
        "_waiting_messages",
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
        self._waiting: deque[Batch] = deque()
        self._waiting_messages = 0
        self._waiting_bytes = 0
        #: A replay, made as the connection takes it; it comes before the backlog, and does not count against the bound.
        self._first: Iterator[Batch] = iter(())
        self._is_held = True
        #: Not held, not shut, nothing waiting: a write can go straight through.
        self._is_flowing = False
        #: After a close: what is written is dropped.
        self.is_shut = False
        #: How many writes there were; what sees a silence.
        self.writes = 0

    def write(self, batch: Batch) -> None:
        """Send the batch now, or keep it behind what waits already; a volatile one goes now or never."""
        self.writes += 1
        if self._is_flowing and not self.outlet.paused:
            self.outlet.write(batch)
        elif not self.is_shut and (self._is_held or not batch.is_volatile):
            self._keep(batch)

    def hold(self) -> None:
        """Keep what is written from now on, until `release`."""
        self._is_held = True
        self._is_flowing = False

    def put_first(self, batches: Iterable[Batch], *, after: int = 0) -> None:
        """Have these sent before all that is held, of which what is not after that place in history is dropped."""
        self._first = chain(self._first, batches)
        kept = [batch for batch in self._waiting if not 0 < batch.id <= after]
        if len(kept) < len(self._waiting):
            self._waiting = deque(kept)
            self._waiting_messages = sum(map(len, kept))
            self._waiting_bytes = sum(batch.size for batch in kept)

    def release(self, *first: str) -> None:
        """Send these texts, then what was put first, then what was held, then go on live."""
        if first:
            self._first = chain([Batch(first)], self._first)
        self._is_held = False
        self._resume()

    def shut(self) -> None:
        """Drop what is written from now on, and what waits."""
        self.is_shut = True
        self._is_flowing = False
        self.drop()

    def flush(self) -> None:
        """Hand all that waits to the server, whether or not it has room: a close frame comes behind it.

        While a resume is answered it is dropped instead: its client would take it for what follows its cursor.
        """
        if not self._is_held and next(self._first, None) is None:
            while self._waiting:
                self.outlet.write(self._waiting.popleft())
        self.drop()

    @property
    def is_behind(self) -> bool:
        """Whether the client has not taken what it was sent."""
        return bool(self._waiting) or self.outlet.paused

    def _keep(self, batch: Batch) -> None:
        self._is_flowing = False
        self._waiting.append(batch)
        self._waiting_messages += len(batch)
        self._waiting_bytes += batch.size
        if self._waiting_messages > self._max_messages or self._waiting_bytes > self._max_bytes:
            self._on_overflow()
        elif self.outlet.paused:
            self.outlet.wait()

    def _resume(self) -> None:
        if self._is_held or self.is_shut:
            return
        while not self.outlet.paused:
            batch = next(self._first, None)
            if batch is None:
                if not self._waiting:
                    self._is_flowing = True
                    return
                batch = self._waiting.popleft()
                self._waiting_messages -= len(batch)
                self._waiting_bytes -= batch.size
            self.outlet.write(batch)
        self._is_flowing = False
        self.outlet.wait()

    def drop(self) -> None:
        """Forget what waits."""
        self._first = iter(())
        self._waiting.clear()
        self._waiting_messages = self._waiting_bytes = 0
