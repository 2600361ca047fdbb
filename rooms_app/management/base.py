"""What the commands for operators share: an example in the help, `--json`, and errors that are a sentence and a status.

The exit status is 0 for done, 1 for what could not be done (no Redis, no such user), 2 for what can't be meant.
"""

from __future__ import annotations

import json
import math
import os
import sys
from argparse import ArgumentTypeError
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from channels.layers import InMemoryChannelLayer
from django.contrib.auth import get_user_model
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError

from rooms_app.advice import advice
from rooms_app.exceptions import (
    InvalidRoom,
    MessageTooLarge,
    RoomsConfigurationError,
    RoomsError,
    RoomsUnavailable,
    UnknownMessage,
    explain,
)
from rooms_app.layers import RoomsRedisChannelLayer
from rooms_app.rooms import check_room
from rooms_app.transport import channel_layer

#: The exit status for what was asked wrongly; argparse's own.
MISUSE = 2

_BY_KEY = "pk:"


class RoomsCommand(BaseCommand):
    """A command that says what it does by example, and never answers with a traceback."""

    #: The arguments of a typical call, for the end of the help.
    example: ClassVar[str] = ""
    # An operator's tools must not depend on the health of anything but the channel layer.
    requires_system_checks = ()

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        """The parser, with an example at the end of its help."""
        example = f"Example: python manage.py {subcommand} {self.example}".rstrip()
        return super().create_parser(prog_name, subcommand, epilog=example, **kwargs)

    def add_json_argument(self, parser: CommandParser, *, help: str = "print one JSON object") -> None:
        """Give the command `--json`, as the option `as_json`."""
        parser.add_argument("--json", action="store_true", dest="as_json", help=help)

    def add_user_argument(self, parser: CommandParser, name: str = "user") -> None:
        """Give the command a user, for `find_user`: an argument, or the option `--user`."""
        parser.add_argument(name, metavar="USER", help="by user name or pk:<pk>")

    def execute(self, *args: Any, **options: Any) -> str | None:
        """Run the command; what goes wrong as it may is raised as `CommandError`."""
        try:
            with command_errors():
                return super().execute(*args, **options)
        except BrokenPipeError:
            # Who reads has had enough, as `head` does. Python would complain once more at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return None

    def write_json(self, value: Any) -> None:
        """Print a value as one line of JSON, at once."""
        self.stdout.write(json.dumps(value, ensure_ascii=False))
        self.stdout.flush()


@contextmanager
def command_errors() -> Iterator[None]:
    """Turn what a command may meet into a `CommandError` with the status that tells its kind."""
    try:
        yield
    except RoomsUnavailable as error:
        # What it says is that the layer did not confirm: a send was perhaps sent.
        raise CommandError(f"{str(error).rstrip('.')}.{advice()}") from error
    except ImproperlyConfigured as error:
        raise CommandError(str(error)) from error
    except (InvalidRoom, MessageTooLarge, UnknownMessage) as error:
        raise CommandError(str(error), returncode=MISUSE) from error
    except RoomsError as error:
        raise CommandError(str(error)) from error
    except DatabaseError as error:
        raise CommandError(f"The database does not answer: {explain(error)}.") from error


@contextmanager
def layer_errors() -> Iterator[None]:
    """Take whatever a channel layer raises for one that does not answer; ours and configuration errors pass."""
    try:
        yield
    except (RoomsError, ImproperlyConfigured, CommandError):
        raise
    except Exception as error:
        raise CommandError(f"The channel layer does not answer: {explain(error)}.{advice()}") from error


def shared_layer(purpose: str) -> Any:
    """The project's channel layer. Raises `RoomsConfigurationError` where it reaches no other process."""
    layer = channel_layer()
    if isinstance(layer, InMemoryChannelLayer):
        raise RoomsConfigurationError(f"The in-memory channel layer reaches no other process: {purpose} needs Redis.")
    return layer


def counts_all_processes(layer: Any) -> bool:
    """Whether this layer keeps the counts of connections; on others each process knows its own alone."""
    return isinstance(layer, RoomsRedisChannelLayer) and layer.has_history


def find_user(text: str) -> Any:
    """The user with this name, or of `pk:<pk>`. Raises `CommandError` where there is none."""
    model = get_user_model()
    field = "pk" if text.startswith(_BY_KEY) else model.USERNAME_FIELD
    value = text.removeprefix(_BY_KEY) if field == "pk" else text
    try:
        return model._default_manager.get(**{field: value})
    except model.DoesNotExist:
        by_key = "" if field == "pk" else f"; by primary key, write {_BY_KEY}<pk>"
        raise CommandError(f"No user has the {field} {value!r}{by_key}.") from None
    except model.MultipleObjectsReturned:
        raise CommandError(f"Several users have the {field} {value!r}: write {_BY_KEY}<pk>.") from None
    except (ValueError, ValidationError, OverflowError):
        raise CommandError(f"{value!r} is no {field} of a user.", returncode=MISUSE) from None


def counted(number: int, singular: str, plural: str | None = None) -> str:
    """A number with its noun: `1 room`, `2 rooms`."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def room_name(text: str) -> str:
    """A room name, as an argument's type."""
    try:
        return check_room(text)
    except InvalidRoom as error:
        raise ArgumentTypeError(str(error)) from error


def seconds(text: str) -> float:
    """A number of seconds from 0 on, as an argument's type."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise ArgumentTypeError(f"{text!r} is no number of seconds")
    return number


def whole_number(text: str) -> int:
    """A whole number from 1 on, as an argument's type."""
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text)):
        raise ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)
