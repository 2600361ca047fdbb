"""Keeps an outage of the channel layer from slowing every request: after a failure, sends fail at once for a while."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from rooms_app.conf import rooms_settings
from rooms_app.exceptions import RoomsUnavailable

logger = logging.getLogger(__name__)


class Breaker:
    """Lets sends through while they succeed, and one in a while when they don't; logs a burst of failures once.

    Shared by all threads. `counts` tells how many sends were `sent` and how many `failed`.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        #: On the monotonic clock: until then sends fail at once. 0 while all is well.
        self._open_until = 0.0
        self._failed_since = 0.0
        self._burst = 0

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Around one send. Any error inside, or an outage that is still on, is raised as `RoomsUnavailable`."""
        if not self._may_try():
            self._note_failure()
            raise RoomsUnavailable("Not tried: the channel layer failed a moment ago.")
        try:
            yield
        except Exception as error:
            self._note_failure(error)
            raise RoomsUnavailable(f"The channel layer did not confirm: {error!r}") from error
        self._note_success()

    def _may_try(self) -> bool:
        if not self._open_until:
            return True
        with self._lock:
            now = time.monotonic()
            if now < self._open_until:
                return False
            # This one is tried; the others go on failing until it is known what became of it.
            self._open_until = now + rooms_settings().send_timeout
            return True

    def _note_failure(self, error: Exception | None = None) -> None:
        with self._lock:
            self.counts["failed"] += 1
            self._burst += 1
            is_first = not self._failed_since
            if error is not None:
                now = time.monotonic()
                self._failed_since = self._failed_since or now
                self._open_until = now + rooms_settings().retry_after
        if is_first and error is not None:
            logger.warning("sends to rooms fail, and are dropped until the channel layer is back: %r", error)

    def _note_success(self) -> None:
        self.counts["sent"] += 1
        if not self._failed_since:
            return
        with self._lock:
            if not self._failed_since:
                return
            seconds = time.monotonic() - self._failed_since
            count, self._burst = self._burst, 0
            self._open_until = self._failed_since = 0.0
        logger.warning("sends to rooms work again failed=%d seconds=%.1f", count, seconds)
