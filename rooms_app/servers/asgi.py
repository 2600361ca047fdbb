"""Any other ASGI server: its `send`, stepped by hand, so that no client is waited for in the fan-out."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from functools import partial
from typing import Any, ClassVar

from rooms_app.servers.frames import Batch
from rooms_app.servers.outlet import nothing

logger = logging.getLogger(__name__)


class AsgiOutlet:
    """Calls `send` for each message, and makes a task only for a call that waits."""

    __slots__ = ("_queue", "_send", "_task", "lost", "on_resume")

    name: ClassVar[str] = "asgi"

    def __init__(self, send: Callable[[Any], Awaitable[None]]) -> None:
        self._send = send
        #: What follows the call that waits; at most one batch and a close.
        self._queue: deque[dict[str, Any]] = deque()
        self._task: asyncio.Task[None] | None = None
        self.lost = False
        self.on_resume: Callable[[], None] = nothing

    @property
    def paused(self) -> bool:
        return self._task is not None

    def opened(self, send_buffer: int) -> None:
        """Nothing: the socket is out of reach behind ASGI."""

    def write(self, batch: Batch) -> None:
        self._queue.extend(batch.asgi)
        self._drain()

    def wait(self) -> None:
        """Nothing to do: the task that waits for the server calls `on_resume` at its end."""

    def close(self, code: int, reason: str, grace: float) -> None:
        self._queue.append({"type": "websocket.close", "code": code, "reason": reason})
        self._drain()
        if self._task is not None:
            asyncio.get_running_loop().call_later(grace, self._give_up)

    def _drain(self) -> None:
        while self._queue and self._task is None and not self.lost:
            self._step(self._send(self._queue.popleft()))

    def _step(self, call: Awaitable[None]) -> None:
        if not isinstance(call, Coroutine):
            self._task = asyncio.ensure_future(self._finish(call))
            return
        try:
            waits_for = call.send(None)
        except StopIteration:
            return
        except Exception as error:
            self._fail(error)
            return
        self._task = asyncio.ensure_future(self._finish(_Rest(call, waits_for)))

    async def _finish(self, call: Awaitable[None]) -> None:
        try:
            await call
            while self._queue:
                await self._send(self._queue.popleft())
        except Exception as error:
            self._fail(error)
        finally:
            self._task = None
        self.on_resume()

    def _fail(self, error: Exception) -> None:
        # What a server raises for a client that has gone differs by server; the application hears of it by
        # `websocket.disconnect`.
        logger.debug("send failed error=%r", error)
        self.lost = True
        self._queue.clear()

    def _give_up(self) -> None:
        if self._task is not None:
            self.lost = True
            self._queue.clear()
            self._task.cancel()


class _Rest:
    """The rest of a coroutine that was stepped once by hand, as an awaitable: it goes on where it waited."""

    __slots__ = ("_call", "_waits_for")

    def __init__(self, call: Coroutine[Any, Any, None], waits_for: Any) -> None:
        self._call = call
        self._waits_for = waits_for

    def __await__(self) -> Generator[Any, Any, None]:
        waits_for = self._waits_for
        while True:
            try:
                value = yield waits_for
            except BaseException as error:
                advance = partial(self._call.throw, error)
            else:
                advance = partial(self._call.send, value)
            try:
                waits_for = advance()
            except StopIteration:
                return
