"""The broker: hands deliveries to Celery, in bounded time also when the broker is away."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any, cast
from uuid import uuid4

from rooms_app.background import after_fork_in_child
from rooms_app.bus.delivery import TASK, Delivery
from rooms_app.bus.handlers import handlers
from rooms_app.exceptions import BusUnavailable, RoomsConfigurationError, explain

try:
    import amqp.exceptions
    from celery import Celery
    from celery.app import app_or_default
    from celery.exceptions import QueueNotFound
    from kombu.connection import ConnectionPool
    from kombu.exceptions import OperationalError, SerializationError
    from kombu.pools import ProducerPool

    from rooms_app.bus.redis_records import RecordingPool
except ImportError as error:
    raise ImportError("rooms_app.bus needs Celery: install the extra rooms_app[bus].") from error

logger = logging.getLogger(__name__)

#: The longest countdown of a delivery, where the database can't keep it until its time: Celery holds those in a
#: worker, any number of them, and when that takes long the broker takes the worker for dead.
MAX_COUNTDOWN = 10.0

_CONNECT_TIMEOUT = 1.0
_SOCKET_TIMEOUT = 1.5
#: For a connection that the broker has closed meanwhile, one more try.
_ONE_MORE = {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0}
#: How long sends fail at once after one has failed …
_RETRY_AFTER = 1.0
#: … and while the next one is tried.
_TRIAL = 5.0
#: Seconds after its timeout at which the process of a handler that heeds no interruption is killed.
KILLED_AFTER = 10.0

_TRANSPORT_OPTIONS: dict[str, dict[str, Any]] = {
    "redis": {"socket_connect_timeout": _CONNECT_TIMEOUT, "socket_timeout": _SOCKET_TIMEOUT, "max_retries": 0},
    # What RabbitMQ has not confirmed may be lost with it.
    "amqp": {"confirm_publish": True, "read_timeout": _SOCKET_TIMEOUT, "write_timeout": _SOCKET_TIMEOUT},
}


def celery_app() -> Celery:
    """The project's Celery app. Raises `RoomsConfigurationError` where none has been made."""
    app: Any = app_or_default()
    # Celery makes up one that would look for a RabbitMQ on this machine.
    if app.main == "default" and not app.fixups:
        raise RoomsConfigurationError(
            "This process has no Celery app: import yours in the project's __init__.py, as Celery's Django docs say."
        )
    return cast(Celery, app)


def is_eager() -> bool:
    """Whether handlers run at once in the process that publishes: `CELERY_TASK_ALWAYS_EAGER`, for tests."""
    return bool(celery_app().conf.task_always_eager)


def propagates() -> bool:
    """Whether such a handler's error is raised where the message was published: `CELERY_TASK_EAGER_PROPAGATES`."""
    return bool(celery_app().conf.task_eager_propagates)


