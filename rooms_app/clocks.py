"""The connections' clocks: how old one may get, and how long one may be silent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from rooms_app import envelope
from rooms_app.closing import CloseCode
from rooms_app.conf import rooms_settings
from rooms_app.connection import RoomSocket
from rooms_app.cursor import Cursor
from rooms_app.servers import Batch

#: Connections looked at before the loop gets a turn.
_PER_TURN = 1_000


class Clocks:
    """Closes connections that are old enough, and breaks silences, for one hub."""

    def __init__(
        self,
        connections: Mapping[RoomSocket, None],
        *,
        in_turn: Callable[[Callable[[], None]], None],
        position: Callable[[], Cursor | None],
    ) -> None:
        self._connections = connections
        #: Calls something once all that was taken before is delivered: a ping names a position.
        self._in_turn = in_turn
        self._position = position
        self._closing: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Look at them about once a second, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(1.0, rooms_settings().max_age / 20))
            now = loop.time()
            for index, connection in enumerate(tuple(self._connections)):
                if now >= connection.expires_at:
                    self._ask_to_reconnect(connection)
                elif connection.options.ping and connection.is_accepted and connection.guard is not None:
                    self._break_silence(connection, now)
                if index % _PER_TURN == _PER_TURN - 1:
                    await asyncio.sleep(0)

    def _ask_to_reconnect(self, connection: RoomSocket) -> None:
        connection.expires_at = float("inf")
        task = asyncio.get_running_loop().create_task(connection.close(CloseCode.RECONNECT))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _break_silence(self, connection: RoomSocket, now: float) -> None:
        writes, since = connection.silence
        if connection.backlog.writes != writes or not since:
            connection.silence = (connection.backlog.writes, now)
        elif now - since >= connection.options.ping:
            self._in_turn(lambda: self._ping(connection, now))

    def _ping(self, connection: RoomSocket, now: float) -> None:
        position = self._position()
        if position is not None and connection.guard is not None:
            # What a replay or a reset has told it may be ahead of the hub.
            position = Cursor(position.epoch, max(position.id, connection.guard))
        connection.backlog.write(Batch([envelope.system("ping", id=position)]))
        connection.silence = (connection.backlog.writes, now)
