"""The end of a Daphne process: Twisted cuts its clients off, which they see as 1006, unless they are told before."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterable
from typing import Any

from rooms_app.servers.outlet import Outlet

#: The process ends after so many seconds, whatever is written by then: a client that reads nothing holds up nobody.
_PATIENCE = 1.0
_LOOK_EVERY = 0.01

_is_arranged = False


def before_shutdown(close_all: Callable[[], Iterable[Outlet]]) -> None:
    """Have all connections closed when Daphne is told to end, and what that writes written before it does.

    The call closes them, and gives the outlets to wait for. Other servers close their connections themselves.
    """
    global _is_arranged
    # The running reactor, not an import: Daphne's apps module installs one in other servers' processes too.
    reactor = sys.modules.get("twisted.internet.reactor")
    if not _is_arranged and getattr(reactor, "running", False):
        _is_arranged = True
        # https://docs.twisted.org/en/stable/api/twisted.internet.interfaces.IReactorCore.html#addSystemEventTrigger
        reactor.addSystemEventTrigger("before", "shutdown", _shut_down, close_all)  # type: ignore[union-attr]


def _shut_down(close_all: Callable[[], Iterable[Outlet]]) -> Any:
    """A Deferred, which Twisted waits for."""
    # At once: Daphne has cancelled the applications a moment ago, and they are gone by the next turn of the loop.
    outlets = list(close_all())
    written = asyncio.ensure_future(_written(outlets))
    return sys.modules["twisted.internet.defer"].Deferred.fromFuture(written)


async def _written(outlets: Iterable[Outlet]) -> None:
    until = asyncio.get_running_loop().time() + _PATIENCE
    for outlet in outlets:
        while outlet.has_unsent:
            if asyncio.get_running_loop().time() > until:
                return
            await asyncio.sleep(_LOOK_EVERY)
    # The portable outlet does not see what the server itself still holds.
    await asyncio.sleep(_LOOK_EVERY)
