"""`manage.py rooms_scheduler`: sends what is due, of the broadcasts that operators have scheduled and of the outbox."""

from __future__ import annotations

import contextlib
import logging
import select
import signal
import socket
from argparse import ArgumentTypeError
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import Error as DatabaseFailure
from django.db import close_old_connections, connections

from rooms_app.broadcasts import send_due
from rooms_app.carrying import forget_carrier
from rooms_app.exceptions import RoomsConfigurationError, explain
from rooms_app.management.base import RoomsCommand, counted, seconds
from rooms_app.relay import relay_due

logger = logging.getLogger(__name__)


class Command(RoomsCommand):
    """Looks for what is due, again and again, until it is told to stop."""

    help = (
        "Sends scheduled broadcasts, and what waits in the outbox, when they are due, each once, with any number of "
        "these running. What fell due while none ran is sent late rather than never. SIGTERM and Ctrl-C end it."
    )
    example = "--interval 2"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--interval",
            type=_interval,
            default=1.0,
            metavar="SECONDS",
            help="how often it looks for what is due (1)",
        )
        parser.add_argument("--once", action="store_true", help="send what is due now, and end")
        self.add_json_argument(parser, help="print one JSON object each time something was sent")

    def handle(self, *args: Any, interval: float, once: bool, as_json: bool, **options: Any) -> None:
        """Send what is due; with `--once` a database or Redis that is away is a `CommandError`."""
        _learn_bus_messages()
        if once:
            due = send_due()
            self._say(due.sent, relay_due(), as_json=as_json)
            if due.is_cut_short:
                raise CommandError(
                    "Redis is away: what is scheduled stays so. Run this again; the admin says what failed."
                )
            if due.failed:
                raise CommandError(f"{counted(due.failed, 'broadcast')} failed: the admin says why.")
            return
        database = _Database()
        with _stop_signals() as stopped:
            if not as_json:
                self.stdout.write(f"Looking for what is due every {interval:g} s. Ctrl-C ends it.")
                self.stdout.flush()
            while not stopped(0):
                with database.attempt():
                    due, relayed = send_due(), relay_due()
                    if due.sent or relayed:
                        self._say(due.sent, relayed, as_json=as_json)
                if stopped(interval):
                    return

    def _say(self, sent: int, relayed: int, *, as_json: bool) -> None:
        if as_json:
            self.write_json({"sent": sent, "relayed": relayed})
            return
        said = [f"{counted(sent, 'broadcast')} sent"] if sent or not relayed else []
        said += [f"{counted(relayed, 'outbox entry', 'outbox entries')} relayed"] if relayed else []
        self.stdout.write(f"{', '.join(said)}.")
        self.stdout.flush()


def _learn_bus_messages() -> None:
    """Have the outbox's bus messages handed to the broker here, too, where this process knows it."""
    if find_spec("celery") is None:
        return
    from rooms_app.bus import broker, leaving

    try:
        broker.celery_app()
    except RoomsConfigurationError:
        # Left to the workers.
        forget_carrier(leaving.KIND)


class _Database:
    """Keeps a database that is away from ending us; logs a burst of failures once."""

    def __init__(self) -> None:
        self._is_away = False

    @contextlib.contextmanager
    def attempt(self) -> Iterator[None]:
        close_old_connections()
        try:
            yield
        except DatabaseFailure as error:
            connections.close_all()
            if not self._is_away:
                logger.warning("the database does not answer, trying again: %s", explain(error))
            self._is_away = True
            return
        if self._is_away:
            logger.warning("the database answers again")
        self._is_away = False


@contextlib.contextmanager
def _stop_signals() -> Iterator[Any]:
    """Gives a function that waits up to so many seconds, and tells whether SIGTERM or SIGINT has come."""
    # A socket, not an Event: a handler that runs inside `Event.wait` would wait for the lock it holds itself.
    woken, waker = socket.socketpair()
    waker.setblocking(False)

    def stop(number: int, frame: object) -> None:
        with contextlib.suppress(BlockingIOError):
            waker.send(b"\0")

    def is_stopped(within: float) -> bool:
        return bool(select.select([woken], [], [], within)[0])

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield is_stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        woken.close()
        waker.close()


def _interval(text: str) -> float:
    number = seconds(text)
    if not 0.1 <= number <= 3600:
        raise ArgumentTypeError(f"{text!r}: from 0.1 to 3600 seconds")
    return number
