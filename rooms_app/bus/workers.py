"""What a Celery worker does beside handling: safe defaults at its start, and a relay of the outbox while it runs."""

from __future__ import annotations

import logging
import math
import os
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

from celery import signals
from celery.concurrency.prefork import TaskPool as PreforkPool
from django.db import connections

from rooms_app.bus.broker import KILLED_AFTER, MAX_COUNTDOWN, broker, celery_app
from rooms_app.bus.delivery import TASK
from rooms_app.bus.handlers import Handler, handlers
from rooms_app.bus.redis_records import RecordingConnection
from rooms_app.bus.redis_recovery import Recovery
from rooms_app.bus.registry import bus_registry
from rooms_app.exceptions import explain
from rooms_app.registry import registry
from rooms_app.relay import relay_due

logger = logging.getLogger(__name__)

_PREFETCH = "worker_prefetch_multiplier"
_VISIBILITY = "visibility_timeout"
_THROTTLE = "unacked_restore_throttle"
_MIN_VISIBILITY = 60.0
#: For clocks, a countdown, and whatever else a worker does between taking a delivery and telling the broker that it is
#: done.
_MARGIN = MAX_COUNTDOWN + 10.0

#: How often the relay looks, in seconds; spread, so that those of many workers don't look all at once.
_RELAY_EVERY = (0.7, 1.3)
#: How many entries of a kind one pass carries, so that it is short.
_RELAY_LIMIT = 300
#: How long after a look for lost messages the next one begins, as a share of how long each is waited for …
_LOOK_SHARE = 0.1
#: … within these bounds, in seconds; and how long after a look that failed.
_LOOK_EVERY, _LOOK_AGAIN = (0.5, 5.0), 10.0
#: How many seconds a fork waits for the end of a pass.
_FORK_PATIENCE = 5.0


def connect() -> None:
    """Listen to the workers of this process."""
    signals.celeryd_init.connect(_set_defaults, dispatch_uid="rooms_app.bus.defaults")
    signals.worker_init.connect(_set_prefetch, dispatch_uid="rooms_app.bus.prefetch")
    signals.celeryd_after_setup.connect(_say, dispatch_uid="rooms_app.bus.say")
    signals.worker_ready.connect(_start_relay, dispatch_uid="rooms_app.bus.start")
    signals.worker_shutting_down.connect(_stop_relay, dispatch_uid="rooms_app.bus.stop")


def needed_visibility(prefetch: int = 1) -> float:
    """How long after it got a delivery a worker may still have it, in seconds, with so many taken for each process.

    Infinite where it takes any number, as with 0.
    """
    slowest = _slowest()
    longest = 0.0 if slowest is None else slowest.timeout + KILLED_AFTER
    return max(_MIN_VISIBILITY, longest * prefetch + _MARGIN) if prefetch > 0 else math.inf


def set_safe_defaults(app: Any) -> None:
    """Set what at-least-once needs, where the team has set nothing, and if there are handlers."""
    if _slowest() is None:
        return
    if not app.conf.value_set_for(_PREFETCH):
        # What a worker has taken beyond what it works on waits for it, and is late if it dies.
        app.conf[_PREFETCH] = 1
    if not app.conf.value_set_for("broker_connection_retry_on_startup"):
        app.conf.broker_connection_retry_on_startup = True
    if _VISIBILITY not in app.conf.broker_transport_options:
        _set_visibility(app, app.conf[_PREFETCH])


def set_prefetch(worker: Any) -> None:
    """Have a worker take as many as the settings say, or the settings fit what its command line says."""
    app = worker.app
    told = app.conf[_PREFETCH]
    if worker.prefetch_multiplier == app.conf.maps[-1][_PREFETCH]:
        # The command line has read Celery's own default already, before a setting of ours could be made.
        worker.prefetch_multiplier = told
    elif app.conf.broker_transport_options.get(_VISIBILITY) == needed_visibility(told):
        _set_visibility(app, worker.prefetch_multiplier)


def _set_visibility(app: Any, prefetch: int) -> None:
    if not _is_redis(app) or _other_tasks(app):
        return
    options = {name: value for name, value in app.conf.broker_transport_options.items() if name != _VISIBILITY}
    needed = needed_visibility(prefetch)
    if needed < math.inf:
        # Looked at every 10 s, rather than every 100 s.
        options = {_THROTTLE: 1, **options, _VISIBILITY: needed}
    app.conf.broker_transport_options = options


def warnings_for(app: Any, *, prefetch: int | None = None, pool: str = "") -> list[str]:
    """What of the team's own settings does not fit its handlers, each in a sentence or two.

    `prefetch` and `pool` are what the worker's command line says.
    """
    if _slowest() is None:
        return []
    return [*_warn_of_pool(pool), *_warn_of_visibility(app, app.conf[_PREFETCH] if prefetch is None else prefetch)]


def _warn_of_pool(pool: str) -> Iterator[str]:
    if "gevent" in pool or "eventlet" in pool:
        yield (
            "Bus messages can't be handled in a pool of greenlets: the event loop of async handlers would seem to run "
            "in all of them, and Django refuses the database there. Use the pool prefork, threads or solo."
        )


