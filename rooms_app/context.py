"""The manager and the sender in force: the real ones anywhere in a Django process, or those a context provides."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rooms_app.manager import ChannelLayerManager, WebSocketConnectionManager
from rooms_app.sender import OnCommitSender, WebSocketMessageSender

_manager: ContextVar[WebSocketConnectionManager] = ContextVar("rooms_manager")
_sender: ContextVar[WebSocketMessageSender] = ContextVar("rooms_sender")


def use_ws_manager() -> WebSocketConnectionManager:
    """The connection manager: joins, leaves, and sends at once. Works anywhere in a Django process, with no set-up."""
    return _manager.get(_default_manager)


def use_ws_message_sender() -> WebSocketMessageSender:
    """The message sender that `message.send` uses: in sync code it sends after the commit."""
    return _sender.get(_default_sender)


@contextmanager
def provide_ws_manager(manager: WebSocketConnectionManager) -> Iterator[WebSocketConnectionManager]:
    """Put another manager in place, for the code inside the `with` and the tasks it starts."""
    token = _manager.set(manager)
    try:
        yield manager
    finally:
        _manager.reset(token)


@contextmanager
def provide_ws_message_sender(sender: WebSocketMessageSender) -> Iterator[WebSocketMessageSender]:
    """Put another sender in place, for the code inside the `with` and the tasks it starts."""
    token = _sender.set(sender)
    try:
        yield sender
    finally:
        _sender.reset(token)


_default_manager = ChannelLayerManager()
_default_sender = OnCommitSender(use_ws_manager)
