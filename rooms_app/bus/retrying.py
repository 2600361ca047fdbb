"""How often, and after how long, a handler that failed is tried again."""

from __future__ import annotations

import random
from dataclasses import dataclass

#: A hundred years, in seconds: a time after that may be no `datetime`.
_LONGEST = 100 * 365.25 * 86_400

#: Doubling more often than this changes nothing: `max_delay` has long been reached.
_MAX_DOUBLINGS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Exponential backoff with jitter. Times are in seconds. Raises `ValueError` for what can't be meant."""

    #: How many tries may follow the first; 0 for none.
    max_retries: int = 5
    #: The longest wait before the first retry; it doubles with each …
    backoff: float = 2.0
    #: … up to this.
    max_delay: float = 600.0

    def __post_init__(self) -> None:
        if isinstance(self.max_retries, bool) or not isinstance(self.max_retries, int) or self.max_retries < 0:
            raise ValueError(f"Retry(max_retries=…) must be a whole number from 0 on, not {self.max_retries!r}.")
        for name in ("backoff", "max_delay"):
            check_seconds(f"Retry({name}=…)", getattr(self, name))
        if self.max_delay < self.backoff:
            raise ValueError(f"Retry(max_delay={self.max_delay}) is shorter than its backoff={self.backoff}.")

    def delay(self, attempt: int) -> float:
        """How long to wait after this try, counted from 1, has failed.

        At random between half of what the doubling gives and all of it: never nothing, and never shorter than the
        wait before it, as long as `max_delay` allows. So those that failed together don't come back together.
        """
        longest = min(self.max_delay, self.backoff * 2.0 ** min(attempt - 1, _MAX_DOUBLINGS))
        return random.uniform(longest / 2, longest)


def check_seconds(what: str, value: object) -> None:
    """Raises `ValueError` unless it is a number above 0, of at most a hundred years."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _LONGEST:
        raise ValueError(f"{what} must be a number of seconds above 0, and at most {_LONGEST:,.0f}, not {value!r}.")
