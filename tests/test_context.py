"""Which manager and sender are in force, and for whom."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import transaction

from rooms_app import (
    SendOutcome,
    WebSocketConnectionManager,
    WebSocketMessageBase,
    WebSocketMessageSender,
    provide_ws_manager,
    provide_ws_message_sender,
    use_ws_manager,
    use_ws_message_sender,
)
from rooms_app.manager import ChannelLayerManager
from rooms_app.sender import OnCommitSender
from tests.app.messages import Note


class Recorder(ChannelLayerManager):
    """A manager that keeps what it is given to send."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers: list[int] = []

    async def send(self, rooms: Sequence[str], message: WebSocketMessageBase, **options: Any) -> SendOutcome:
        return self.send_sync(rooms, message)

    def send_sync(self, rooms: Sequence[str], message: WebSocketMessageBase, **options: Any) -> SendOutcome:
        assert isinstance(message, Note)
        self.numbers.append(message.number)
        return SendOutcome.SENT


def in_new_thread(call: Callable[[], object]) -> object:
    """What the call gives in a thread of its own."""
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()
    thread.join()
    return results[0]


@pytest.mark.parametrize("use", [use_ws_manager, use_ws_message_sender])
def test_there_is_one_of_each_anywhere_in_a_process_with_no_set_up(use: Callable[[], object]) -> None:
    """In scripts, threads, tasks and under async_to_sync."""

    async def in_task() -> object:
        return use()

    assert use() is in_new_thread(use) is async_to_sync(in_task)()


def test_the_real_ones_are_what_their_protocols_say() -> None:
    """So that a stand-in can be made by the same protocol."""
    assert isinstance(use_ws_manager(), WebSocketConnectionManager)
    assert isinstance(use_ws_message_sender(), WebSocketMessageSender)


def test_a_provided_manager_replaces_the_real_one_until_the_end_of_the_with() -> None:
    """Also when it ends in an error."""
    real, other = use_ws_manager(), Recorder()
    with pytest.raises(LookupError), provide_ws_manager(other) as provided:
        assert use_ws_manager() is provided is other
        raise LookupError
    assert use_ws_manager() is real


def test_a_provided_sender_replaces_the_real_one_until_the_end_of_the_with() -> None:
    """Also when it ends in an error."""
    real, other = use_ws_message_sender(), OnCommitSender(Recorder)
    with pytest.raises(LookupError), provide_ws_message_sender(other) as provided:
        assert use_ws_message_sender() is provided is other
        raise LookupError
    assert use_ws_message_sender() is real


def test_they_nest() -> None:
    """The innermost is in force."""
    outer, inner = Recorder(), Recorder()
    with provide_ws_manager(outer):
        with provide_ws_manager(inner):
            Note(number=1).send_sync("a")
        Note(number=2).send_sync("a")
    assert (outer.numbers, inner.numbers) == ([2], [1])


def test_another_thread_does_not_see_what_this_one_provides() -> None:
    """A thread starts with a context of its own."""
    real = use_ws_manager()
    with provide_ws_manager(Recorder()):
        assert in_new_thread(use_ws_manager) is real


async def test_tasks_see_what_was_provided_where_they_were_started() -> None:
    """And not what is provided after that, nor by one another."""
    real, mine, other = use_ws_manager(), Recorder(), Recorder()
    both_are_in = asyncio.Barrier(2)

    async def seen() -> WebSocketConnectionManager:
        await both_are_in.wait()
        return use_ws_manager()

    async def provide(manager: Recorder) -> WebSocketConnectionManager:
        with provide_ws_manager(manager):
            return await seen()

    started_before = asyncio.create_task(seen())
    with provide_ws_manager(mine):
        started_inside = asyncio.create_task(seen())
    assert await asyncio.gather(started_before, started_inside) == [real, mine]
    assert await asyncio.gather(provide(mine), provide(other)) == [mine, other]
    assert use_ws_manager() is real


async def test_sync_code_called_from_async_code_sees_what_that_provides() -> None:
    """`sync_to_async` takes the context along, and brings it back."""
    with provide_ws_manager(Recorder()) as recorder:
        await Note(number=1).send("a")
        await sync_to_async(Note(number=2).send_sync)("a")
        await sync_to_async(async_to_sync(Note(number=3).send))("a")
    assert recorder.numbers == [1, 2, 3]


async def test_messages_send_themselves_by_the_provided_sender() -> None:
    """In both forms, broadcasts too."""
    recorder = Recorder()
    with provide_ws_message_sender(OnCommitSender(lambda: recorder)):
        await Note(number=1).send("a")
        await Note(number=2).broadcast()
        await sync_to_async(Note(number=3).send_sync)("a")
        await sync_to_async(Note(number=4).broadcast_sync)()
    assert recorder.numbers == [1, 2, 3, 4]


@pytest.mark.django_db(transaction=True)
def test_a_deferred_message_goes_by_the_manager_that_was_in_force_when_it_was_sent() -> None:
    """The commit may come after the end of the `with`."""
    with transaction.atomic():
        with provide_ws_manager(Recorder()) as recorder:
            assert Note(number=1).send_sync("a") is SendOutcome.DEFERRED
        assert recorder.numbers == []
    assert recorder.numbers == [1]
