"""The message bus while its workers are killed: nothing is lost, and nothing has its effect twice."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Sequence

import pytest

from rooms_app.processes import die_with_parent
from tests.live import ROOT
from tests.postgres import Postgres
from tests.rabbitmq import RabbitMQ, rabbitmq

__all__ = ["rabbitmq"]


def chaos(*arguments: str, code: int = 0) -> str:
    """What `python -m tests.bus_chaos` prints; fails the test where it ends with another code."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bus_chaos", *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Its workers end with it.
        preexec_fn=die_with_parent(signal.SIGKILL),
    )
    with process:
        try:
            output, _ = process.communicate(timeout=110)
        finally:
            process.kill()
    assert process.returncode == code, output
    return output


def in_flight(output: str) -> tuple[int, int]:
    """How many messages were in the middle of their handlers, in how many workers, when those were killed."""
    found = re.search(r"^in flight when killed: (\d+) messages in (\d+) workers$", output, re.MULTILINE)
    assert found is not None, output
    return int(found[1]), int(found[2])


@pytest.mark.slow
def test_500_messages_on_redis_survive_three_killed_workers() -> None:
    """At random moments; and another that died when a handler had just ended.

    Each is handled, has its effect in SQLite once, and is announced once to who is in the room.
    """
    output = chaos("--messages", "500", "--kills", "3", "--anytime")
    _, workers = in_flight(output)
    assert workers == 3


@pytest.mark.slow
def test_messages_on_rabbitmq_survive_a_killed_worker(rabbitmq: RabbitMQ, postgres: Postgres) -> None:
    """The same, with effects in PostgreSQL."""
    servers = ("--broker-url", rabbitmq.url, "--database-port", str(postgres.port))
    output = chaos("--messages", "100", "--kills", "1", "--broker", "rabbitmq", "--database", "postgresql", *servers)
    messages, workers = in_flight(output)
    assert workers == 1
    assert messages >= 1


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--help"], 0, "python -m tests.bus_chaos --messages 10000 --kills 20"),
        (["--messages", "many"], 2, "'many' is no number from 0 on"),
        (["--messages", "1", "--ends", "2"], 2, "--ends 2: each takes a message, and there are 1"),
    ],
)
def test_the_command_says_how_it_is_used(arguments: Sequence[str], code: int, said: str) -> None:
    assert said in chaos(*arguments, code=code)
