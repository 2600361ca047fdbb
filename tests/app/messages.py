"""Message types that the tests send."""

from rooms_app import WebSocketMessage


class Note(WebSocketMessage):
    """A numbered text."""

    MESSAGE_ID = "tests.note"
    number: int = 0
    text: str = ""


class KeptNote(WebSocketMessage):
    """A note that leaves by way of the outbox."""

    MESSAGE_ID = "tests.kept"
    OUTBOX = True
    number: int = 0
    text: str = ""
