"""`manage.py rooms_drain`: before a restart, have a process's clients go elsewhere, a few at a time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from argparse import ArgumentTypeError
from dataclasses import asdict, replace
from typing import Any

from channels.layers import InMemoryChannelLayer
from django.core.management.base import BaseCommand, CommandError, CommandParser

from rooms_app.advice import advice
from rooms_app.cancelling import within
from rooms_app.conf import rooms_settings
from rooms_app.drain import Drained, DrainOrder, is_process_id
from rooms_app.exceptions import RoomsConfigurationError, explain
from rooms_app.transport import channel_layer, group_send

#: How long answers are waited for, in seconds.
_PATIENCE = 2.0


class Command(BaseCommand):
    """Gives the order, and shows which processes heed it."""

    help = (
        "Drains server processes before a restart: each closes its connections with 1012, spread evenly over "
        "some seconds, and takes no new ones until it ends."
    )
    # Draining must not depend on the health of anything but the channel layer.
    requires_system_checks = ()

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        """The parser, with an example at the end of its help."""
        example = f"Example: python manage.py {subcommand} --process 4711-8f3a2c --window 30"
        return super().create_parser(prog_name, subcommand, epilog=example, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--process",
            type=_process_id,
            metavar="ID",
            help="the one process to drain, by its id in /health/live and sys.hello (all)",
        )
        parser.add_argument(
            "--window",
            type=_seconds,
            metavar="SECONDS",
            help='over how long it closes its connections (ROOMS["drain_window"])',
        )
        parser.add_argument("--json", action="store_true", dest="as_json", help="print one JSON object")

    def handle(self, *args: Any, process: str | None, window: float | None, as_json: bool, **options: Any) -> None:
        """Give the order, and print who heeds it; `CommandError` if the channel layer does not take it."""
        order = DrainOrder(process=process, window=rooms_settings().drain_window if window is None else window)
        try:
            answers = asyncio.run(_give(order))
        except RoomsConfigurationError as error:
            raise CommandError(str(error)) from error
        except Exception as error:
            raise CommandError(f"The channel layer does not answer: {explain(error)}.{advice()}") from error
        if as_json:
            answer = {"window": order.window, "processes": [asdict(drained) for drained in answers]}
            self.stdout.write(json.dumps(answer))
            return
        for drained in answers:
            self.stdout.write(
                f"{drained.process} takes no new connections, and closes {drained.connections} "
                f"within {order.window:g} s."
            )
        if not answers:
            whom = "No process" if process is None else f"No process {process}"
            self.stderr.write(f"{whom} answered: one without connections does not hear this, and has none to close.")


async def _give(order: DrainOrder) -> list[Drained]:
    """The answers to the order, one for each process."""
    layer = channel_layer()
    if isinstance(layer, InMemoryChannelLayer):
        raise RoomsConfigurationError("The in-memory channel layer reaches no other process: drain needs Redis.")
    async with within(rooms_settings().send_timeout):
        channel = await layer.new_channel()
    await group_send(layer, replace(order, reply_to=channel).message())
    answers: dict[str, Drained] = {}
    # Who asks all does not know how many there are.
    with contextlib.suppress(TimeoutError):
        async with within(_PATIENCE):
            while order.process is None or not answers:
                drained = Drained.parse(await layer.receive(channel))
                if drained is not None:
                    answers[drained.process] = drained
    return list(answers.values())


def _process_id(text: str) -> str:
    if not is_process_id(text):
        raise ArgumentTypeError(f"{text!r} is no process id: /health/live shows one such as 4711-8f3a2c")
    return text


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ArgumentTypeError(f"{text!r} is no number of seconds")
    return seconds
