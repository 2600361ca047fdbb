"""Realtime rooms for Django teams: typed messages from anywhere in Django to every browser in the room."""

from rooms_app.closing import CloseCode, Refused
from rooms_app.connection import RoomSocket
from rooms_app.consumers import RoomConsumer
from rooms_app.context import (
    provide_ws_manager,
    provide_ws_message_sender,
    use_ws_manager,
    use_ws_message_sender,
)
from rooms_app.endpoints import websocket_endpoint
from rooms_app.exceptions import (
    ConnectionClosed,
    ForbiddenRoom,
    InvalidRoom,
    MessageDefinitionError,
    MessageTooLarge,
    RoomsConfigurationError,
    RoomsError,
    RoomsUnavailable,
    UnknownMessage,
)
from rooms_app.manager import SendOutcome, WebSocketConnectionManager
from rooms_app.messages import WebSocketMessage, WebSocketMessageBase
from rooms_app.positions import current_cursor, current_cursor_sync
from rooms_app.rooms import RoomName, group_name, user_room
from rooms_app.sender import WebSocketMessageSender

__version__ = "0.1.0"

__all__ = [
    "CloseCode",
    "ConnectionClosed",
    "ForbiddenRoom",
    "InvalidRoom",
    "MessageDefinitionError",
    "MessageTooLarge",
    "Refused",
    "RoomConsumer",
    "RoomName",
    "RoomSocket",
    "RoomsConfigurationError",
    "RoomsError",
    "RoomsUnavailable",
    "SendOutcome",
    "UnknownMessage",
    "WebSocketConnectionManager",
    "WebSocketMessage",
    "WebSocketMessageBase",
    "WebSocketMessageSender",
    "current_cursor",
    "current_cursor_sync",
    "group_name",
    "provide_ws_manager",
    "provide_ws_message_sender",
    "use_ws_manager",
    "use_ws_message_sender",
    "user_room",
    "websocket_endpoint",
]
