"""For tests of history: what its clients expect, and ways to stop the hub at a known place."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from rooms_app import SendOutcome
from rooms_app.feeds.reading import HistoryReader
from rooms_app.layers.pubsub import PubSubConnection
from tests.app.messages import Note
from tests.clients import Client, clients, the_hub
from tests.live import RedisServer
from tests.redis_faults import kill_pubsub
from tests.waiting import until

LATEST = "?since=latest"


def id_of(frame: dict[str, Any]) -> tuple[str, int]:
    """A frame's place in history: epoch and number."""
    epoch, number = frame["id"].split("-")
    return epoch, int(number)


async def resumed(receiver: Client) -> dict[str, Any]:
    """The answer to `since`."""
    frame = await receiver.frame()
    assert frame["MESSAGE_ID"] == "sys.resumed", frame
    return frame


async def reset(receiver: Client, *reasons: str) -> dict[str, Any]:
    """The one reset, for one of these reasons if any are named."""
    frame = await receiver.frame()
    assert frame["MESSAGE_ID"] == "sys.reset", frame
    assert not reasons or frame["message"]["reason"] in reasons, frame
    return frame


async def send(*numbers: int, rooms: Sequence[str] = ("a",)) -> None:
    for number in numbers:
        assert await Note(number=number).send(*rooms) == "sent"


async def come_and_go(url: str) -> str:
    """Connect for the first time and leave: the position it was told."""
    async with clients(url + LATEST) as (visitor,):
        return str((await resumed(visitor))["id"])


async def next_of(receiver: Client, kind: str) -> tuple[dict[str, Any], list[int]]:
    """The next frame of this kind, and the numbers of the notes before it."""
    numbers = []
    while (frame := await receiver.frame())["MESSAGE_ID"] != kind:
        assert not frame["MESSAGE_ID"].startswith("sys."), frame
        numbers.append(frame["message"]["number"])
    return frame, numbers


class Stop:
    """Stops one of a class's coroutines, before or after its work, until it is told to go on."""

    def __init__(
        self,
        method: str,
        monkeypatch: pytest.MonkeyPatch,
        *,
        of: type = HistoryReader,
        is_after: bool = False,
    ) -> None:
        original = getattr(of, method)
        #: Set when the first call has come here; those after it pass.
        self.reached = asyncio.Event()
        self._go_on = asyncio.Event()

        async def stopping(*args: Any, **kwargs: Any) -> Any:
            is_first = not self.reached.is_set()
            if is_first and not is_after:
                await self._wait()
            found = await original(*args, **kwargs)
            if is_first and is_after:
                await self._wait()
            return found

        monkeypatch.setattr(of, method, stopping)

    def go_on(self) -> None:
        self._go_on.set()

    async def _wait(self) -> None:
        self.reached.set()
        await self._go_on.wait()


class Deafness:
    """Keeps what Redis sends on the subscribed connections from the hub, until its end."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        original = PubSubConnection.received
        self._kept: list[Callable[[], None]] = []
        self._is_on = True

        def received(connection: PubSubConnection, data: bytes) -> None:
            if self._is_on:
                self._kept.append(lambda: original(connection, data))
            else:
                original(connection, data)

        monkeypatch.setattr(PubSubConnection, "received", received)

    @property
    def count(self) -> int:
        """How many reads are kept."""
        return len(self._kept)

    def end(self) -> None:
        """Hear all of it now."""
        self._is_on = False
        kept, self._kept = self._kept, []
        for hear in kept:
            hear()


@contextlib.asynccontextmanager
async def lost_subscription(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """The hub hears nothing inside: its connection is cut, and the next one stands when this has ended."""
    stop = Stop("open", monkeypatch, of=PubSubConnection)
    repairs = the_hub().counts["repairs"]
    assert kill_pubsub(server.client) == 1
    await stop.reached.wait()
    yield
    stop.go_on()
    await until(lambda: the_hub().counts["repairs"] > repairs, what="the repair")


class Sender:
    """Sends numbered notes, and knows which were taken and which refused; a refused one may still arrive."""

    def __init__(self, *rooms: str, is_sync: bool = False) -> None:
        self._rooms = rooms or ("a",)
        self._is_sync = is_sync
        self.count = 0
        self.sent: list[int] = []
        self.failed: list[int] = []

    async def send(self) -> SendOutcome:
        number, self.count = self.count, self.count + 1
        message = Note(number=number)
        if self._is_sync:
            outcome = await asyncio.to_thread(message.send_sync, *self._rooms)
        else:
            outcome = await message.send(*self._rooms)
        (self.sent if outcome == "sent" else self.failed).append(number)
        return outcome

    async def until_sent(self, count: int = 1) -> None:
        """Send until so many in a row are taken."""
        in_a_row = 0
        async with asyncio.timeout(30):
            while in_a_row < count:
                in_a_row = in_a_row + 1 if await self.send() == "sent" else 0
                await asyncio.sleep(0.002)

    def check(self, numbers: Sequence[int], *, after: int = -1) -> None:
        """All that were taken after one have come, in order and once."""
        assert list(numbers) == sorted(set(numbers)), numbers
        missing = {number for number in self.sent if number > after} - set(numbers)
        assert not missing, (missing, self.failed)


class Story:
    """What one client was told up to now: notes, and resets between them."""

    def __init__(self) -> None:
        self.resets: list[dict[str, Any]] = []
        #: The numbers before the first reset, between it and the next, and so on.
        self.parts: list[list[int]] = [[]]

    @property
    def numbers(self) -> list[int]:
        return [number for part in self.parts for number in part]

    @classmethod
    async def of(cls, receiver: Client, sender: Sender) -> Story:
        """Read up to the last note, and send another where a reset stands for it; ids must grow within their epoch."""
        story = cls()
        before: tuple[str, int] = "", 0
        while sender.sent[-1] not in story.parts[-1]:
            while await receiver.receive_nothing(timeout=0.5):
                await sender.send()
            frame = await receiver.frame()
            if "id" in frame:
                here = id_of(frame)
                assert here[0] != before[0] or here[1] > before[1], (before, frame)
                before = here
            if frame["MESSAGE_ID"] == "sys.reset":
                story.resets.append(frame)
                story.parts.append([])
            elif frame["MESSAGE_ID"] == "tests.note":
                story.parts[-1].append(frame["message"]["number"])
        return story

    def check(self, sender: Sender, *, resets: int, is_split: bool = False) -> None:
        """In order and once; complete but for what the resets stand for, and before each, unless it is split."""
        assert len(self.resets) == resets, self.resets
        sender.check(self.parts[-1], after=-1 if not resets else self.parts[-1][0])
        assert self.numbers == sorted(set(self.numbers)), self.parts
        for part in self.parts[:-1] if not is_split else ():
            # Complete up to where it was cut off.
            assert not {number for number in sender.sent if number < max(part, default=0)} - set(part), self.parts
