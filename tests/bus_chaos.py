"""`python -m tests.bus_chaos`: the message bus, while its workers are killed."""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import sys

import django

from tests.bus_chaos_project.measure import measure
from tests.bus_chaos_project.servers import Missing, new_stage
from tests.bus_chaos_project.stage import QUICK

_EXAMPLES = """examples:
  python -m tests.bus_chaos                                          500 messages, 3 kills, Redis and SQLite
  python -m tests.bus_chaos --messages 10000 --kills 20              a few minutes
  python -m tests.bus_chaos --messages 10000 --kills 130 --anytime   also as they take a message
  python -m tests.bus_chaos --broker rabbitmq --database postgresql
  python -m tests.bus_chaos --measure                                how long a message takes to come back

It starts servers of its own, on loopback ports, and ends them. The exit code is 1 where a check fails.
"""


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 1 where a check fails, 2 where it can't run."""
    options = _parse(arguments)
    with contextlib.ExitStack() as stack:
        try:
            if options.measure:
                print(measure(stack, _say))
                return 0
            return _run(options, stack)
        except Missing as error:
            print(f"It can't run: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            return 130


def _run(options: argparse.Namespace, stack: contextlib.ExitStack) -> int:
    stage = new_stage(
        stack,
        broker=options.broker,
        broker_url=options.broker_url,
        database=options.database,
        database_port=options.database_port,
        options=QUICK if options.broker == "redis" else {},
    )
    seed = random.randrange(1_000_000) if options.seed is None else options.seed
    _say(f"{_what(options)}, seed {seed}, in {stage.directory}")
    os.environ.update(stage.variables)
    django.setup()
    # Not before the settings are known.
    from tests.bus_chaos_project.run import Run

    run = Run(
        stage,
        messages=options.messages,
        kills=options.kills,
        ends=options.ends,
        workers=options.workers,
        anytime=options.anytime,
        rng=random.Random(seed),
        say=_say,
    )
    checks = run.go()
    print(f"\n{_what(options)}: {run.seconds:.1f} s")
    print(f"in flight when killed: {sum(map(len, run.in_flight))} messages in {len(run.in_flight)} workers")
    print(f"begun again: {run.begun_again}, of them after they had been done: {run.done_again}")
    print(f"taken along by killed workers, and put back: {run.put_back}")
    for check in checks:
        print(f"{'FAILED' if check.wrong else 'ok':6}  {check.name}{check.wrong and ': ' + check.wrong}")
    return int(any(check.wrong for check in checks))


def _what(options: argparse.Namespace) -> str:
    kills = f"{options.kills} kills and {options.ends} at the end"
    servers = f"{options.broker} and {options.database}"
    return f"{options.messages:,} messages, {kills}, {servers}, {options.workers} workers of 2"


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bus_chaos",
        description="Publishes messages, kills workers in the middle of them, and looks whether any got lost.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--messages", type=_count, default=500, help="how many are published (500)")
    parser.add_argument("--kills", type=_count, default=3, help="how many workers are killed at work (3)")
    parser.add_argument("--ends", type=_count, default=1, help="how many die when a handler has just ended (1)")
    parser.add_argument("--workers", type=_count, default=2, help="how many there are, of two processes each (2)")
    parser.add_argument("--broker", choices=("redis", "rabbitmq"), default="redis")
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--broker-url", metavar="URL", help="of a RabbitMQ that runs already")
    parser.add_argument("--database-port", metavar="PORT", type=int, help="of a PostgreSQL that runs already")
    parser.add_argument("--seed", type=int, help="of the random numbers, to have the same again")
    parser.add_argument("--anytime", action="store_true", help="kill workers also between two messages")
    parser.add_argument("--measure", action="store_true", help="measure how long a message takes to come back")
    options = parser.parse_args(arguments)
    if options.ends > options.messages:
        parser.error(f"--ends {options.ends}: each takes a message, and there are {options.messages}")
    return options


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 on")
    return int(text)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
