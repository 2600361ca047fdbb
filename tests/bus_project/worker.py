"""A Celery worker of the test project, and what its handlers recorded. For tests that ask for the fixture `bus`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_django
from celery import Celery
from celery.app import app_or_default
from django.db import connection

from rooms_app.layers import channel_layer
from rooms_app.models import DeadLetter, OutboxEntry
from tests.bus_project import handlers
from tests.bus_project.celery import app
from tests.live import Process, RedisServer
from tests.waiting import wait_until

PREFIX = "rooms-bus"
#: Whoever publishes knows the handlers; the test project is no installed app of the tests' own process.
HANDLERS = handlers


class Worker(Process):
    """`celery worker` on a Redis, and the test process's own database."""

    def __init__(self, redis_server: RedisServer, directory: Path, *, pool: str = "prefork", **env: str) -> None:
        self.env = {
            "DJANGO_SETTINGS_MODULE": "tests.bus_project.settings",
            "REDIS_URL": redis_server.url,
            "BROKER_URL": broker_url(redis_server),
            "CHANNEL_PREFIX": PREFIX,
            "DATABASE_FILE": str(connection.settings_dict["NAME"]),
            **env,
        }
        options = ["-P", pool, "-c", "3", "--loglevel", "INFO", "--without-gossip", "--without-mingle"]
        command = [sys.executable, "-m", "celery", "-A", "tests.bus_project", "worker", *options]
        super().__init__(command, log=directory / f"worker-{pool}.log", env={**os.environ, **self.env})

    def start(self) -> Worker:
        self.spawn()
        wait_until(self._is_ready, what="the worker to be ready", timeout=30)
        return self

    def _is_ready(self) -> bool:
        if self.process is not None and self.process.poll() is not None:
            raise AssertionError(f"the worker ended at once:\n{self.logged()}")
        return " ready." in self.logged()


class Bus:
    """A worker, and the Redis on which its handlers record."""

    def __init__(self, redis_server: RedisServer, worker: Worker) -> None:
        self.redis = redis_server
        self.worker = worker

    def recorded(self, tag: str, count: int = 1, timeout: float = 30) -> list[dict[str, Any]]:
        """The next so many calls of handlers under this tag."""
        found: list[dict[str, Any]] = []
        deadline = time.monotonic() + timeout
        while len(found) < count:
            popped = self.redis.client.blpop([f"recorded:{tag}"], timeout=1)  # type: ignore[no-untyped-call]
            if popped is not None:
                found.append(json.loads(popped[1]))
            elif time.monotonic() > deadline:
                raise AssertionError(f"{len(found)} of {count} calls for {tag}:\n{self.worker.logged()[-5000:]}")
        return found

    async def arecorded(self, tag: str, count: int = 1) -> list[dict[str, Any]]:
        """The same for async tests."""
        return await asyncio.to_thread(self.recorded, tag, count)

    def has_recorded(self, tag: str) -> bool:
        """Whether there is another call under this tag."""
        return bool(self.redis.client.exists(f"recorded:{tag}"))


def broker_url(redis_server: RedisServer) -> str:
    """A database of it for the broker alone."""
    return f"{redis_server.url.rpartition('/')[0]}/1"


@contextlib.contextmanager
def publishes_to(url: str, **conf: Any) -> Iterator[None]:
    """Have this process publish there."""
    # Not with the demo's key prefix.
    conf = {"broker_transport_options": {}, **conf}
    before, app_before = {name: app.conf[name] for name in ("broker_url", *conf)}, app_or_default()
    app.conf.update(broker_url=url, **conf)
    _use(app)
    try:
        yield
    finally:
        app.conf.update(before)
        _use(app_before)


def _use(celery_app: Celery) -> None:
    """Have it be the process's, here and in all threads: the demo has one too."""
    celery_app.set_current()
    celery_app.set_default()


@contextlib.contextmanager
def running_bus(directory: Path, *, pool: str) -> Iterator[Bus]:
    """A Redis, a worker on it, and this process publishing to it."""
    redis_server = RedisServer(directory / "redis")
    worker = Worker(redis_server, directory, pool=pool)
    try:
        redis_server.start()
        with publishes_to(broker_url(redis_server)):
            yield Bus(redis_server, worker.start())
    finally:
        worker.stop()
        redis_server.stop()


@pytest.fixture(scope="module")
def bus(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    django_db_setup: None,
    django_db_blocker: pytest_django.DjangoDbBlocker,
) -> Iterator[Bus]:
    """A worker for the tests of one module, with the pool that its `POOL` names."""
    with running_bus(tmp_path_factory.mktemp("bus"), pool=request.module.POOL) as running:
        yield running
    # It ends what it is at, and shares the database: a handler that failed after the last test is to be tried again.
    with django_db_blocker.unblock():
        OutboxEntry.objects.all().delete()
        DeadLetter.objects.all().delete()
        connection.close()


@pytest.fixture
def rooms(bus: Bus, settings: Any) -> None:
    """The worker's channel layer in this process: its clients get what handlers send."""
    settings.CHANNEL_LAYERS = {"default": channel_layer("rooms", bus.redis.url, prefix=PREFIX)}
