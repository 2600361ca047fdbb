"""How a handler says what is to become of its message: exceptions that `MessageOf` raises for it.

They are ordinary exceptions: a handler's own `except Exception` catches them too, so raise them on.
"""

from __future__ import annotations


class HandlerControl(Exception):  # noqa: N818 - not an error
    """What a handler decided about its message."""


class RetryRequested(HandlerControl):
    """The handler asks to be tried again."""

    def __init__(self, delay: float | None = None) -> None:
        super().__init__("The handler asked for a retry.")
        #: In seconds; None for as long as its `Retry` says.
        self.delay = delay


class Rejected(HandlerControl):
    """The handler wants nothing more of this message."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason or "The handler rejected it.")
