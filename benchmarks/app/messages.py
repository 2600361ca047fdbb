"""The one message that the benchmark sends."""

from rooms_app import WebSocketMessage


class BenchMessage(WebSocketMessage):
    """A line of a chat; its content carries the stamp that the receiver reads."""

    MESSAGE_ID = "bench.chat"

    content: str
