"""Close codes, and what they tell a client: 1000 or >= 4500, stop; anything else, reconnect."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from rooms_app.exceptions import RoomsError


class CloseCode(IntEnum):
    """The codes that rooms_app closes a connection with; each one's reason is `reason`."""

    DONE = 1000
    ERROR = 1011
    RESTART = 1012
    BUSY = 1013
    EXPIRED = 4005
    SLOW = 4008
    INSUFFICIENT_STATE = 4010
    RECONNECT = 4011
    TOO_MANY_FRAMES = 4013
    NOT_AUTHENTICATED = 4500
    BAD_REQUEST = 4501
    KICKED = 4503
    CONNECTION_LIMIT = 4504
    ROOM_LIMIT = 4505
    FORBIDDEN_ROOM = 4507

    @property
    def reason(self) -> str:
        """A few words for the client, such as "forbidden room"."""
        return self.name.lower().replace("_", " ")

    @property
    def is_final(self) -> bool:
        """Whether the client should not come back."""
        return self == CloseCode.DONE or self >= CloseCode.NOT_AUTHENTICATED


#: How long a client that may come back is asked to wait at least, in milliseconds.
RETRY_AFTER_MS = {CloseCode.BUSY: 5_000, CloseCode.TOO_MANY_FRAMES: 5_000}


def reason_of(code: int) -> str:
    """The reason of a code of ours, "" of any other."""
    try:
        return CloseCode(code).reason
    except ValueError:
        return ""


class Refused(RoomsError):  # noqa: N818
    """The connection is not let in, and closed with a code that says why."""

    def __init__(self, code: CloseCode, reason: str | None = None) -> None:
        super().__init__(f"{code.value} {reason or code.reason}")
        self.code = code
        self.reason = reason or code.reason


class Closing(NamedTuple):
    """How a connection was closed."""

    code: int
    reason: str
