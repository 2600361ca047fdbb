"""Drain: a process is told to close its connections, spread over a while, and takes no more until it ends."""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rooms_app.cancelling import end, within
from rooms_app.closing import CloseCode
from rooms_app.conf import rooms_settings
from rooms_app.connection import RoomSocket, process_id
from rooms_app.envelope import ROOM_CONTROL
from rooms_app.rooms import EVERYONE
from rooms_app.servers import Outlet

logger = logging.getLogger(__name__)

#: The channel-layer type of a process's answer.
DRAINED = "room.drained"

_PROCESS_ID = re.compile(r"[0-9]{1,20}-[0-9a-f]{1,32}")
#: Connections due within so many seconds are closed in one go …
_STEP = 0.01
#: … but the loop gets a turn after so many.
_PER_TURN = 32

_is_draining = False


def is_draining() -> bool:
    """Whether this process takes no more connections: it was told to drain, or is about to end."""
    return _is_draining


def take_no_more() -> None:
    """Refuse new connections in this process until it ends."""
    global _is_draining
    _is_draining = True


def is_process_id(text: str) -> bool:
    """Whether this has the form of the ids in `sys.hello` and health checks."""
    return _PROCESS_ID.fullmatch(text) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainOrder:
    """What hubs are told: who is to drain, and over how many seconds."""

    #: A process id; None for all processes.
    process: str | None
    window: float
    #: The channel that the process answers on; None for no answer.
    reply_to: str | None = None

    @property
    def is_ours(self) -> bool:
        """Whether this process is meant."""
        return self.process is None or self.process == process_id()

    def message(self) -> dict[str, Any]:
        """What crosses the channel layer: every hub with connections is in the room of everyone."""
        order = {"process": self.process, "window": self.window, "reply_to": self.reply_to}
        return {"type": ROOM_CONTROL, "rooms": [EVERYONE], "history": False, "drain": order}

    @classmethod
    def parse(cls, event: Mapping[str, Any]) -> DrainOrder | None:
        """The order in a control message; None where it is another, or malformed: anyone may `group_send`."""
        order = event.get("drain")
        if not isinstance(order, Mapping):
            return None
        process, window, reply_to = order.get("process"), order.get("window"), order.get("reply_to")
        if not isinstance(window, int | float) or not math.isfinite(window) or window < 0:
            return None
        if not isinstance(process, str | None) or not isinstance(reply_to, str | None):
            return None
        return cls(process=process, window=window, reply_to=reply_to)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    """A process's answer: it closes so many connections."""

    process: str
    connections: int

    def message(self) -> dict[str, Any]:
        """What crosses the channel layer."""
        return {"type": DRAINED, "process": self.process, "connections": self.connections}

    @classmethod
    def parse(cls, event: Mapping[str, Any]) -> Drained | None:
        """The answer in a message; None where it is another, or malformed."""
        process, connections = event.get("process"), event.get("connections")
        if event.get("type") != DRAINED or not isinstance(process, str) or not isinstance(connections, int):
            return None
        return cls(process=process, connections=connections)


class Drain:
    """Closes the connections of one hub."""

    def __init__(self, layer: Any, connections: Collection[RoomSocket]) -> None:
        self._layer = layer
        self._loop = asyncio.get_running_loop()
        self._connections = connections
        self._closing: asyncio.Task[None] | None = None
        self._answers: set[asyncio.Task[None]] = set()

    def heed(self, event: Mapping[str, Any], drains: Sequence[Drain]) -> None:
        """Drain the whole process, if that is what a control message asks for; `drains` are those of all its hubs."""
        order = DrainOrder.parse(event)
        if order is None or not order.is_ours:
            return
        take_no_more()
        # The hubs of other loops too: one that was about to join the room of everyone did not hear it.
        for drain in drains:
            drain._loop.call_soon_threadsafe(drain._begin, order.window)
        drained = Drained(process=process_id(), connections=sum(len(drain._connections) for drain in drains))
        logger.info("draining connections=%s window=%s", drained.connections, order.window)
        if order.reply_to is not None:
            task = self._loop.create_task(self._answer(order.reply_to, drained), name="rooms-drain-answer")
            self._answers.add(task)
            task.add_done_callback(self._answers.discard)

    async def stop(self) -> None:
        """End it, when the hub's last connection has left."""
        if self._closing is not None:
            await end(self._closing)
        if self._answers:
            await asyncio.wait(tuple(self._answers))

    def _begin(self, window: float) -> None:
        # A later order replaces the one under way.
        if self._closing is not None:
            self._closing.cancel()
        self._closing = self._loop.create_task(self._close(window), name="rooms-drain")

    async def _close(self, window: float) -> None:
        """Close all, spread evenly over so many seconds from now."""
        began = self._loop.time()
        connections = tuple(self._connections)
        for index, connection in enumerate(connections):
            ahead = began + window * index / len(connections) - self._loop.time()
            if ahead > _STEP or index % _PER_TURN == _PER_TURN - 1:
                await asyncio.sleep(max(ahead, 0))
            _close(connection)

    async def _answer(self, channel: str, drained: Drained) -> None:
        try:
            async with within(rooms_settings().send_timeout):
                await self._layer.send(channel, drained.message())
        except Exception as error:
            # It drains all the same.
            logger.debug("could not answer a drain error=%r", error)


def close_all(drains: Sequence[Drain]) -> list[Outlet]:
    """Close the connections of the running loop, whose server is about to cut them off; their outlets."""
    take_no_more()
    loop = asyncio.get_running_loop()
    connections = [connection for drain in drains if drain._loop is loop for connection in drain._connections]
    for connection in connections:
        _close(connection)
    return [connection.backlog.outlet for connection in connections]


def _close(connection: RoomSocket) -> None:
    # Not `close`: a connection that is still on its way in is to be accepted first, so that it gets the code.
    try:
        connection.close_now(CloseCode.RESTART)
    except Exception:
        # The others are to be closed too.
        logger.exception("could not close connection=%s", connection.id)
