"""The portable outlet: any ASGI `send`, stepped by hand, and given to a task only where it waits."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from rooms_app.servers import Batch
from rooms_app.servers.asgi import AsgiOutlet
from rooms_app.servers.sockets import Tcp
from tests.waiting import until

Event = dict[str, Any]
Sending = Callable[[Event], Awaitable[None]]


@pytest.fixture(autouse=True)
async def nothing_left() -> AsyncIterator[None]:
    """No coroutine that nobody awaited (pytest makes the warning an error), and no task."""
    yield
    gc.collect()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


class Sink:
    """A `send` that awaits something first, and then keeps what it was given."""

    def __init__(self, waits: Callable[[], Awaitable[Any]] | None = None) -> None:
        self.waits = waits
        self.events: list[Event] = []
        self.calls = 0

    async def __call__(self, event: Event) -> None:
        self.calls += 1
        if self.waits is not None:
            await self.waits()
        self.events.append(event)

    @property
    def texts(self) -> list[str]:
        return [event["text"] for event in self.events if event["type"] == "websocket.send"]

    @property
    def codes(self) -> list[int]:
        return [event["code"] for event in self.events if event["type"] == "websocket.close"]


async def as_in_the_fan_out(call: Callable[..., None], *arguments: Any) -> None:
    """Call it where the hub writes: from the loop itself, outside any task."""
    asyncio.get_running_loop().call_soon(call, *arguments)
    await asyncio.sleep(0)


class Gate:
    """Something to wait for."""

    def __init__(self) -> None:
        self.event = asyncio.Event()

    async def __call__(self) -> None:
        await self.event.wait()


async def test_a_send_that_does_not_wait_makes_no_task() -> None:
    """The common case: it is done when `write` returns."""
    sink = Sink()
    outlet = AsgiOutlet(sink)
    before = asyncio.all_tasks()
    outlet.write(Batch(["a", "b"]))
    outlet.write(Batch([b"c"]))
    assert [event.get("text", event.get("bytes")) for event in sink.events] == ["a", "b", b"c"]
    assert (asyncio.all_tasks(), outlet.paused) == (before, False)


async def test_what_follows_a_send_that_waits_queues_behind_it() -> None:
    """In order, and `on_resume` is called once all of it is sent."""
    gate = Gate()
    sink = Sink(gate)
    outlet = AsgiOutlet(sink)
    resumed: list[list[str]] = []
    outlet.on_resume = lambda: resumed.append(sink.texts)
    await as_in_the_fan_out(outlet.write, Batch(["a", "b"]))
    await as_in_the_fan_out(outlet.write, Batch(["c"]))
    assert (outlet.paused, sink.calls, sink.events) == (True, 1, [])
    gate.event.set()
    await until(lambda: resumed, what="the resume")
    assert resumed == [["a", "b", "c"]]
    assert not outlet.paused


async def with_timeout() -> None:
    async with asyncio.timeout(5):
        await asyncio.sleep(0.001)


async def with_lock() -> None:
    lock = asyncio.Lock()
    await lock.acquire()
    asyncio.get_running_loop().call_soon(lock.release)
    async with lock:
        await asyncio.sleep(0)


async def with_thread() -> None:
    await asyncio.to_thread(int)


async def with_several() -> None:
    await asyncio.gather(asyncio.sleep(0), asyncio.wait_for(asyncio.sleep(0.001), 5))
    await asyncio.sleep(0)


WAITS: dict[str, Callable[[], Awaitable[Any]]] = {
    "a turn of the loop": lambda: asyncio.sleep(0),
    "time": lambda: asyncio.sleep(0.001),
    "a future": lambda: asyncio.wrap_future(
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), asyncio.get_running_loop())
    ),
    "a timeout": with_timeout,
    "a lock": with_lock,
    "a thread": with_thread,
    "several": with_several,
}


@pytest.mark.parametrize("waits", WAITS.values(), ids=WAITS)
@pytest.mark.parametrize("is_in_task", [True, False], ids=["from a task", "from the loop"])
async def test_a_send_may_wait_for_anything(waits: Callable[[], Awaitable[Any]], is_in_task: bool) -> None:
    """Also for what needs a task to itself, such as `asyncio.timeout`."""
    sink = Sink(waits)
    outlet = AsgiOutlet(sink)
    expected = []
    for number in range(5):
        batch = Batch([f"{number}a", f"{number}b"])
        expected += batch.payloads
        if is_in_task:
            outlet.write(batch)
        else:
            await as_in_the_fan_out(outlet.write, batch)
    await until(lambda: sink.texts == expected, what="all of it, once and in order")
    await until(lambda: not outlet.paused, what="the end of the task")


async def test_a_send_need_not_be_a_coroutine_function() -> None:
    """A server in another language returns awaitables of its own."""
    sink = Sink()

    def send(event: Event) -> Awaitable[None]:
        return asyncio.ensure_future(sink(event))

    outlet = AsgiOutlet(send)
    outlet.write(Batch(["a", "b", "c"]))
    await until(lambda: sink.texts == ["a", "b", "c"], what="all of it")
    await outlet.finish()


class Gone:
    """A `send` that fails from some call on, at once or after a wait."""

    def __init__(self, error: Exception, *, waits: bool, passes: int = 1) -> None:
        self.error = error
        self.does_wait = waits
        self.passes = passes
        self.sink = Sink()

    async def __call__(self, event: Event) -> None:
        if self.does_wait:
            await asyncio.sleep(0)
        self.passes -= 1
        if self.passes < 0 and event["type"] == "websocket.send":
            raise self.error
        await self.sink(event)


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "after a wait"])
async def test_a_client_that_has_gone_is_lost_and_no_one_is_disturbed(
    waits: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """`OSError` is what ASGI says a server raises then. Nothing is kept for it, and nothing logged."""
    gone = Gone(ConnectionResetError("gone"), waits=waits)
    outlet, other = AsgiOutlet(gone), Sink()
    neighbour = AsgiOutlet(other)
    resumed: list[bool] = []
    outlet.on_resume = lambda: resumed.append(True)
    with caplog.at_level(logging.INFO):
        for number in range(4):
            for each in (outlet, neighbour):
                await as_in_the_fan_out(each.write, Batch([str(number)]))
        await outlet.finish()
    assert outlet.lost
    assert not outlet.paused
    assert (gone.sink.texts, gone.sink.codes) == (["0"], [])
    assert other.texts == ["0", "1", "2", "3"]
    assert len(outlet._queue) == 0
    assert caplog.records == []
    assert bool(resumed) == waits


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "after a wait"])
@pytest.mark.parametrize("error", [ValueError("broken"), RuntimeError("broken")], ids=repr)
async def test_a_send_that_fails_otherwise_asks_the_client_to_reconnect(
    error: Exception, waits: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The client is perhaps still there, and must not wait in silence."""
    gone = Gone(error, waits=waits)
    outlet = AsgiOutlet(gone)
    for text in ("0", "1", "2"):
        await as_in_the_fan_out(outlet.write, Batch([text]))
    await outlet.finish()
    assert (outlet.lost, gone.sink.texts, gone.sink.codes) == (True, ["0"], [4011])
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_a_server_that_refuses_the_code_gets_one_that_it_takes() -> None:
    """daphne's `send` raises for 1011 to 1013."""
    sink = Sink()

    async def send(event: Event) -> None:
        if event.get("code") == 1013:
            raise ValueError("invalid close code")
        await sink(event)

    outlet = AsgiOutlet(send)
    outlet.close(1013, "busy", 1.0)
    await outlet.finish()
    assert sink.codes == [4011]


