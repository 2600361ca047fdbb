"""`manage.py rooms_drain`: before a restart, have a process's clients go elsewhere, a few at a time."""

from __future__ import annotations

import asyncio
from argparse import ArgumentTypeError
from dataclasses import asdict, replace
from typing import Any

from django.core.management.base import CommandParser

from rooms_app.asking import ask_hubs
from rooms_app.conf import rooms_settings
from rooms_app.drain import Drained, DrainOrder, is_process_id
from rooms_app.management.base import RoomsCommand, layer_errors, seconds, shared_layer

#: How long answers are waited for, in seconds.
_PATIENCE = 2.0


class Command(RoomsCommand):
    """Gives the order, and shows which processes heed it."""

    help = (
        "Drains server processes before a restart: each closes its connections with 1012, spread evenly over "
        "some seconds, and takes no new ones until it ends."
    )
    example = "--process 4711-8f3a2c --window 30"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--process",
            type=_process_id,
            metavar="ID",
            help="the one process to drain, by its id in /health/live and sys.hello (all)",
        )
        parser.add_argument(
            "--window",
            type=seconds,
            metavar="SECONDS",
            help='over how long it closes its connections (ROOMS["drain_window"])',
        )
        self.add_json_argument(parser)

    def handle(self, *args: Any, process: str | None, window: float | None, as_json: bool, **options: Any) -> None:
        """Give the order, and print who heeds it; `CommandError` if the channel layer does not take it."""
        order = DrainOrder(process=process, window=rooms_settings().drain_window if window is None else window)
        with layer_errors():
            answers = asyncio.run(_give(order))
        if as_json:
            answer = {"window": order.window, "processes": [asdict(drained) for drained in answers]}
            self.write_json(answer)
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
    answers = await ask_hubs(
        shared_layer("drain"),
        lambda channel: replace(order, reply_to=channel).message(),
        Drained.parse,
        # Who asks all does not know how many there are.
        is_enough=lambda answers: order.process is not None and bool(answers),
        patience=_PATIENCE,
    )
    return list({drained.process: drained for drained in answers}.values())


def _process_id(text: str) -> str:
    if not is_process_id(text):
        raise ArgumentTypeError(f"{text!r} is no process id: /health/live shows one such as 4711-8f3a2c")
    return text
