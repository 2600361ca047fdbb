"""Handlers that record what happens in Redis lists, where a test waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import threading
import time
from typing import Any

import redis
from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.db import connection, transaction

from rooms_app import use_ws_manager
from rooms_app.bus import MessageOf, Retry, message_bus_controller, message_handler
from tests.app.messages import Note
from tests.bus_project.messages import ActivityNotification, AsyncJob, Job, Shared, StoredJob, UserActivityMessage, Walk

QUICK = Retry(max_retries=3, backoff=0.4, max_delay=2)


def record(message: MessageOf[Any], name: str = "handled", **values: Any) -> None:
    """Tell the test that a handler was called."""
    known = {
        "name": name,
        "id": message.id,
        "message_id": message.message_id,
        "count": message.delivery_count,
        "at": time.time(),
        "pid": os.getpid(),
        "threads": threading.active_count(),
        "database_files": _database_files(),
    }
    tag = message.payload().tag
    with redis.Redis.from_url(os.environ["REDIS_URL"]) as client:
        client.rpush(f"recorded:{tag}", json.dumps({**known, **values}))


def _database_files() -> int:
    """How many files of the database this process has open."""
    found = 0
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found += os.readlink(f"/proc/self/fd/{number}").startswith(os.environ["DATABASE_FILE"])
    return found


@message_bus_controller
class NotificationController:
    """The example of the docs."""

    @message_handler(UserActivityMessage, retry=Retry(max_retries=5, backoff=2.0), timeout=30)
    async def handle_user_activity(self, message: MessageOf[UserActivityMessage]) -> None:
        data = message.payload()
        await ActivityNotification(user_id=data.user_id, action=data.action).send(f"user-{data.user_id}")


@message_handler(Job, retry=QUICK, timeout=1)
def do_job(message: MessageOf[Job]) -> None:
    record(message)
    do(message)


@message_handler(StoredJob, retry=QUICK)
def do_stored_job(message: MessageOf[StoredJob]) -> None:
    record(message)
    do(message)


@message_bus_controller
class AsyncController:
    """Async methods, of one instance per process."""

    def __init__(self) -> None:
        self.called = 0

    @message_handler(AsyncJob, retry=QUICK, timeout=1)
    async def do_async_job(self, message: MessageOf[AsyncJob]) -> None:
        self.called += 1
        record(message, called=self.called, loop=id(asyncio.get_running_loop()))
        if message.payload().todo == "sleep":
            await asyncio.sleep(60)
        elif message.payload().todo == "query":
            await get_user_model().objects.acount()
            record(message, orm_thread=await sync_to_async(threading.get_ident)())
        elif message.payload().todo == "send":
            await Note(number=message.delivery_count).send(message.payload().tag)
            if message.delivery_count == 1:
                raise ValueError("after the send")


@message_handler(Walk, retry=Retry(max_retries=0), timeout=30)
async def walk(message: MessageOf[Walk]) -> None:
    """A query is open all the while."""
    count = 0
    async for _ in get_user_model().objects.order_by("pk").aiterator(chunk_size=1):
        count += 1
        if count == 1:
            record(message, "begun")
            await asyncio.to_thread(wait_for_key, f"go:{message.payload().tag}")
    record(message, "walked", count_of_users=count)


def wait_for_key(name: str) -> None:
    """Until a test sets it."""
    with redis.Redis.from_url(os.environ["REDIS_URL"]) as client:
        client.blpop([name], timeout=20)


@message_handler(Shared, retry=QUICK)
def take_shared(message: MessageOf[Shared]) -> None:
    record(message, "first")


@message_handler(Shared, retry=QUICK)
def fail_shared_once(message: MessageOf[Shared]) -> None:
    record(message, "second")
    if message.delivery_count == 1:
        raise ValueError("only the second handler fails")


def do(message: MessageOf[Any]) -> None:
    """Whatever the message says."""
    job = message.payload()
    is_first = message.delivery_count == 1
    match job.todo:
        case "fail":
            raise ValueError(f"failed as told {job.tag}")
        case "fail-once" if is_first:
            raise ValueError("failed once")
        case "reject":
            message.reject("not for me")
        case "retry" if is_first:
            message.retry()
        case "retry-later" if is_first:
            message.retry_later(1.5)
        case "ack":
            Note(number=1).send_sync(job.tag)
            message.ack()
            Note(number=2).send_sync(job.tag)
            raise ValueError("after the ack")
        case "send":
            for number in (1, 2):
                Note(number=10 * message.delivery_count + number).send_sync(job.tag)
            if is_first:
                raise ValueError("after the sends")
        case "roll-back":
            with contextlib.suppress(LookupError), transaction.atomic():
                Note(number=1).send_sync(job.tag)
                Job(tag=f"{job.tag}-rolled-back").publish_sync()
                raise LookupError
            with transaction.atomic():
                Note(number=2).send_sync(job.tag)
                Job(tag=f"{job.tag}-committed").publish_sync()
        case "progress":
            use_ws_manager().send_sync([job.tag], Note(number=message.delivery_count))
            if is_first:
                raise ValueError("after the progress report")
        case "sleep" if is_first:
            time.sleep(60)
        case "sleep-stubbornly" if is_first:
            while True:
                with contextlib.suppress(Exception):
                    time.sleep(60)
        case "die" if is_first:
            os.kill(os.getpid(), signal.SIGKILL)
        case "die-always":
            os.kill(os.getpid(), signal.SIGKILL)
        case "query":
            get_user_model().objects.count()
            record(message, is_open=connection.connection is not None)
