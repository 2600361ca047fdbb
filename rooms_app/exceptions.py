"""What can go wrong, as one tree.

RoomsError
├── RoomsConfigurationError   (also ImproperlyConfigured)
├── MessageDefinitionError    (also TypeError)
├── UnknownMessage            (also LookupError)
├── MessageTooLarge           (also ValueError)
├── InvalidRoom               (also ValueError)
├── ForbiddenRoom
├── Refused                   (in closing)
├── Unavailable
│   ├── RoomsUnavailable
│   └── BusUnavailable
├── NoHandler                 (in bus; also LookupError)
├── EmbeddedRedisError        (in embedded)
│   └── EmbeddedRedisInUse
└── ConnectionClosed
"""

from __future__ import annotations

from django.core.exceptions import ImproperlyConfigured


class RoomsError(Exception):
    """Something in rooms_app went wrong."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or type(self).__doc__)


class RoomsConfigurationError(RoomsError, ImproperlyConfigured):
    """The project's settings can't carry rooms."""


class MessageDefinitionError(RoomsError, TypeError):
    """A message class has no MESSAGE_ID, a reserved one, or one that another class has."""


class UnknownMessage(RoomsError, LookupError):  # noqa: N818 - reads as the sentence it is
    """No message class has this MESSAGE_ID."""


class MessageTooLarge(RoomsError, ValueError):  # noqa: N818
    """The message is larger than ROOMS["max_message_bytes"] allows, or goes to more rooms than one send takes."""


class InvalidRoom(RoomsError, ValueError):  # noqa: N818
    """A room name is a non-empty text of at most 255 characters."""

    def __init__(self, room: object, message: str | None = None) -> None:
        super().__init__(message)
        self.room = room


class ForbiddenRoom(RoomsError):  # noqa: N818
    """This connection may not join this room."""

    def __init__(self, room: str, message: str | None = None) -> None:
        super().__init__(message or f"This connection may not join the room {room!r}.")
        self.room = room


class Unavailable(RoomsError):  # noqa: N818
    """Something that is needed does not answer; a later try may succeed."""


class RoomsUnavailable(Unavailable):
    """The channel layer did not confirm: the message was perhaps sent, perhaps not."""


class BusUnavailable(Unavailable):
    """Neither the broker nor the outbox took the bus message."""


class ConnectionClosed(RoomsError):  # noqa: N818
    """The WebSocket is closed."""

    def __init__(self, code: int = 1005, reason: str = "") -> None:
        super().__init__(f"The WebSocket is closed: {code} {reason}".rstrip())
        self.code = code
        self.reason = reason


def explain(error: BaseException) -> str:
    """An error in a line. Not `repr`: redis-py 8 leaves the text out of its own."""
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
