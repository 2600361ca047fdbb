"""Handlers that bear being run twice: a number has its effect in the database once."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any

from asgiref.sync import sync_to_async
from celery.signals import task_postrun
from django.conf import settings
from django.db import transaction
from django.db.models import F

from rooms_app.bus import MessageOf, message_bus_controller, message_handler
from tests.bus_chaos_project.journal import BEGIN, END, note
from tests.bus_chaos_project.messages import ROOM, AsyncWork, Done, SafeWork, Work
from tests.bus_chaos_project.models import Effect, Total

#: The messages at whose end this process dies.
_last: set[str] = set()


@message_bus_controller
class Chaos:
    """Each notes when it began and when it was done, which nothing undoes."""

    @message_handler(Work, timeout=settings.CHAOS_TIMEOUT)
    def work(self, message: MessageOf[Work]) -> None:
        _work(message)

    @message_handler(SafeWork, timeout=settings.CHAOS_TIMEOUT)
    def safe_work(self, message: MessageOf[SafeWork]) -> None:
        _work(message)

    @message_handler(AsyncWork, timeout=settings.CHAOS_TIMEOUT)
    async def async_work(self, message: MessageOf[AsyncWork]) -> None:
        number = _begin(message)
        await asyncio.sleep(_seconds(message))
        is_first = await sync_to_async(_take_effect)(number)
        await Done(number=number).send(ROOM)
        _end(message, is_first=is_first)


def _work(message: MessageOf[Work]) -> None:
    number = _begin(message)
    time.sleep(_seconds(message))
    is_first = _take_effect(number)
    Done(number=number).send_sync(ROOM)
    _end(message, is_first=is_first)


def _take_effect(number: int) -> bool:
    """Whether it had none before."""
    with transaction.atomic():
        _, is_first = Effect.objects.get_or_create(number=number)
        if is_first:
            Total.objects.update(count=F("count") + 1)
    return is_first


def _seconds(message: MessageOf[Work]) -> float:
    work = message.payload()
    return work.seconds if message.delivery_count == 1 else work.seconds_again


def _begin(message: MessageOf[Work]) -> int:
    number = message.payload().number
    note(settings.CHAOS_JOURNAL, BEGIN, number, message.delivery_count)
    return number


def _end(message: MessageOf[Work], *, is_first: bool) -> None:
    note(settings.CHAOS_JOURNAL, END, message.payload().number, message.delivery_count)
    if message.payload().ends_worker and is_first:
        _last.add(message.id)


@task_postrun.connect
def _die(args: list[Any], **kwargs: Any) -> None:
    """What the handler has sent has left, and the broker still waits to hear of it."""
    if args[0]["id"] in _last:
        os.killpg(os.getpgrp(), signal.SIGKILL)
