"""The bus messages whose workers are killed, and what their handlers send to a room."""

from __future__ import annotations

from rooms_app import WebSocketMessage
from rooms_app.bus import BusMessage

#: Where every effect is announced.
ROOM = "chaos"


class Work(BusMessage):
    """A number that has its effect after a while; for a handler that blocks."""

    MESSAGE_TOPIC = "chaos.work"
    number: int
    #: How long the first run takes, and those after it: a run that was cut off needs no long one again.
    seconds: float = 0.0
    seconds_again: float = 0.0
    #: Whether the worker dies after the run that had the effect, before the broker hears that it is done.
    ends_worker: bool = False


class AsyncWork(Work):
    """The same for an async handler."""

    MESSAGE_TOPIC = "chaos.async-work"


class SafeWork(Work):
    """The same, by way of the outbox."""

    MESSAGE_TOPIC = "chaos.safe-work"
    OUTBOX = True


class Done(WebSocketMessage):
    """A number has had its effect."""

    MESSAGE_ID = "chaos.done"
    number: int
