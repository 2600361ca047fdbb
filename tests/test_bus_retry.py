"""How long a handler that failed waits: longer and longer, within bounds, and never not at all."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rooms_app.bus import Retry

seconds = st.floats(min_value=0.001, max_value=1e6)


@st.composite
def retries(draw: st.DrawFn) -> Retry:
    backoff, max_delay = sorted((draw(seconds), draw(seconds)))
    return Retry(max_retries=draw(st.integers(0, 1_000)), backoff=backoff, max_delay=max_delay)


@given(retries(), st.integers(1, 10_000))
def test_a_delay_is_above_zero_and_at_most_the_longest(retry: Retry, attempt: int) -> None:
    """At every try, however many there were."""
    assert retry.backoff / 2 <= retry.delay(attempt) <= retry.max_delay


@given(retries(), st.integers(1, 60))
def test_delays_grow_until_the_longest(retry: Retry, attempt: int) -> None:
    """Each is at least as long as the one before, whatever chance says, until doubling would go beyond."""
    assume(retry.backoff * 2**attempt <= retry.max_delay)
    assert retry.delay(attempt) <= retry.delay(attempt + 1)


def test_those_that_failed_together_do_not_come_back_together() -> None:
    """A delay is spread over half of its length."""
    delays = [Retry(backoff=8, max_delay=60).delay(2) for _ in range(200)]
    assert min(delays) < 10
    assert max(delays) > 14


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"max_retries": -1}, "max_retries"),
        ({"max_retries": 1.5}, "max_retries"),
        ({"max_retries": True}, "max_retries"),
        ({"backoff": 0}, "backoff"),
        ({"backoff": -1}, "backoff"),
        ({"backoff": "2"}, "backoff"),
        ({"backoff": math.inf}, "backoff"),
        ({"max_delay": math.nan}, "max_delay"),
        ({"backoff": 10, "max_delay": 5}, "shorter than its backoff"),
    ],
)
def test_what_can_not_be_meant_is_refused(values: dict[str, object], what: str) -> None:
    """In words that name the argument."""
    with pytest.raises(ValueError, match=what):
        Retry(**values)  # type: ignore[arg-type]
