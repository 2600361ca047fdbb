"""Where the killing takes place: brokers, a database, and workers of this project in processes of their own."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import amqp
import redis

from rooms_app.processes import die_with_parent
from tests.bus_chaos_project.journal import Journal
from tests.live import ROOT, Process
from tests.rabbitmq import GUEST
from tests.waiting import wait_until

PROJECT = "tests.bus_chaos_project"

#: On Redis a message comes back so many seconds after its worker has died, give or take the interval.
QUICK = {
    "visibility_timeout": 2,
    "unacked_restore_interval": 0.5,
    "unacked_restore_throttle": 1,
    # How long nobody looks for them when a worker has been killed while it did.
    "unacked_mutex_expire": 3,
}


class Worker(Process):
    """A worker and the processes of its pool: one process group, killed as a whole."""

    def __init__(self, name: str, *, env: dict[str, str], log: Path, concurrency: int = 2) -> None:
        options = ["--concurrency", str(concurrency), "--loglevel", "INFO", "--hostname", f"{name}@localhost"]
        # They make a start slower by seconds, and are of no use here.
        options += ["--without-gossip", "--without-mingle"]
        super().__init__([sys.executable, "-m", "celery", "-A", PROJECT, "worker", *options], log=log, env=env)
        self.name = name
        self.concurrency = concurrency

    def spawn(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGKILL),
            )

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def wait_until_up(self) -> None:
        wait_until(self._is_up, what=f"the worker {self.name}", timeout=60)

    def kill(self) -> None:
        """SIGKILL for all of it at once, as when its machine or container goes away."""
        if self.is_running:
            os.killpg(self.pid, signal.SIGKILL)
        self.wait()

    @property
    def has_been_up(self) -> bool:
        """Whether it has told that it takes messages."""
        return " ready." in self.logged()

    def _is_up(self) -> bool:
        assert self.is_running, f"the worker ended at once:\n{self.logged()}"
        return self.has_been_up


@dataclass(kw_only=True)
class Stage:
    """What all processes of one run share."""

    directory: Path
    #: The Redis of the channel layer.
    layer: str
    broker: str
    #: An entry of DATABASES.
    database: dict[str, Any]
    #: Of the broker's transport; none for what rooms_app makes of Celery's defaults.
    options: dict[str, Any] = field(default_factory=dict)
    #: Of the handlers; longer than any work here.
    timeout: float = 20
    workers: list[Worker] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.journal = Journal(self.directory / "journal.txt")
        self.queue = f"chaos-{uuid.uuid4().hex[:8]}"
        given = {name: getattr(self, name) for name in ("layer", "broker", "database", "options", "timeout", "queue")}
        self.variables = {
            "DJANGO_SETTINGS_MODULE": f"{PROJECT}.settings",
            "CHAOS": json.dumps({**given, "journal": str(self.journal.file)}),
        }

    def run(self, *arguments: str, code: int = 0) -> str:
        """Run `python -m` with these arguments in the project; what it prints. Fails where it ends otherwise."""
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=ROOT,
            env={**os.environ, **self.variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == code, done.stderr
        return done.stdout

    def migrate(self) -> None:
        self.run("django", "migrate", "--run-syncdb", "--verbosity", "0")

    def start_worker(self, name: str, *, concurrency: int = 2) -> Worker:
        """Spawn a worker, which is not up yet."""
        env = {**os.environ, **self.variables}
        worker = Worker(name, env=env, log=self.directory / f"{name}.log", concurrency=concurrency)
        worker.spawn()
        self.workers.append(worker)
        return worker

    def start_workers(self, *names: str, concurrency: int = 2) -> list[Worker]:
        """Workers that take messages."""
        started = [self.start_worker(name, concurrency=concurrency) for name in names]
        for worker in started:
            worker.wait_until_up()
        return started

    def stop(self) -> None:
        for worker in self.workers:
            worker.signal(signal.SIGTERM)
        for worker in self.workers:
            worker.wait()

    def kill(self) -> None:
        """Kill what still runs."""
        for worker in self.workers:
            worker.kill()

    def waiting(self) -> int:
        """How many messages no worker has been given yet."""
        if self._is_redis:
            return int(self._client.llen(self.queue))
        with amqp.Connection(urlsplit(self.broker).netloc.rpartition("@")[2], **GUEST) as connection:
            return int(connection.channel().queue_declare(self.queue, passive=True).message_count)

    def pending(self) -> int:
        """How many messages are with the broker; RabbitMQ does not tell of those that a worker holds."""
        return self.waiting() + (int(self._client.hlen("unacked")) if self._is_redis else 0)

    @property
    def _is_redis(self) -> bool:
        return self.broker.startswith("redis")

    @functools.cached_property
    def _client(self) -> redis.Redis:
        return redis.Redis.from_url(self.broker, socket_timeout=5)