def _warn_of_visibility(app: Any, prefetch: int) -> list[str]:
    slowest = _slowest()
    if slowest is None or not _is_redis(app):
        return []
    visibility, needed = app.conf.broker_transport_options.get(_VISIBILITY), needed_visibility(prefetch)
    if needed == math.inf:
        return [
            f"The worker takes any number of messages before it works on them. What waits there for longer than the "
            f"broker does is handled more than once: {_PREFETCH} should be 1."
        ]
    if prefetch > app.conf[_PREFETCH]:
        return [
            f"This worker takes {prefetch} messages for each process, by its command line. Others put back what waits "
            f"in it for longer than they would need: set {_PREFETCH} = {prefetch} for all of them instead."
        ]
    if visibility is None:
        return [
            f"This app has other tasks than handlers, so the broker's visibility timeout stays Celery's hour: that is "
            f"how long the messages of a worker that was killed wait. If no other task takes longer, set "
            f"broker_transport_options = {{{_VISIBILITY!r}: {needed:g}}}."
        ]
    if visibility < needed:
        return [
            f"broker_transport_options has a {_VISIBILITY} of {visibility:g} s, and {slowest.name} may take "
            f"{slowest.timeout:g} s: what takes longer than the broker waits is handled more than once. "
            f"Set it to {needed:g} s or more."
        ]
    return []


def _slowest() -> Handler | None:
    return max(handlers, key=lambda handler: handler.timeout, default=None)


def _is_redis(app: Any) -> bool:
    return bool(app.connection_for_read().transport.driver_type == "redis")


def _other_tasks(app: Any) -> list[str]:
    """Tasks of the team's own: they may take as long as they like, or wait for an ETA, and share the broker."""
    names = (name for name in app.tasks if name != TASK and not name.startswith("celery."))
    # Celery's docs have everybody write that one.
    return [name for name in names if not name.endswith(".debug_task")]


class Relay:
    """A thread that carries what is due in the outbox, and on Redis puts back what got lost, until it is stopped."""

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        #: Held while it has a connection to the database: that must not be open in two processes.
        self._at_work = threading.Lock()
        self._holds_off = False
        #: Whether no one else in this process uses the database, which is so where others handle what comes.
        self.closes_pools = False
        #: None where the broker is no Redis.
        self._recovery: Recovery | None = None
        #: When it looks for lost messages again, by the monotonic clock …
        self._looks_at = 0.0
        #: … and whether it could not the last time.
        self._is_blind = False

    def start(self) -> None:
        """Begin; once begun, nothing."""
        if self._thread is not None:
            return
        self._recovery = Recovery() if _is_redis(celery_app()) else None
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=self._hold_off, after_in_parent=self._go_on, after_in_child=self._forget)
        self._thread = threading.Thread(target=self._run, name="rooms-relay", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End after the pass that is under way, if one is."""
        self._stopped.set()

    def _run(self) -> None:
        is_failing, left = False, 0
        # More may be due than one pass carries.
        while not self._stopped.wait(random.uniform(*_RELAY_EVERY) if left < _RELAY_LIMIT else 0):
            with self._at_work:
                try:
                    left = relay_due(limit=_RELAY_LIMIT)
                except Exception:
                    # Once a burst: the database may be away for a while.
                    if not is_failing:
                        logger.exception("the outbox can't be relayed, trying again")
                    is_failing, left = True, 0
                else:
                    is_failing = False
                finally:
                    connections.close_all()
            self._look()

    def _look(self) -> None:
        """Look for messages that workers took along when they were killed."""
        if self._recovery is None or time.monotonic() < self._looks_at:
            return
        pause = _LOOK_AGAIN
        try:
            with broker.channel() as channel:
                # No longer than the broker waits for a worker, nor than a worker that lives needs.
                patience = min(channel.visibility_timeout, needed_visibility())
                self._recovery.look(channel, patience=patience)
                shortest, longest = _LOOK_EVERY
                pause = min(max(patience * _LOOK_SHARE, shortest), longest)
        except Exception as error:
            # The broker may be away for a while, and the rest of the relay's work should not wait for it. Once a burst.
            if not self._is_blind:
                logger.warning("can't look for lost messages, trying again: %s", explain(error))
            self._is_blind = True
        else:
            self._is_blind = False
        self._looks_at = time.monotonic() + pause

    def _hold_off(self) -> None:
        # The worker forks for a process that died. Not for ever: it has others to look after.
        self._holds_off = self._at_work.acquire(timeout=_FORK_PATIENCE)
        if self._holds_off and self.closes_pools:
            _close_pools()

    def _go_on(self) -> None:
        if self._holds_off:
            self._at_work.release()

    def _forget(self) -> None:
        self._at_work = threading.Lock()
        self.closes_pools = False


def _close_pools() -> None:
    """End Django's pools of connections to PostgreSQL: a child that closes what it inherits ends the parent's, too."""
    for connection in connections.all():
        if connection.settings_dict.get("OPTIONS", {}).get("pool"):
            connection.close_pool()  # type: ignore[attr-defined]


_relay = Relay()


def _set_defaults(instance: Any, **kwargs: Any) -> None:
    set_safe_defaults(instance.app)
    if _slowest() is not None:
        # Celery's own seam: what it makes its connections of. What a worker gives back is on record as well.
        instance.app.amqp.Connection = RecordingConnection


def _set_prefetch(sender: Any, **kwargs: Any) -> None:
    set_prefetch(sender)


def _say(instance: Any, **kwargs: Any) -> None:
    # Not earlier: now the worker's logging is set up.
    pool = getattr(instance.pool_cls, "__module__", str(instance.pool_cls))
    for warning in warnings_for(instance.app, prefetch=instance.prefetch_multiplier, pool=pool):
        logger.warning(warning)


def _start_relay(sender: Any = None, **kwargs: Any) -> None:
    _relay.closes_pools = isinstance(getattr(sender, "pool", None), PreforkPool)
    stores = any(message_type.OUTBOX for message_type in (*registry, *bus_registry))
    if stores or _slowest() is not None:
        _relay.start()


def _stop_relay(**kwargs: Any) -> None:
    _relay.stop()
