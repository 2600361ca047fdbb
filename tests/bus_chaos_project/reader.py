"""One connection in the room, behind a real hub: it counts what it is sent."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from typing import Self

from tests.bus_chaos_project.messages import ROOM, Done
from tests.clients import OpenRoom, client, signed_in

_FOREVER = 1e6


class Reader:
    """Reads in a thread of its own until the end of the block."""

    def __init__(self) -> None:
        #: How often each number was announced.
        self.numbers: Counter[int] = Counter()
        #: All else, by MESSAGE_ID: a reset would be here.
        self.others: Counter[str] = Counter()
        self._loop = asyncio.new_event_loop()
        self._is_open = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reader", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._is_open.wait(10), "the reader could not join the room"
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            try:
                runner.run(self._read())
            except asyncio.CancelledError:
                return

    async def _read(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        connection = client("/?since=latest", application=signed_in(OpenRoom, rooms=ROOM))
        await connection.open()
        try:
            while True:
                frame = await connection.receive_json_from(timeout=_FOREVER)
                if frame["MESSAGE_ID"] == Done.MESSAGE_ID:
                    self.numbers[frame["message"]["number"]] += 1
                else:
                    self.others[frame["MESSAGE_ID"]] += 1
                    # The answer to `since`: it is in the room now.
                    self._is_open.set()
        finally:
            await connection.disconnect(timeout=10)
