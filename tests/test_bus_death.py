"""Publishers and workers that die: what was saved is announced, and what is due in an hour is handled once."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator

import pytest

from tests.bus_chaos_project.servers import new_stage
from tests.bus_chaos_project.stage import PROJECT, QUICK, Stage
from tests.live import Process
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

#: The broker waits for a worker much less than any message here has to wait.
OPTIONS = {**QUICK, "visibility_timeout": 1}

#: Each message has a number of its own: the tests share one journal.
DIED, DIED_PLAIN, ROLLED_BACK, SCHEDULED, HELD, DELAYED = 1, 2, 3, 5, 6, 1_000
FENCES = iter(range(100, 200))


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """Two workers, and beside the relays in them two more in processes of their own."""
    with contextlib.ExitStack() as stack:
        stage = new_stage(stack, options=OPTIONS)
        for number in range(2):
            command = [sys.executable, "-m", "django", "rooms_scheduler", "--interval", "0.5"]
            log = stage.directory / f"relay-{number}.log"
            relay = Process(command, log=log, env={**os.environ, **stage.variables})
            stack.callback(relay.stop)
            relay.spawn()
        stage.start_workers("first", "second")
        # All at the start: each takes its time until it is handled, or would be.
        publisher(stage, "die", DIED, code=-signal.SIGKILL)
        publisher(stage, "die_without_outbox", DIED_PLAIN, code=-signal.SIGKILL)
        publisher(stage, "roll_back", ROLLED_BACK)
        publisher(stage, "schedule", SCHEDULED)
        yield stage


def publisher(stage: Stage, what: str, number: int, *, code: int = 0) -> None:
    """Have a process of its own do it."""
    stage.run(f"{PROJECT}.publisher", what, str(number), code=code)


def wait_until_done(stage: Stage, number: int, *, timeout: float = 20) -> None:
    def is_done() -> bool:
        stage.journal.read()
        return stage.journal.done[number] > 0

    wait_until(is_done, what=f"the end of {number}", timeout=timeout)


def let_time_pass(stage: Stage) -> None:
    """Longer than the broker waits for a worker: what it would give out twice has been by then."""
    fence = next(FENCES)
    publisher(stage, "delay", fence)
    wait_until_done(stage, fence)


def test_what_is_due_in_an_hour_is_handled_once(stage: Stage) -> None:
    """With four relays and two workers. The hour is made to pass by changing when it is due in the database.

    Celery's own ETA would have it with a worker all the time, and run it again after each visibility timeout.
    """
    let_time_pass(stage)
    wait_until(lambda: stage.pending() == 0, what="a broker that has nothing of it")
    assert stage.journal.begun[SCHEDULED] == 0
    publisher(stage, "hasten", SCHEDULED)
    wait_until_done(stage, SCHEDULED)
    let_time_pass(stage)
    assert stage.journal.begun[SCHEDULED] == 1


def test_what_was_saved_is_announced_though_its_process_died(stage: Stage) -> None:
    """Killed between the commit and what follows it; without the outbox the same message is never heard of."""
    wait_until_done(stage, DIED)
    assert stage.journal.begun[DIED] == 1
    assert stage.journal.begun[DIED_PLAIN] == 0


def test_what_was_rolled_back_is_never_handled(stage: Stage) -> None:
    """Neither with the outbox nor without it: what was published after it has been."""
    wait_until_done(stage, DIED)
    assert not stage.journal.begun.keys() & {ROLLED_BACK, ROLLED_BACK + 1}


def test_a_worker_takes_no_more_than_it_works_on() -> None:
    """By default: what else it held would be late if it died, and count as a cause of that."""
    with contextlib.ExitStack() as stack:
        stage = new_stage(stack)
        (worker,) = stage.start_workers("only")
        publisher(stage, "publish_six", HELD)

        def is_at_work() -> bool:
            stage.journal.read()
            return len(stage.journal.in_flight(worker.pid)) == 2

        wait_until(is_at_work, what="two of them")
        # As long as another process needs to start, it could have taken more.
        publisher(stage, "publish_six", HELD + 6)
        assert stage.waiting() == 10
        worker.kill()


def test_what_is_due_together_is_handled_once_though_it_takes_long() -> None:
    """Longer than the broker waits for a worker: that takes only as many as it works on.

    With Celery's own ETA it would have taken all of them at once, and the last ones again.
    """
    with contextlib.ExitStack() as stack:
        stage = new_stage(stack, options={**QUICK, "visibility_timeout": 4})
        (worker,) = stage.start_workers("only", concurrency=1)
        publisher(stage, "delay_many", DELAYED)
        for number in range(DELAYED, DELAYED + 40):
            wait_until_done(stage, number, timeout=60)
        worker.signal(signal.SIGTERM)
        worker.wait()
        stage.journal.read()
        assert {stage.journal.begun[number] for number in range(DELAYED, DELAYED + 40)} == {1}
