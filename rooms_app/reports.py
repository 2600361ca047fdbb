"""Where a user is connected, as the processes that have her connections tell when they are asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rooms_app.asking import ask_hubs
from rooms_app.background import background
from rooms_app.breaker import Breaker
from rooms_app.cancelling import within
from rooms_app.conf import rooms_settings
from rooms_app.ledger import ledger_for
from rooms_app.orders import REPORT, ConnectionReport, Order
from rooms_app.rooms import user_room
from rooms_app.transport import channel_layer

__all__ = ["ConnectionReport", "connections_of", "connections_of_sync"]

#: How long answers are waited for, in seconds.
_PATIENCE = 1.0
_breaker = Breaker(what="reports on users")


class _Answer(NamedTuple):
    process: str
    connections: Sequence[ConnectionReport]


async def connections_of(user: Any) -> list[ConnectionReport]:
    """A user's connections in all processes, the oldest first. Raises `RoomsUnavailable`.

    Waits until all processes have answered, or a second: what one that does not answer has is missing.
    """
    layer = channel_layer()
    with _breaker.attempt():
        async with within(rooms_settings().send_timeout):
            listing = await ledger_for(layer).list(match=None, offset=0, limit=0)
        expected = {count.process for count in listing.processes}
        answers = await ask_hubs(
            layer,
            lambda channel: Order(user=user_room(user), reply_to=channel).message(),
            _parse,
            is_enough=lambda answers: bool(expected) and expected <= {answer.process for answer in answers},
            patience=_PATIENCE,
        )
    found = [report for answer in answers for report in answer.connections]
    return sorted(found, key=lambda report: report.since)


def connections_of_sync(user: Any) -> list[ConnectionReport]:
    """`connections_of` for sync code."""
    return background.run(lambda: connections_of(user))


def _parse(answer: Mapping[str, Any]) -> _Answer | None:
    if answer.get("type") != REPORT:
        return None
    reports = map(ConnectionReport.parse, answer.get("connections", ()))
    return _Answer(str(answer.get("process")), [report for report in reports if report is not None])
