"""Keeps a channel layer that is away from slowing requests: after a failure, sends fail at once for a bit."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rooms_app.advice import advice
from rooms_app.background import after_fork_in_child
from rooms_app.conf import rooms_settings
from rooms_app.exceptions import RoomsUnavailable

logger = logging.getLogger(__name__)


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

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start_afresh()
        # A fork may take along a lock that nobody is left to release.
        after_fork_in_child(self._start_afresh)

    def _start_afresh(self) -> None:
        self.counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        #: None while all is well.
        self._outage: _Outage | None = None

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Around one send. Any error inside, or an outage still on, is raised as `RoomsUnavailable`."""
        if not self._may_try():
            raise RoomsUnavailable("Not tried: the channel layer failed a moment ago.")
        try:
            yield
        except Exception as error:
            self._note_failure(error)
            raise RoomsUnavailable(f"The channel layer did not confirm: {error!r}") from error
        self._note_success()

    def _may_try(self) -> bool:
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
            self.counts["failed"] += 1
            outage.failed += 1
            return False

    def _note_failure(self, error: Exception) -> None:
        with self._lock:
            now = self._clock()
            is_first = self._outage is None
            outage = self._outage = self._outage or _Outage(since=now, retry_at=now)
            outage.retry_at = now + rooms_settings().retry_after
            self.counts["failed"] += 1
            outage.failed += 1
        if is_first:
            logger.warning(
                "sends to rooms fail, and are dropped until the channel layer is back: %r%s", error, advice()
            )

    def _note_success(self) -> None:
        with self._lock:
            self.counts["sent"] += 1
            outage, self._outage = self._outage, None
        if outage is not None:
            seconds = self._clock() - outage.since
            logger.warning("sends to rooms work again failed=%d seconds=%.1f", outage.failed, seconds)
