"""The breaker, on a clock that the test turns."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor

import pytest
import pytest_django

from rooms_app import RoomsUnavailable
from rooms_app.breaker import Breaker
from rooms_app.layers import channel_layer


class Clock:
    """Stands still until it is turned."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock, settings: pytest_django.fixtures.SettingsWrapper) -> Breaker:
    settings.ROOMS = {"retry_after": 1.0, "send_timeout": 2.0}
    return Breaker(clock=clock)


def succeed(breaker: Breaker) -> None:
    with breaker.attempt():
        pass


def fail(breaker: Breaker) -> None:
    with pytest.raises(RoomsUnavailable, match="did not confirm"), breaker.attempt():
        raise ConnectionError("gone")


def is_tried(breaker: Breaker) -> bool:
    """Whether a send is let through now; it succeeds then."""
    tried = False
    try:
        with breaker.attempt():
            tried = True
    except RoomsUnavailable as error:
        assert "Not tried" in str(error)
    return tried


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the breaker logged, shortened."""
    return [r.getMessage().split(",")[0] for r in caplog.records if r.name == "rooms_app.breaker"]


def test_an_error_is_raised_as_rooms_unavailable_with_its_cause(breaker: Breaker) -> None:
    """Whatever the layer raised, the caller catches one exception."""
    with pytest.raises(RoomsUnavailable) as caught, breaker.attempt():
        raise ConnectionError("gone")
    assert isinstance(caught.value.__cause__, ConnectionError)
    assert "gone" in str(caught.value)


def test_after_a_failure_nothing_is_tried_until_retry_after_has_passed(breaker: Breaker, clock: Clock) -> None:
    """A request with many sends waits for one timeout, not for many."""
    fail(breaker)
    clock.now += 0.99
    assert not is_tried(breaker)
    clock.now += 0.01
    assert is_tried(breaker)


def test_a_success_ends_the_outage_at_once(breaker: Breaker, clock: Clock) -> None:
    """The sends after it are all tried."""
    fail(breaker)
    clock.now += 1
    succeed(breaker)
    assert is_tried(breaker) and is_tried(breaker)


def test_a_failed_retry_prolongs_the_outage(breaker: Breaker, clock: Clock) -> None:
    """Another `retry_after`, counted from the failure."""
    fail(breaker)
    clock.now += 5
    fail(breaker)
    clock.now += 0.99
    assert not is_tried(breaker)


def test_only_one_send_is_tried_while_it_is_not_known_what_becomes_of_it(breaker: Breaker, clock: Clock) -> None:
    """A black hole takes the time of one request, not of all."""
    fail(breaker)
    clock.now += 1
    with breaker.attempt():
        assert not is_tried(breaker)
        clock.now += 1.99
        assert not is_tried(breaker)
    assert is_tried(breaker)


async def test_a_retry_that_was_cancelled_blocks_the_next_for_send_timeout_at_most(
    breaker: Breaker, clock: Clock
) -> None:
    """A client that hangs up must not leave the breaker open for ever."""
    fail(breaker)
    clock.now += 1
    with pytest.raises(asyncio.CancelledError), breaker.attempt():
        raise asyncio.CancelledError
    assert not is_tried(breaker)
    clock.now += 2
    assert is_tried(breaker)


def test_every_send_is_counted_as_sent_or_failed(breaker: Breaker, clock: Clock) -> None:
    """Those that were not tried, too."""
    succeed(breaker)
    fail(breaker)
    for _ in range(3):
        assert not is_tried(breaker)
    clock.now += 1
    succeed(breaker)
    assert breaker.counts == {"sent": 2, "failed": 4}


def test_no_count_is_lost_among_threads(breaker: Breaker) -> None:
    """All threads of a process share one breaker."""
    with ThreadPoolExecutor(8) as pool:
        for _ in range(4_000):
            pool.submit(succeed, breaker)
    assert breaker.counts == {"sent": 4_000}


def test_a_burst_is_logged_once_and_its_end_once(
    breaker: Breaker, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """However many sends failed, and however often one was tried."""
    caplog.set_level(logging.INFO, "rooms_app.breaker")
    for _ in range(3):
        fail(breaker)
        assert not is_tried(breaker)
        clock.now += 2
    succeed(breaker)
    succeed(breaker)
    assert lines(caplog) == ["sends to rooms fail", "sends to rooms work again failed=6 seconds=6.0"]
    assert "ConnectionError: gone" in caplog.records[0].getMessage()


def test_a_later_burst_is_logged_again(breaker: Breaker, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """Each burst with its own count."""
    caplog.set_level(logging.INFO, "rooms_app.breaker")
    for _ in range(2):
        fail(breaker)
        clock.now += 1
        succeed(breaker)
    again = "sends to rooms work again failed=1 seconds=1.0"
    assert lines(caplog) == ["sends to rooms fail", again, "sends to rooms fail", again]


def test_the_settings_are_read_at_use(
    breaker: Breaker, clock: Clock, settings: pytest_django.fixtures.SettingsWrapper
) -> None:
    """So `override_settings` works on a breaker that exists already."""
    settings.ROOMS = {"retry_after": 30}
    fail(breaker)
    clock.now += 29
    assert not is_tried(breaker)
    clock.now += 1
    assert is_tried(breaker)


def test_another_layer_has_not_failed(breaker: Breaker, settings: pytest_django.fixtures.SettingsWrapper) -> None:
    """A test that puts one in force is not refused for what was tested before it."""
    fail(breaker)
    assert not is_tried(breaker)
    settings.CHANNEL_LAYERS = {"default": channel_layer("memory", "", prefix="other")}
    assert is_tried(breaker)
