"""An admin action for a team's own models: write to the rooms of the selected objects."""

from __future__ import annotations

from typing import Any, ClassVar
from urllib.parse import urlencode

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from rooms_app.admin.forms import check_writable
from rooms_app.admin.permission import may_send
from rooms_app.exceptions import InvalidRoom
from rooms_app.models import Broadcast
from rooms_app.registry import WebSocketMessageBase
from rooms_app.rooms import check_rooms

# In the session: room names may be long, and many; a URL may not.
_SESSION_KEY = "rooms_app.notify"


class NotifyRoomsMixin:
    """Give a `ModelAdmin` the action "Notify the selected objects' rooms"; `get_rooms` says which those are."""

    #: The message class to send; None to choose one.
    notify_message: ClassVar[type[WebSocketMessageBase] | None] = None

    def get_rooms(self, obj: Any) -> list[str]:
        """The rooms of an object. Each subclass says so."""
        raise NotImplementedError(f"{type(self).__name__} needs get_rooms(obj), which returns room names.")

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        # A subclass with `actions` of its own would replace a class attribute. None means no actions at all.
        actions = self.actions  # type: ignore[has-type]
        self.actions = None if actions is None else [*actions, notify_rooms]

    def has_notify_rooms_permission(self, request: HttpRequest) -> bool:
        """Whether the action is offered."""
        return may_send(request)


@admin.action(permissions=["notify_rooms"], description="Notify the selected objects' rooms")
def notify_rooms(model_admin: Any, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponse | None:
    """Lead to the form of a broadcast with the rooms filled in."""
    try:
        rooms = list(dict.fromkeys(room for obj in queryset for room in check_rooms(model_admin.get_rooms(obj))))
        if not rooms:
            messages.warning(request, "The selected objects have no rooms.")
            return None
        return leave_rooms(request, rooms, message=model_admin.notify_message, site=model_admin.admin_site.name)
    except InvalidRoom as error:
        messages.error(request, str(error))
        return None


def leave_rooms(
    request: HttpRequest, rooms: list[str], *, message: type[WebSocketMessageBase] | None = None, site: str = "admin"
) -> HttpResponse:
    """Lead to the form of a broadcast to these rooms, of this type or one to choose. Raises `InvalidRoom`."""
    check_writable(rooms)
    request.session[_SESSION_KEY] = rooms
    query = {"notify": "1"} if message is None else {"type": message.MESSAGE_ID, "notify": "1"}
    url = reverse("admin:rooms_app_broadcast_add", current_app=site)
    return HttpResponseRedirect(f"{url}?{urlencode(query)}")


def take_rooms(request: HttpRequest) -> dict[str, Any]:
    """What the form starts with: the rooms that the action has left, where it led here."""
    rooms = request.session.get(_SESSION_KEY) if "notify" in request.GET else None
    return {"audience": Broadcast.Audience.ROOMS, "rooms": rooms} if rooms else {}
