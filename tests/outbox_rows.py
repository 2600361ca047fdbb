"""What the tests of the outbox share: a kind of its own, what has left of it, and time that passes at once."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.db import DatabaseError

from rooms_app.exceptions import RoomsError
from rooms_app.models import OutboxEntry
from rooms_app.relay import Stored

State = OutboxEntry.State

#: A kind that no one else carries.
KIND = "tests"
BROKEN = RoomsError("This can never leave.")


class Carried:
    """A carrier that keeps what it is given; for a key with an error here, that is raised instead."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.errors: dict[str, Exception] = {}

    def __call__(self, body: dict[str, Any], key: str, /) -> None:
        if key in self.errors:
            error = self.errors[key]
            raise type(error)(*error.args)
        assert body == {"of": key}
        self.keys.append(key)


def stored(*keys: str, **values: Any) -> list[Stored]:
    return [Stored(key=key, body={"of": key}, **values) for key in keys]


def entry(key: str) -> OutboxEntry:
    return OutboxEntry.objects.get(kind=KIND, key=key)


def states() -> dict[str, str]:
    return dict(OutboxEntry.objects.order_by("id").values_list("key", "state"))


def let_time_pass(**delta: float) -> None:
    """Move all that is stored into the past."""
    passed = timedelta(**delta)
    for row in OutboxEntry.objects.all():
        for name in ("due_at", "claimed_until", "done_at"):
            if getattr(row, name) is not None:
                setattr(row, name, getattr(row, name) - passed)
        row.save()


def refuse_changes(execute: Any, sql: str, *arguments: Any) -> Any:
    """A database that takes no more than new rows, as an `execute_wrapper`."""
    if sql.startswith(("UPDATE", "DELETE")):
        raise DatabaseError("gone away")
    return execute(sql, *arguments)
