"""Broadcasts in the admin: choose a message type, write, preview, then send, schedule or cancel."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlencode

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import router, transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path, reverse

from rooms_app import broadcasts, envelope
from rooms_app.admin.forms import DeliveryForm, delivery_initial
from rooms_app.admin.notify import take_rooms
from rooms_app.admin.permission import may_send, message_type, message_types
from rooms_app.exceptions import RoomsError, UnknownMessage
from rooms_app.forms import form_class
from rooms_app.models import AuditEntry, Broadcast
from rooms_app.registry import WebSocketMessageBase

State = Broadcast.State
Audience = Broadcast.Audience

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Broadcast]
else:
    ModelAdmin = admin.ModelAdmin


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What a client would get, and how many would."""

    exact: str = ""
    pretty: str = ""
    #: Why there is no frame.
    error: str = ""
    #: How many connections, in words.
    reach: str = ""


@admin.register(Broadcast)
class BroadcastAdmin(ModelAdmin):
    """For those with the permission to send, and nobody else."""

    list_display = ("message_type", "audience", "state", "send_at", "sent_at", "reached", "created_by", "created_at")
    list_filter = ("state", "audience", "message_type")
    date_hierarchy = "created_at"
    list_select_related = ("created_by",)
    search_fields = ("message_type",)

    # Who may.

    def has_module_permission(self, request: HttpRequest) -> bool:
        return may_send(request)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return may_send(request)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return may_send(request)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return may_send(request)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody: what was sent is on record, and what was not can be cancelled."""
        return False

    # The pages.

    def get_urls(self) -> list[Any]:
        """The admin's own, and one for each thing to do."""
        view = self.admin_site.admin_view
        own = [
            path("<uuid:pk>/edit/", view(self.edit_view), name="rooms_app_broadcast_edit"),
            path("<uuid:pk>/send/", view(self._doing(self._send)), name="rooms_app_broadcast_send"),
            path("<uuid:pk>/schedule/", view(self._doing(self._schedule)), name="rooms_app_broadcast_schedule"),
            path("<uuid:pk>/cancel/", view(self._doing(self._cancel)), name="rooms_app_broadcast_cancel"),
        ]
        return own + super().get_urls()

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        """Choose a message type, then fill its form."""
        self._check(request)
        message_id = request.GET.get("type")
        if message_id is None:
            return self._choose(request)
        found = self._type(request, message_id)
        if found is None:
            return HttpResponseRedirect(self._url("add"))
        return self._form(request, found, Broadcast(message_type=message_id), initial=take_rooms(request))

    def edit_view(self, request: HttpRequest, pk: Any) -> HttpResponse:
        """The form again, until it is on its way."""
        broadcast = self._get(request, pk)
        if broadcast.state not in broadcasts.EDITABLE:
            messages.error(request, f"It is {broadcast.get_state_display().lower()}: it can't be changed any more.")
            return self._to_page(pk)
        found = self._type(request, broadcast.message_type)
        if found is None:
            return self._to_page(pk)
        return self._form(request, found, broadcast, initial=delivery_initial(broadcast))

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        """One broadcast: the frame, what became of it, and what can be done with it. To read only."""
        broadcast = self._get(request, object_id)
        if request.method not in ("GET", "HEAD"):
            return HttpResponseNotAllowed(["GET", "HEAD"])
        preview = self._preview(broadcast)
        can_send = broadcast.state in broadcasts.SENDABLE and not preview.error
        context = {
            "broadcast": broadcast,
            "preview": preview,
            "entries": AuditEntry.objects.filter(target=broadcasts.target_of(broadcast)),
            "chosen_users": broadcast.users.all()[:20],
            "can_send": can_send,
            "can_schedule": can_send and broadcast.state == State.DRAFT and broadcast.send_at is not None,
            "can_edit": broadcast.state in broadcasts.EDITABLE,
            "can_cancel": broadcast.state in broadcasts.SENDABLE,
        }
        return self._page(request, "broadcast", f"Message {broadcast.message_type}", context)

    # What the pages are made of.

    def _choose(self, request: HttpRequest) -> HttpResponse:
        kept = {name: value for name, value in request.GET.items() if name == "notify"}
        choices = [
            {
                "id": each.MESSAGE_ID,
                "about": (each.__doc__ or "").strip().partition("\n")[0],
                "query": urlencode({"type": each.MESSAGE_ID, **kept}),
            }
            for each in message_types(request)
        ]
        return self._page(request, "choose", "Choose a message type", {"choices": choices})

    def _form(
        self, request: HttpRequest, found: type[WebSocketMessageBase], broadcast: Broadcast, *, initial: dict[str, Any]
    ) -> HttpResponse:
        message_form_class = form_class(found)
        message_form = message_form_class(
            data=request.POST or None, initial=message_form_class.initial_from(broadcast.payload), prefix="message"
        )
        delivery = DeliveryForm(data=request.POST or None, initial=initial, request=request)
        if request.method == "POST":
            # Both: all that is wrong is shown at once.
            are_valid = [message_form.is_valid(), delivery.is_valid()]
            if all(are_valid):
                # The form's class is `found`.
                message = cast(WebSocketMessageBase, message_form.message)
                return self._save(request, broadcast, message, delivery.cleaned_data)
        context = {
            "message_form": message_form,
            "delivery": delivery,
            "media": self.media + message_form.media + delivery.media,
            "about": (found.__doc__ or "").strip().partition("\n")[0],
            "message_id": found.MESSAGE_ID,
            "broadcast": None if broadcast._state.adding else broadcast,
        }
        return self._page(request, "form", f"Message {found.MESSAGE_ID}", context)

    def _save(
        self, request: HttpRequest, broadcast: Broadcast, message: WebSocketMessageBase, delivery: dict[str, Any]
    ) -> HttpResponse:
        users = delivery.pop("users")
        values = {**delivery, "payload": broadcasts.payload_of(message), "state": State.DRAFT, "error": ""}
        with transaction.atomic(using=router.db_for_write(Broadcast)):
            if broadcast._state.adding:
                action = "created"
                for name, value in values.items():
                    setattr(broadcast, name, value)
                broadcast.created_by = request.user  # type: ignore[assignment]
                broadcast.save()
            else:
                action = "edited"
                # Compare and set: the scheduler may have taken it while the operator wrote.
                mine = Broadcast.objects.filter(pk=broadcast.pk, state__in=broadcasts.EDITABLE)
                if not mine.update(**values, claimed_until=None):
                    messages.error(request, "Not saved: it is on its way already.")
                    return self._to_page(broadcast.pk)
            broadcast.users.set(users)
            AuditEntry.record(request.user, action, broadcasts.target_of(broadcast), type=broadcast.message_type)
        return self._to_page(broadcast.pk)

    def _preview(self, broadcast: Broadcast) -> Preview:
        try:
            message = broadcasts.message_of(broadcast)
            # One more than is counted, to see whether there are more.
            parts = list(islice(broadcasts.room_parts(broadcast), broadcasts.PARTS_PER_PREVIEW + 1))
        except RoomsError as error:
            return Preview(error=str(error))
        rooms = [room for part in parts for room in part]
        if not rooms:
            return Preview(error="Nobody: no active user is chosen, or found by the query.")
        exact = envelope.addressed(envelope.encode(message), rooms[0])
        pretty = json.dumps(json.loads(exact), ensure_ascii=False, indent=2)
        if broadcast.state not in broadcasts.SENDABLE:
            return Preview(exact=exact, pretty=pretty)
        return Preview(exact=exact, pretty=pretty, reach=_reach(parts))

    # What the buttons do.

    def _doing(self, action: Callable[[HttpRequest, Broadcast], None]) -> Callable[..., HttpResponse]:
        """The view of a button: POST only, then back to the page."""

        def view(request: HttpRequest, pk: Any) -> HttpResponse:
            broadcast = self._get(request, pk)
            if request.method != "POST":
                return HttpResponseNotAllowed(["POST"])
            if self._type(request, broadcast.message_type) is not None:
                action(request, broadcast)
            return self._to_page(pk)

        return view

    def _send(self, request: HttpRequest, broadcast: Broadcast) -> None:
        is_retry = broadcast.state == State.FAILED
        with transaction.atomic(using=router.db_for_write(Broadcast)):
            if not broadcasts.send_now(broadcast.pk, request.user):
                messages.warning(request, "Not sent again: somebody else was first.")
                return
            if is_retry:
                AuditEntry.record(request.user, "retried", broadcasts.target_of(broadcast))
        # It has gone out by now, or has failed; inside ATOMIC_REQUESTS it does at the end of the request.
        broadcast.refresh_from_db()
        match broadcast.state:
            case State.SENT:
                messages.success(request, "Sent.")
            case State.FAILED:
                messages.error(request, "Not sent: see below.")
            case _:
                messages.info(request, "It is being sent.")

    def _schedule(self, request: HttpRequest, broadcast: Broadcast) -> None:
        if broadcasts.schedule(broadcast.pk, request.user):
            messages.success(request, "Scheduled. A running manage.py rooms_scheduler sends it.")
        else:
            messages.warning(request, "Not scheduled: it has no time, or is no draft any more.")

    def _cancel(self, request: HttpRequest, broadcast: Broadcast) -> None:
        if broadcasts.cancel(broadcast.pk, request.user):
            messages.success(request, "Cancelled. Nobody gets it.")
        else:
            messages.warning(request, "Not cancelled: it is on its way, or has gone out.")

    # Small things.

    def _check(self, request: HttpRequest) -> None:
        if not may_send(request):
            raise PermissionDenied

    def _get(self, request: HttpRequest, pk: Any) -> Broadcast:
        self._check(request)
        broadcast = self.get_object(request, str(pk))
        if broadcast is None:
            raise Http404("There is no such broadcast.")
        return broadcast

    def _type(self, request: HttpRequest, message_id: str) -> type[WebSocketMessageBase] | None:
        """The message class, or None after telling the operator why there is none."""
        try:
            return message_type(request, message_id)
        except UnknownMessage as error:
            messages.error(request, str(error))
            return None

    def _to_page(self, pk: Any) -> HttpResponseRedirect:
        return HttpResponseRedirect(self._url("change", pk))

    def _url(self, name: str, *args: Any) -> str:
        return reverse(f"admin:rooms_app_broadcast_{name}", args=args, current_app=self.admin_site.name)

    def _page(self, request: HttpRequest, name: str, title: str, context: dict[str, Any]) -> HttpResponse:
        whole = {**self.admin_site.each_context(request), "opts": self.opts, "title": title, **context}
        request.current_app = self.admin_site.name
        return TemplateResponse(request, f"admin/rooms_app/broadcast/{name}.html", whole)


def _reach(parts: Sequence[list[str]]) -> str:
    """How many connections there are to reach now, in words."""
    counted = parts[: broadcasts.PARTS_PER_PREVIEW]
    reach = broadcasts.reach_of(counted)
    if reach is None:
        return "unknown: Redis does not answer"
    rooms = sum(map(len, counted))
    if len(counted) < len(parts):
        return f"more than {reach:,}: only the first {rooms:,} users are counted"
    return f"{'at most' if rooms > 1 else 'about'} {reach:,}"
