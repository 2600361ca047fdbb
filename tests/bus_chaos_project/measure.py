"""How long it takes until a message that died with its worker is begun again."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable

from tests.bus_chaos_project.servers import new_stage
from tests.bus_chaos_project.stage import PROJECT, Stage
from tests.waiting import wait_until

#: Of a handler: the visibility timeout depends on it.
_DEFAULT_TIMEOUT = 60
#: Longer than any of it should take.
_TIMEOUT = 300.0


def measure(stack: contextlib.ExitStack, say: Callable[[str], None]) -> str:
    """A Markdown table."""
    rows = []
    for name, broker, options in (
        ("Redis", "redis", {}),
        ("Redis, `unacked_restore_throttle` 1", "redis", {"unacked_restore_throttle": 1}),
        ("RabbitMQ", "rabbitmq", {}),
    ):
        with contextlib.ExitStack() as servers:
            stage = new_stage(servers, broker=broker, options=options, timeout=_DEFAULT_TIMEOUT)
            stage.start_workers("first", "second")
            for number, (what, is_whole) in enumerate((("a process of its pool", False), ("the whole worker", True))):
                say(f"{name}: {what} is killed …")
                seconds = _seconds(stage, number, is_whole=is_whole)
                say(f"{name}: begun again after {seconds:.1f} s")
                rows.append(f"| {name} | {what} | {seconds:.1f} s |")
    return "\n".join(["| Broker | Killed | Begun again after |", "|---|---|---|", *rows])


def _seconds(stage: Stage, number: int, *, is_whole: bool) -> float:
    stage.run(f"{PROJECT}.publisher", "publish", str(number))
    _wait_for_run(stage, number, 1, 30)
    (first,) = stage.journal.of(number)
    killed_at = time.time()
    if is_whole:
        (victim,) = [worker for worker in stage.workers if worker.is_running and worker.pid == first.worker]
        victim.kill()
        stage.start_worker(f"third-{number}")
    else:
        os.kill(first.process, signal.SIGKILL)
    _wait_for_run(stage, number, 2, _TIMEOUT)
    return stage.journal.of(number)[1].at - killed_at


def _wait_for_run(stage: Stage, number: int, count: int, timeout: float) -> None:
    def has_begun() -> bool:
        stage.journal.read()
        return stage.journal.begun[number] >= count

    wait_until(has_begun, what=f"run {count} of {number}", timeout=timeout)
