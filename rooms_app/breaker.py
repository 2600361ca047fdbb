"""Keeps a channel layer that is away from slowing requests: after a failure, sends fail at once for a bit."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from django.core.signals import setting_changed

from rooms_app.advice import advice
from rooms_app.background import after_fork_in_child
from rooms_app.cancelling import within
from rooms_app.conf import rooms_settings
from rooms_app.exceptions import RoomsUnavailable, explain

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(slots=True, kw_only=True)
class _Outage:
    """A burst of failures, from the first to the next success. Times are the breaker's clock's."""

    since: float
    #: Until then sends fail at once.
    retry_at: float
    failed: int = 0


class Breaker:
    """Lets sends through while they succeed, one in a while when they don't; logs a burst of failures once.

    Shared by all threads. `counts` tells how many sends were `sent` and how many `failed`.
    """

    def __init__(self, *, what: str | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        #: What it is for, in a log line: sends to rooms, if nothing else is named …
        self._what = what or "sends to rooms"
        #: … which are lost. What is read can be asked for again.
        self._fate = "fail" if what else "fail, and are dropped"
        self._clock = clock
        self._start_afresh()
        # A fork may take along a lock that nobody is left to release.
        after_fork_in_child(self._start_afresh)
        setting_changed.connect(self._forget)

    def _start_afresh(self) -> None:
        self.counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        #: None while all is well.
        self._outage: _Outage | None = None

    def _forget(self, *, setting: str, **change: Any) -> None:
        # A test that puts another layer in force need not wait for the one before.
        if setting == "CHANNEL_LAYERS":
            self._outage = None

    @contextmanager
    def attempt(self, count: int = 1) -> Iterator[None]:
        """Around one send, or so many. Any error inside, or an outage still on, is raised as `RoomsUnavailable`."""
        if not self._may_try(count):
            raise RoomsUnavailable("Not tried: the channel layer failed a moment ago.")
        try:
            yield
        except Exception as error:
            self._note_failure(error, count)
            raise RoomsUnavailable(f"The channel layer did not confirm: {explain(error)}") from error
        self._note_success(count)

    async def read(self, reading: Callable[[], Awaitable[T]]) -> T:
        """What is read within `send_timeout`. Any error, or an outage still on, is raised as `RoomsUnavailable`."""
        with self.attempt():
            async with within(rooms_settings().send_timeout):
                return await reading()

    def _may_try(self, count: int) -> bool:
        if self._outage is None:
            return True
        with self._lock:
            outage = self._outage
            if outage is None:
                return True
            now = self._clock()
            if now >= outage.retry_at:
                # This one is tried; until it is known what became of it, the others go on failing.
                outage.retry_at = now + rooms_settings().send_timeout
                return True
            self.counts["failed"] += count
            outage.failed += count
            return False

    def _note_failure(self, error: Exception, count: int) -> None:
        with self._lock:
            now = self._clock()
            is_first = self._outage is None
            outage = self._outage = self._outage or _Outage(since=now, retry_at=now)
            outage.retry_at = now + rooms_settings().retry_after
            self.counts["failed"] += count
            outage.failed += count
        if is_first:
            logger.warning(
                "%s %s until the channel layer is back: %s%s", self._what, self._fate, explain(error), advice()
            )

    def _note_success(self, count: int) -> None:
        with self._lock:
            self.counts["sent"] += count
            outage, self._outage = self._outage, None
        if outage is not None:
            seconds = self._clock() - outage.since
            logger.warning("%s work again failed=%d seconds=%.1f", self._what, outage.failed, seconds)
