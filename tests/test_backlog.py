"""The backlog: nothing waits as a rule, and what waits is in order and bounded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rooms_app import RoomSocket, use_ws_manager, websocket_endpoint
from rooms_app.backlog import Backlog
from rooms_app.hub import hubs
from rooms_app.routing import websocket_application
from rooms_app.servers import Batch
from tests.app.messages import Note
from tests.clients import Client, client, the_hub
from tests.waiting import until


class Server:
    """An outlet that takes so many batches, and says when it has room again."""

    name = "test"
    lost = False

    def __init__(self, room: int = 1_000_000) -> None:
        self.on_resume: Callable[[], None] = lambda: None
        self.room = room
        self.taken: list[str | bytes] = []
        self.is_waited_for = False

    @property
    def paused(self) -> bool:
        return self.room <= 0

    def write(self, batch: Batch) -> None:
        self.taken.extend(batch.payloads)
        self.room -= 1

    def wait(self) -> None:
        assert self.paused, "nobody calls back who has room"
        self.is_waited_for = True

    def resume(self, room: int = 1_000_000) -> None:
        """Have room again, and say so as the real ones do: only to those who wait."""
        self.room = room
        if self.is_waited_for:
            self.is_waited_for = False
            self.on_resume()

    def opened(self, send_buffer: int) -> None: ...

    def close(self, code: int, reason: str, grace: float) -> None: ...

    async def finish(self) -> None: ...


class Case:
    """A backlog, its server, and how often it overflowed."""

    def __init__(self, *, room: int = 1_000_000, max_messages: int = 10, max_bytes: int = 1000) -> None:
        self.server = Server(room)
        self.overflows = 0
        self.backlog = Backlog(self.server, max_messages=max_messages, max_bytes=max_bytes, on_overflow=self._overflow)

    def _overflow(self) -> None:
        self.overflows += 1

    def write(self, *payloads: str) -> None:
        self.backlog.write(Batch(payloads))


def released(**kwargs: Any) -> Case:
    """The backlog of an accepted connection."""
    (case := Case(**kwargs)).backlog.release()
    return case


def test_what_is_written_before_the_accept_comes_after_the_first_words() -> None:
    """Held frames follow `sys.hello`, in order."""
    case = Case()
    case.write("1")
    case.write("2", "3")
    assert case.server.taken == []
    assert case.backlog.is_behind
    case.backlog.release("hello", "resumed")
    case.write("4")
    assert case.server.taken == ["hello", "resumed", "1", "2", "3", "4"]
    assert not case.backlog.is_behind


def test_what_a_full_server_does_not_take_waits_in_order() -> None:
    """And goes as far as there is room each time."""
    case = released(room=1)
    for number in range(5):
        case.write(str(number))
    assert case.server.taken == ["0"]
    case.server.resume(room=2)
    assert case.server.taken == ["0", "1", "2"]
    case.server.resume()
    case.write("5")
    assert case.server.taken == ["0", "1", "2", "3", "4", "5"]
    assert case.overflows == 0


def test_nothing_overtakes_what_waits_when_the_server_has_room_but_has_not_said_so() -> None:
    """uvicorn's event is set a turn of the loop before its waiter runs."""
    case = released(room=1)
    case.write("0")
    case.write("1")
    case.server.room = 10
    case.write("2")
    assert case.server.taken == ["0"]
    case.server.resume()
    assert case.server.taken == ["0", "1", "2"]


def test_a_server_filled_by_others_is_waited_for() -> None:
    """An endpoint's own `send_text` fills it too."""
    case = released(room=0)
    case.write("0")
    assert case.server.is_waited_for
    case.server.resume()
    assert case.server.taken == ["0"]
    case.server.room = 0
    case.backlog.hold()
    case.backlog.release("answer")
    assert case.server.is_waited_for
    case.server.resume()
    assert case.server.taken == ["0", "answer"]


def test_room_that_comes_while_it_is_held_is_used_at_the_release() -> None:
    """The resume of the server is not lost with the hold."""
    case = released(room=1)
    case.write("0")
    case.write("1")
    case.backlog.hold()
    case.server.resume()
    assert case.server.taken == ["0"]
    case.backlog.release("answer")
    assert case.server.taken == ["0", "answer", "1"]