async def test_the_close_comes_behind_what_is_unsent() -> None:
    """And `finish` returns when the server has it."""
    gate = Gate()
    sink = Sink(gate)
    outlet = AsgiOutlet(sink)
    outlet.write(Batch(["a", "b"]))
    outlet.close(4008, "slow", 5.0)
    finishing = asyncio.ensure_future(outlet.finish())
    await asyncio.sleep(0.01)
    assert not finishing.done()
    gate.event.set()
    await asyncio.wait_for(finishing, 5)
    assert (sink.texts, sink.events[-1]) == (
        ["a", "b"],
        {"type": "websocket.close", "code": 4008, "reason": "slow"},
    )


class FakeTcp(Tcp):
    """What a known server has under its `send`."""

    def __init__(self) -> None:
        self.is_reset = False
        self.send_buffer = 0

    def bound_send_buffer(self, size: int) -> None:
        self.send_buffer = size

    def reset(self) -> None:
        self.is_reset = True


async def test_after_the_grace_it_gives_up() -> None:
    """The `send` that waits is cancelled, and may clean up; the rest is dropped; the connection is reset."""
    cleaned: list[str] = []
    tcp = FakeTcp()

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append("up")

    sink = Sink(waits)
    outlet = AsgiOutlet(sink, tcp=tcp)
    await as_in_the_fan_out(outlet.write, Batch(["a", "b"]))
    outlet.close(4008, "slow", 0.05)
    await asyncio.wait_for(outlet.finish(), 5)
    await until(lambda: cleaned, what="the clean-up")
    assert (sink.calls, sink.events, tcp.is_reset, outlet.lost, outlet.paused) == (1, [], True, True, False)
    outlet.write(Batch(["c"]))
    await asyncio.sleep(0)
    assert sink.calls == 1


async def test_a_close_that_is_taken_is_followed_by_a_reset_too() -> None:
    """The server has the close frame, but the client may never read it."""
    tcp = FakeTcp()
    outlet = AsgiOutlet(Sink(), tcp=tcp)
    outlet.opened(1234)
    outlet.close(1000, "", 0.02)
    await until(lambda: tcp.is_reset, what="the reset")
    assert tcp.send_buffer == 1234