class Broker:
    """The way to the project's broker; shared by all threads."""

    def __init__(self) -> None:
        #: Connections of the process that we were forked from. Closing them, as their end would, closes hers.
        self._inherited: list[Any] = []
        self._pools: dict[tuple[Any, ...], ProducerPool] = {}
        self._start_afresh()
        after_fork_in_child(self._start_afresh)

    def _start_afresh(self) -> None:
        self._inherited.append(self._pools)
        self._pools = {}
        self._lock = threading.Lock()
        #: Until then, by the monotonic clock, sends fail at once; 0 while all is well.
        self._retry_at = 0.0

    def send(self, delivery: Delivery, *, countdown: float = 0) -> None:
        """Hand a delivery to the broker. Raises `BusUnavailable`, which means perhaps sent.

        What the broker, or Celery, has against this delivery alone is raised as it is: others may go.
        """
        app = celery_app()
        if not self._may_try():
            raise BusUnavailable("Not tried: the broker failed a moment ago.")
        try:
            with self._pool(app).acquire(block=True, timeout=_CONNECT_TIMEOUT) as producer:
                app.send_task(TASK, args=[delivery.body()], producer=producer, **_options(delivery, countdown))
        except Exception as error:
            if not _is_away(error):
                self._end_trial()
                raise
            self._note_failure(error)
            raise BusUnavailable(f"The broker did not confirm: {explain(error)}") from error
        if self._retry_at:
            self._retry_at = 0.0
            logger.warning("the broker takes bus messages again")

    @contextlib.contextmanager
    def channel(self) -> Iterator[Any]:
        """The transport's channel of a connection that is used by nobody else meanwhile."""
        with self._pool(celery_app()).acquire(block=True, timeout=_CONNECT_TIMEOUT) as producer:
            yield producer.channel

    def _may_try(self) -> bool:
        with self._lock:
            now = time.monotonic()
            if now < self._retry_at:
                return False
            if self._retry_at:
                # This one is tried; until it is known what became of it, the others go on failing.
                self._retry_at = now + _TRIAL
            return True

    def _end_trial(self) -> None:
        """It was not found out whether the broker is back: the next one is tried at once."""
        with self._lock:
            if self._retry_at:
                self._retry_at = time.monotonic()

    def _note_failure(self, error: Exception) -> None:
        # Once a burst.
        if not self._retry_at:
            logger.warning("the broker takes no bus messages, they wait in the outbox: %s", explain(error))
        self._retry_at = time.monotonic() + _RETRY_AFTER

    def _pool(self, app: Celery) -> ProducerPool:
        key = id(app), app.conf.broker_write_url, repr(app.conf.broker_transport_options)
        with self._lock:
            pool = self._pools.get(key)
            if pool is None:
                pool = self._pools[key] = _new_pool(app)
            return pool


def _new_pool(app: Celery) -> ProducerPool:
    # Not Celery's own: that waits for a broker that is away for as long as it takes.
    driver = app.connection_for_write().transport.driver_type
    options = _TRANSPORT_OPTIONS.get(driver)
    connection = app.connection_for_write(connect_timeout=_CONNECT_TIMEOUT, transport_options=options)
    limit = app.conf.broker_pool_limit or 10
    pool = RecordingPool if driver == "redis" else ConnectionPool
    return ProducerPool(connections=pool(connection, limit=limit), limit=limit)


def _is_away(error: Exception) -> bool:
    """Whether an error says that the broker is not to be had, or takes nothing; else it is of the one delivery."""
    cause = error.__cause__ if isinstance(error, OperationalError) and error.__cause__ is not None else error
    if isinstance(cause, amqp.exceptions.AccessRefused):
        # Of a queue, or of the login.
        return "login" in str(cause).lower()
    return not isinstance(cause, QueueNotFound | SerializationError | amqp.exceptions.ChannelError)


def _options(delivery: Delivery, countdown: float) -> dict[str, Any]:
    options: dict[str, Any] = {
        # Of this sending. With worker_deduplicate_successful_tasks Celery drops what comes back under an id that it has
        # seen succeed, and a try that failed has: the next one is another task.
        "task_id": str(uuid4()),
        # What monitoring shows instead of the one task's name, and instead of a payload that may be private.
        "shadow": delivery.handler,
        "argsrepr": f"({delivery.topic} id={delivery.id} attempt={delivery.attempt} losses={delivery.losses})",
        "ignore_result": True,
        "add_to_parent": False,
        "retry": True,
        "retry_policy": _ONE_MORE,
        "confirm_timeout": _SOCKET_TIMEOUT,
    }
    if countdown > 0:
        options["countdown"] = countdown
    handler = handlers.find(delivery.topic, delivery.handler)
    # Without it, in a process of before the last deploy, as the publisher had it.
    queue, timeout = (handler.queue, handler.timeout) if handler is not None else (delivery.queue, delivery.timeout)
    if queue is not None:
        options["queue"] = queue
    if timeout is not None:
        limit = timeout + KILLED_AFTER
        # An async one is cancelled, not interrupted. Without a limit it would have the app's own, task_soft_time_limit.
        is_interrupted = handler is not None and not handler.is_async
        options.update(time_limit=limit, soft_time_limit=timeout if is_interrupted else limit)
    return options


#: The process's way to the broker.
broker = Broker()
