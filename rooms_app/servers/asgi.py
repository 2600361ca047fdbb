"""Any other ASGI server: its `send`, stepped by hand, so that no client is waited for in the fan-out."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from functools import partial
from typing import Any, ClassVar

from rooms_app.closing import CloseCode
from rooms_app.servers.frames import Batch, cut_reason
from rooms_app.servers.outlet import nothing
from rooms_app.servers.sockets import Tcp

logger = logging.getLogger(__name__)


class AsgiOutlet:
    """Calls `send` for each message, and makes a task only for a call that waits.

    With the `tcp` of a known server the kernel's part is bounded, and who does not read the close is reset.
    """

    __slots__ = ("_queue", "_send", "_task", "_tcp", "lost", "on_resume")

    name: ClassVar[str] = "asgi"

    def __init__(self, send: Callable[[dict[str, Any]], Awaitable[None]], *, tcp: Tcp | None = None) -> None:
        self._send = send
        self._tcp = tcp
        #: What follows the call that waits; at most one batch, or at a close all that was unsent.
        self._queue: deque[dict[str, Any]] = deque()
        self._task: asyncio.Task[None] | None = None
        self.lost = False
        self.on_resume: Callable[[], None] = nothing

    @property
    def paused(self) -> bool:
        return self._task is not None

    @property
    def has_unsent(self) -> bool:
        return self.paused

    def opened(self, send_buffer: int) -> None:
        if self._tcp is not None:
            self._tcp.bound_send_buffer(send_buffer)

    def write(self, batch: Batch) -> None:
        if not self.lost:
            self._queue.extend(batch.asgi)
            self._drain()

    def wait(self) -> None:
        """Nothing to do: the task that waits for the server calls `on_resume` at its end."""

    def close(self, code: int, reason: str, grace: float) -> None:
        if not self.lost:
            self._queue.append(_close_event(code, reason))
            self._drain()
        asyncio.get_running_loop().call_later(grace, self._give_up)

    async def finish(self) -> None:
        while self._task is not None:
            await asyncio.wait([self._task])

    def _drain(self) -> None:
        while self._queue and self._task is None and not self.lost:
            self._step(self._queue.popleft())

    def _step(self, event: dict[str, Any]) -> None:
        try:
            call = self._send(event)
            if isinstance(call, Coroutine):
                call = _Rest(call, call.send(None))
        except StopIteration:
            return
        except RuntimeError:
            # It may need a task to itself, as `asyncio.timeout` does, and have done nothing yet.
            call = self._send(event)
        except Exception as error:
            self._fail(error)
            return
        self._task = asyncio.ensure_future(self._finish(call))

    async def _finish(self, call: Awaitable[None]) -> None:
        try:
            await call
            while self._queue:
                await self._send(self._queue.popleft())
        except Exception as error:
            self._task = None
            self._fail(error)
        else:
            self._task = None
        self.on_resume()

    def _fail(self, error: Exception) -> None:
        self._queue.clear()
        if self.lost or isinstance(error, OSError):
            # ASGI's word for a client that has gone; the application hears of it by `websocket.disconnect`.
            logger.debug("send failed error=%r", error)
            self.lost = True
            return
        # A middleware that fails, or daphne, which refuses the codes 1011 to 1013: the client may still be
        # there, and would wait for ever.
        logger.warning("send failed, the client is asked to reconnect error=%r", error)
        self.lost = True
        event = _close_event(CloseCode.RECONNECT, CloseCode.RECONNECT.reason)
        self._task = asyncio.ensure_future(self._finish(self._send(event)))

    def _give_up(self) -> None:
        if self._task is not None:
            self.lost = True
            self._queue.clear()
            self._task.cancel()
            self._task = None
        if self._tcp is not None:
            self._tcp.reset()


def _close_event(code: int, reason: str) -> dict[str, Any]:
    return {"type": "websocket.close", "code": int(code), "reason": cut_reason(reason)}


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
