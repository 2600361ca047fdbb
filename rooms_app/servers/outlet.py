"""What a server adapter is."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Protocol

from rooms_app.servers.frames import Batch


class Outlet(Protocol):
    """One connection's way out."""

    #: The path taken, for metrics and the debug log.
    name: ClassVar[str]
    #: Called when the server has room again, after `wait`.
    on_resume: Callable[[], None]

    @property
    def paused(self) -> bool:
        """Whether the server holds so much unsent that it should get no more for now."""

    @property
    def lost(self) -> bool:
        """Whether the connection has gone: what is written goes nowhere."""

    @property
    def has_unsent(self) -> bool:
        """Whether the server holds something that the kernel has not taken, as far as it shows."""

    def opened(self, send_buffer: int) -> None:
        """The connection was accepted: bound the kernel's part to so many bytes; 0 leaves it."""

    def write(self, batch: Batch) -> None:
        """Hand the frames over, at once and in order. Never blocks, never raises for a lost connection."""

    def wait(self) -> None:
        """While paused: see to it that `on_resume` is called."""

    def close(self, code: int, reason: str, grace: float) -> None:
        """Queue a close frame behind what is unsent; after so many seconds reset what is still there."""

    async def finish(self) -> None:
        """After a close: return once the server has the close frame, or the grace is over."""


def nothing() -> None:
    """What an outlet calls while nobody waits for it."""
