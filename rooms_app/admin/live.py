"""Live rooms in the admin: rooms, processes and a user's connections; kick her, close a room, write to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import get_script_prefix, path, reverse

from rooms_app.admin.notify import leave_rooms
from rooms_app.admin.permission import may_send
from rooms_app.context import use_ws_manager
from rooms_app.counts import list_rooms_sync
from rooms_app.exceptions import InvalidRoom, RoomsError
from rooms_app.live_views import ConnectionShown, ListView, RoomView, find_user, name_in
from rooms_app.models import AuditEntry, LiveRoom
from rooms_app.reports import connections_of_sync
from rooms_app.rooms import check_room
from rooms_app.watching import PATH

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[LiveRoom]
else:
    ModelAdmin = admin.ModelAdmin


@admin.register(LiveRoom)
class LiveRoomAdmin(ModelAdmin):
    """For those who may see rooms; kicks and closings are for those who may moderate."""

    def has_module_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("rooms_app.view_live_rooms")

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("rooms_app.view_live_rooms")

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Rooms come and go by themselves."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_urls(self) -> list[Any]:
        """The list, and what can be done; there are no objects, so no pages of one."""
        view = self.admin_site.admin_view
        return [
            path("", view(self.changelist_view), name="rooms_app_liveroom_changelist"),
            path("room/", view(self.room_view), name="rooms_app_liveroom_room"),
            path("do/", view(self.do_view), name="rooms_app_liveroom_do"),
        ]

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """Rooms with most connections first, and one user's connections where she is named."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        view, name = ListView.of(request.GET), name_in(request.GET)
        context = {
            **self._context(request, "Live rooms"),
            "match": view.match,
            "name": name,
            "live_url": _live_url(_query(view) + (f"&{urlencode({'user': name})}" if name else "")),
        }
        try:
            listing = list_rooms_sync(**view.window)
            context["listing"] = listing
            context["before"] = _query(view, step=-1) if view.page > 1 else ""
            context["after"] = _query(view, step=1)
            context["has_more"] = view.has_more(listing)
            if name:
                user = find_user(name)
                context["user_found"] = user
                reports = [] if user is None else connections_of_sync(user)
                context["connections"] = [ConnectionShown.of(report) for report in reports]
        except RoomsError as error:
            context["error"] = str(error)
        return TemplateResponse(request, "admin/rooms_app/live/list.html", context)

    def room_view(self, request: HttpRequest) -> HttpResponse:
        """One room: how many connections it has, and who is in it, where its presence is tracked."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        room = request.GET.get("name", "")
        context = {
            **self._context(request, f"Room {room}"),
            "room": room,
            "live_url": _live_url(urlencode({"room": room})),
        }
        try:
            context["shown"] = RoomView(room).read_sync()
        except RoomsError as error:
            context["error"] = str(error)
        return TemplateResponse(request, "admin/rooms_app/live/room.html", context)

    def do_view(self, request: HttpRequest) -> HttpResponse:
        """Close a room, kick a user, or write to a room; by POST, the first two once they are confirmed."""
        if request.method != "POST":
            return HttpResponseRedirect(self._url())
        room, name, act = (request.POST.get(key, "") for key in ("room", "user", "act"))
        if act == "send" and may_send(request):
            return self._write_to(request, room)
        if act not in ("close", "kick") or not request.user.has_perm("rooms_app.moderate_rooms"):
            raise PermissionDenied
        if "confirmed" not in request.POST:
            what = f"Close the room {room}" if act == "close" else f"Kick {name}"
            context = {**self._context(request, f"{what}?"), "what": what, "act": act, "room": room, "name": name}
            return TemplateResponse(request, "admin/rooms_app/live/confirm.html", context)
        try:
            done = _close_room(room) if act == "close" else _kick(name)
        except RoomsError as error:
            messages.error(request, f"It could not be done: {error}")
        else:
            AuditEntry.record(request.user, "closed" if act == "close" else "kicked", done)
            messages.success(request, f"Every process was told to close the connections of {done}.")
        return HttpResponseRedirect(self._url())

    def _context(self, request: HttpRequest, title: str) -> dict[str, Any]:
        return {
            **self.admin_site.each_context(request),
            "title": title,
            "opts": self.opts,
            "may_moderate": request.user.has_perm("rooms_app.moderate_rooms"),
            "may_send": may_send(request),
        }

    def _write_to(self, request: HttpRequest, room: str) -> HttpResponse:
        try:
            return leave_rooms(request, [check_room(room)], site=self.admin_site.name)
        except InvalidRoom as error:
            messages.error(request, str(error))
            return HttpResponseRedirect(self._url())

    def _url(self) -> str:
        return reverse("admin:rooms_app_liveroom_changelist", current_app=self.admin_site.name)


def _query(view: ListView, *, step: int = 0) -> str:
    return urlencode({"match": view.match, "page": view.page + step})


def _live_url(query: str) -> str:
    return f"{get_script_prefix()}{PATH}?{query}"


def _close_room(room: str) -> str:
    use_ws_manager().close_room_sync(room, robust=False)
    return f"room {room}"


def _kick(name: str) -> str:
    user = find_user(name)
    if user is None:
        raise RoomsError(f"No user is called {name!r}.")
    use_ws_manager().disconnect_user_sync(user, robust=False)
    return f"user {name}"