@pytest.mark.parametrize(
    ("fitting", "one_more"),
    [(["x"] * 10, "x"), (["x" * 500, "x" * 500], "x"), (["ü" * 500], "x"), ([], "x" * 1001)],
    ids=["messages", "bytes", "bytes, not characters", "one message larger than the bound"],
)
def test_the_bound_is_in_messages_and_in_bytes(fitting: list[str], one_more: str) -> None:
    """Up to it all is kept; what passes it is still in order, behind the rest."""
    case = released(room=0)
    for payload in fitting:
        case.write(payload)
    assert case.overflows == 0
    case.write(one_more)
    assert case.overflows == 1
    case.backlog.flush()
    assert case.server.taken == [*fitting, one_more]


def test_the_bound_counts_what_waits_not_what_passed() -> None:
    """A client that is slow now and then is not closed for all that it ever had to wait for."""
    case = released(room=0)
    for _ in range(20):
        for _ in range(10):
            case.write("x" * 100)
        case.server.resume(room=10)
        case.server.room = 0
    assert (case.overflows, len(case.server.taken)) == (0, 200)
    for _ in range(10):
        case.write("x" * 100)
    case.backlog.flush()
    case.write("x")
    assert case.overflows == 0


def test_a_server_with_room_gets_messages_of_any_size() -> None:
    """The bound is for what waits."""
    case = released()
    case.write("x" * 100_000)
    case.write(*["x"] * 100)
    assert case.overflows == 0


def test_after_the_end_nothing_is_written_or_kept() -> None:
    """Neither live frames nor a late release."""
    case = released(room=0)
    case.write("0")
    case.backlog.shut()
    case.write("1")
    case.server.resume()
    case.backlog.release("hello")
    case.backlog.flush()
    assert case.server.taken == []
    assert case.backlog.is_shut


def test_a_close_drops_what_is_held_for_a_resume() -> None:
    """Live frames before the missed ones: the client would resume behind them next time."""
    case = released()
    case.write("0")
    case.backlog.hold()
    case.write("1")
    case.backlog.flush()
    assert case.server.taken == ["0"]


def frame(number: int) -> Batch:
    """A live frame, whose number is its place in history."""
    return Batch([str(number)], id=number)


def test_a_replay_comes_before_what_was_held_and_is_not_repeated_by_it() -> None:
    """What it covers is dropped of what was held; frames without a place are not."""
    case = released()
    case.backlog.hold()
    for number in (3, 4):
        case.backlog.write(frame(number))
    case.write("raw")
    for number in (5, 6):
        case.backlog.write(frame(number))
    case.backlog.put_first([Batch(["1", "2", "3"]), Batch(["4", "5"]), Batch(["resumed"])], after=5)
    assert case.server.taken == []
    case.backlog.release("hello")
    case.backlog.write(frame(7))
    assert case.server.taken == ["hello", "1", "2", "3", "4", "5", "resumed", "raw", "6", "7"]


def test_a_replay_is_made_as_it_is_taken_and_does_not_count_against_the_bound() -> None:
    """However long it is: a slow client's replay is not in memory twice."""
    case = released(room=1)
    made: list[int] = []

    def replay() -> Iterator[Batch]:
        for number in range(1_000):
            made.append(number)
            yield Batch([str(number)])

    case.backlog.hold()
    case.backlog.put_first(replay())
    case.backlog.release()
    assert (case.server.taken, made) == (["0"], [0])
    case.server.resume(room=10)
    assert len(made) == 11
    case.server.resume()
    assert case.server.taken == [str(number) for number in range(1_000)]
    assert case.overflows == 0


def test_live_frames_during_a_replay_count_against_the_bound() -> None:
    """A client that can't follow must not take memory without end."""
    case = released(room=0)
    case.backlog.hold()
    case.backlog.put_first([Batch(["replay"])])
    case.backlog.release()
    for number in range(10):
        case.write(str(number))
    assert case.overflows == 0
    case.write("one too many")
    assert case.overflows == 1


def test_what_a_replay_covers_does_not_count_any_more() -> None:
    """In messages and in bytes."""
    case = released(room=0)
    case.backlog.hold()
    for number in range(1, 11):
        case.backlog.write(Batch(["x" * 100], id=number))
    case.backlog.put_first([], after=10)
    for _ in range(10):
        case.write("x" * 100)
    assert case.overflows == 0
    case.write("x")
    assert case.overflows == 1


def test_a_close_in_the_middle_of_a_replay_drops_the_rest() -> None:
    """And the live frames behind it: the client would resume after them, and miss what is between."""
    case = released(room=0)
    case.backlog.hold()
    case.backlog.put_first([Batch(["1"]), Batch(["2"])])
    case.backlog.release()
    case.write("live")
    case.server.resume(room=1)
    assert case.server.taken == ["1"]
    case.backlog.flush()
    assert case.server.taken == ["1"]


