"""The message whose way through the storm is followed."""

from rooms_app import WebSocketMessage


class Numbered(WebSocketMessage):
    """Its number in each of the rooms that it is sent to."""

    MESSAGE_ID = "tests.numbered"
    numbers: dict[str, int]
