"""Broadcasts in the admin: choose a message type, write, preview, then send, schedule or cancel."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlencode

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import router, transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path, reverse
from pydantic import PydanticUserError

from rooms_app import broadcasts
from rooms_app.admin.forms import DeliveryForm, delivery_initial
from rooms_app.admin.notify import take_rooms
from rooms_app.admin.permission import may_send, may_send_type, message_type, message_types
from rooms_app.admin.preview import preview_of
from rooms_app.exceptions import UnknownMessage
from rooms_app.forms import form_class
from rooms_app.models import AuditEntry, Broadcast
from rooms_app.payloads import is_storable
from rooms_app.registry import WebSocketMessageBase, summary

State = Broadcast.State

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Broadcast]
else:
    ModelAdmin = admin.ModelAdmin


#: How many of the chosen users are named.
_USERS_SHOWN = 20
_CHANGED = "It was changed meanwhile, or is on its way already: look at it again."


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
            path(
                "<uuid:pk>/cancel/",
                view(self._doing(self._cancel, needs_type=False)),
                name="rooms_app_broadcast_cancel",
            ),
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
        preview = preview_of(broadcast, request.user)
        may_act = may_send_type(request, broadcast.message_type)
        can_send = may_act and broadcasts.is_sendable(broadcast) and not preview.error
        context = {
            "broadcast": broadcast,
            "preview": preview,
            "entries": AuditEntry.objects.filter(target=broadcasts.target_of(broadcast)),
            "chosen_users": broadcast.users.all()[:_USERS_SHOWN],
            "more_chosen": max(0, broadcast.users.count() - _USERS_SHOWN),
            "can_send": can_send,
            "can_schedule": can_send and broadcast.state == State.DRAFT and broadcast.send_at is not None,
            "can_edit": may_act and broadcast.state in broadcasts.EDITABLE,
            "can_cancel": may_act and broadcast.state in broadcasts.SENDABLE,
        }
        return self._page(request, "broadcast", f"Message {broadcast.message_type}", context)

    # What the pages are made of.

    def _choose(self, request: HttpRequest) -> HttpResponse:
        kept = {name: value for name, value in request.GET.items() if name == "notify"}
        choices = [
            {
                "id": each.MESSAGE_ID,
                "about": summary(each),
                "query": urlencode({"type": each.MESSAGE_ID, **kept}),
            }
            for each in message_types(request)
        ]
        return self._page(request, "choose", "Choose a message type", {"choices": choices})

    def _form(
        self, request: HttpRequest, found: type[WebSocketMessageBase], broadcast: Broadcast, *, initial: dict[str, Any]
    ) -> HttpResponse:
        try:
            message_form_class = form_class(found)
        except PydanticUserError as error:
            messages.error(
                request, f"The type {found.MESSAGE_ID} has no form, so it can't be sent here: {error.message}"
            )
            return HttpResponseRedirect(self._url("changelist"))
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
                payload = broadcasts.payload_of(message)
                if not is_storable(payload):
                    message_form.add_error(None, "It holds a character that can't be stored, such as NUL (\\u0000).")
                elif self._save(request, broadcast, payload, delivery.cleaned_data):
                    return self._to_page(broadcast.pk)
                else:
                    delivery.add_error(None, _CHANGED)
        context = {
            "message_form": message_form,
            "delivery": delivery,
            "media": self.media + message_form.media + delivery.media,
            "about": summary(found),
            "message_id": found.MESSAGE_ID,
            "broadcast": None if broadcast._state.adding else broadcast,
            "revision": broadcast.revision,
        }
        return self._page(request, "form", f"Message {found.MESSAGE_ID}", context)

    def _save(self, request: HttpRequest, broadcast: Broadcast, payload: Any, delivery: dict[str, Any]) -> bool:
        """Whether it is saved: not where it is on its way, or was changed by somebody else, while she wrote."""
        users = delivery["users"]
        values = {name: value for name, value in delivery.items() if name != "users"} | {"payload": payload}
        with transaction.atomic(using=router.db_for_write(Broadcast)):
            if broadcast._state.adding:
                action = "created"
                for name, value in values.items():
                    setattr(broadcast, name, value)
                broadcast.created_by = request.user  # type: ignore[assignment]
                broadcast.save()
            else:
                action = "edited"
                if not broadcasts.edit(broadcast.pk, _revision(request), **values):
                    return False
            broadcast.users.set(users)
            AuditEntry.record(request.user, action, broadcasts.target_of(broadcast), type=broadcast.message_type)
        return True

    # What the buttons do.

    def _doing(
        self, action: Callable[[HttpRequest, Broadcast], None], *, needs_type: bool = True
    ) -> Callable[..., HttpResponse]:
        """The view of a button: POST only, then back to the page."""

        def view(request: HttpRequest, pk: Any) -> HttpResponse:
            broadcast = self._get(request, pk)
            if request.method != "POST":
                return HttpResponseNotAllowed(["POST"])
            try:
                message_type(request, broadcast.message_type)
            except UnknownMessage as error:
                if needs_type:
                    messages.error(request, str(error))
                    return self._to_page(pk)
            action(request, broadcast)
            return self._to_page(pk)

        return view

    def _send(self, request: HttpRequest, broadcast: Broadcast) -> None:
        is_retry = broadcast.state == State.FAILED
        with transaction.atomic(using=router.db_for_write(Broadcast)):
            if not broadcasts.send_now(broadcast.pk, request.user, revision=_revision(request)):
                messages.warning(request, _why_not(request, broadcast, "Not sent again: somebody else was first."))
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
        if broadcasts.schedule(broadcast.pk, request.user, revision=_revision(request)):
            messages.success(request, "Scheduled. A running manage.py rooms_scheduler sends it.")
        else:
            text = _why_not(request, broadcast, "Not scheduled: it has no time, or is no draft any more.")
            messages.warning(request, text)

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


def _why_not(request: HttpRequest, broadcast: Broadcast, otherwise: str) -> str:
    broadcast.refresh_from_db()
    return otherwise if broadcast.revision == _revision(request) else _CHANGED


def _revision(request: HttpRequest) -> int:
    """The revision that the operator has looked at; 0, which there is none of, where she does not say."""
    text = request.POST.get("revision", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
