"""The demo's one message type; rooms_app finds it here, as in every installed app."""

from datetime import datetime

from rooms_app import WebSocketMessage


class ChatMessage(WebSocketMessage):
    """What somebody said in a room, as each of the room's sockets gets it."""

    MESSAGE_ID = "chat.message"

    user_id: str
    username: str
    content: str
    #: When the server took the message; aware, so that the browser can show it in the reader's own time.
    timestamp: datetime
