"""Who may send, and what."""

from __future__ import annotations

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest

from rooms_app.broadcasts import PERMISSION
from rooms_app.exceptions import UnknownMessage
from rooms_app.registry import WebSocketMessageBase, is_own, registry, sendable


def may_send(request: HttpRequest) -> bool:
    """Whether this operator may send messages to users."""
    return request.user.has_perm(PERMISSION)


def message_types(request: HttpRequest) -> list[type[WebSocketMessageBase]]:
    """The message classes that this operator may send, by MESSAGE_ID; none of rooms_app's own."""
    types = [each for each in registry if not is_own(each)]
    return sorted((each for each in types if each.may_broadcast(request.user)), key=lambda each: each.MESSAGE_ID)


def message_type(request: HttpRequest, message_id: str) -> type[WebSocketMessageBase]:
    """The class with this MESSAGE_ID. Raises `UnknownMessage`, and `PermissionDenied` for one not for this operator."""
    found = sendable(message_id)
    if not found.may_broadcast(request.user):
        raise PermissionDenied(f"This operator may not send {message_id!r}.")
    return found


def may_send_type(request: HttpRequest, message_id: str) -> bool:
    """Whether this operator may do anything with messages of this type; what is of none any more, anyone may cancel."""
    try:
        message_type(request, message_id)
    except PermissionDenied:
        return False
    except UnknownMessage:
        pass
    return True