def test_two_answers_keep_their_order() -> None:
    """What is put first later comes after what was put first before."""
    case = Case()
    case.backlog.put_first([Batch(["1"])])
    case.backlog.put_first([Batch(["2"])])
    case.backlog.release()
    assert case.server.taken == ["1", "2"]


def test_a_volatile_frame_goes_at_once_or_not_at_all() -> None:
    """A client that is behind goes without, and is not closed for it."""
    case = released(room=1)
    case.backlog.write(Batch(["now"], is_volatile=True))
    for _ in range(100):
        case.backlog.write(Batch(["too late"], is_volatile=True))
    assert case.overflows == 0
    assert not case.server.is_waited_for
    case.write("kept")
    case.backlog.write(Batch(["behind what waits"], is_volatile=True))
    case.server.resume()
    case.backlog.write(Batch(["again"], is_volatile=True))
    assert case.server.taken == ["now", "kept", "again"]


def test_a_volatile_frame_before_the_accept_is_held_as_any_other() -> None:
    """The client is not slow, it is not there yet."""
    case = Case()
    case.backlog.write(Batch(["1"], is_volatile=True))
    case.write("2")
    case.backlog.release()
    assert case.server.taken == ["1", "2"]


STEPS = st.lists(st.sampled_from(["write", "write", "write", "hold", "release"]) | st.integers(0, 3), max_size=40)


@given(STEPS)
def test_nothing_is_lost_doubled_or_stuck(steps: list[str | int]) -> None:
    """Whatever the order of writes, holds and pauses of the server; a number is the room it then has."""
    case = Case(max_messages=1000)
    written = 0
    for step in steps:
        if step == "write":
            case.write(str(written))
            written += 1
        elif step == "hold":
            case.backlog.hold()
        elif step == "release":
            case.backlog.release()
        else:
            case.server.resume(room=int(step))
    case.backlog.release()
    case.server.resume()
    assert case.server.taken == [str(number) for number in range(written)]
    assert not case.backlog.is_behind


@pytest.fixture(autouse=True)
def memory_layer(settings: Any) -> Iterator[None]:
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    settings.ROOMS = {"max_unsent_messages": 5}
    yield


class Door:
    """Holds endpoints between their join and their accept."""

    def __init__(self) -> None:
        self.is_open = asyncio.Event()

        @websocket_endpoint("late")
        async def late(websocket: RoomSocket) -> None:
            await use_ws_manager().join(["r"], websocket)
            await self.is_open.wait()
            await websocket.accept()
            await websocket.wait_closed()

        self.application = websocket_application([late.path])

    async def client_in_room(self, **kwargs: Any) -> Client:
        """A client that waits for the accept, in the room."""
        waiting = client("/late", application=self.application, **kwargs)
        await waiting.send_input({"type": "websocket.connect"})
        await until(lambda: any(hub.subscriptions.members("r") for hub in hubs()), what="the join")
        return waiting


async def sent_to_the_room(count: int) -> None:
    """Send so many notes, and wait until the hub has written them."""
    for number in range(count):
        await Note(number=number).send("r")
    await until(lambda: the_hub().counts["messages"] == count, what="the fan-out")


async def test_frames_before_the_accept_follow_it_and_hello() -> None:
    door = Door()
    waiting = await door.client_in_room(subprotocols=["rooms.v1"])
    await sent_to_the_room(3)
    assert await waiting.receive_nothing()
    door.is_open.set()
    assert (await waiting.receive_output())["type"] == "websocket.accept"
    assert (await waiting.frame())["MESSAGE_ID"] == "sys.hello"
    assert await waiting.numbers(3) == [0, 1, 2]
    await waiting.disconnect()


@pytest.mark.parametrize("subprotocols", [[], ["rooms.v1"]])
async def test_too_many_frames_before_the_accept_close_right_after_it(subprotocols: list[str]) -> None:
    """Never a refused handshake, which browsers report as 1006."""
    door = Door()
    waiting = await door.client_in_room(subprotocols=subprotocols)
    await sent_to_the_room(20)
    door.is_open.set()
    assert (await waiting.receive_output())["type"] == "websocket.accept"
    if subprotocols:
        closing = json.loads((await waiting.receive_output())["text"])
        assert (closing["MESSAGE_ID"], closing["message"]["code"]) == ("sys.closing", 4008)
    assert await waiting.closed() == 4008
    await waiting.wait(timeout=5)
