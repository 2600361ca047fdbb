"""The demo's Celery worker: its command line, and whether it is there."""

from __future__ import annotations

import os
import socket
import sys

from kombu.exceptions import OperationalError

from project import celery_app

#: How long one look for it takes at most, in seconds, where the broker answers.
_PATIENCE = 0.2


def node() -> str:
    """The name of this process's worker, among all workers that there may be on its broker."""
    return f"demo-{os.getpid()}@{socket.gethostname()}"


def command() -> list[str]:
    """The worker's command line; it logs what goes wrong, and no task.

    Its pool is threads: one process, which starts fast and dies whole, and async handlers need no more.
    """
    # As root, in a container, Celery warns of pickles. It takes none.
    interpreter = [sys.executable, "-W", "ignore:You're running the worker with superuser privileges"]
    options = ["--hostname", node(), "--pool", "threads", "--concurrency", "8", "--loglevel", "WARNING"]
    # It need not look for other workers, which takes a second.
    alone = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    return [*interpreter, "-m", "celery", "--quiet", "--app", "project", "worker", *options, *alone]


def answers() -> bool:
    """Whether the worker answers by way of the broker."""
    try:
        with celery_app.connection_for_write(connect_timeout=1) as connection:
            return bool(celery_app.control.ping([node()], timeout=_PATIENCE, connection=connection))
    except OperationalError:
        return False
