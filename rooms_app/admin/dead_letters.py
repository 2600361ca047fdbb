"""Dead letters in the admin: why each bus message was given up, and a button to have it handled once more."""

from __future__ import annotations

import json
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path, reverse

from rooms_app.admin.requeuing import RequeueAdmin
from rooms_app.exceptions import RoomsError
from rooms_app.models import AuditEntry, DeadLetter
from rooms_app.requeue import requeue, target_of


def reason_label(reason: str) -> str:
    """Why, in words; a reason that this version doesn't know as it is."""
    return dict(DeadLetter.Reason.choices).get(reason, reason)


class ReasonFilter(admin.SimpleListFilter):
    """By reason, in words."""

    title = "reason"
    parameter_name = "reason"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Those that there are."""
        found = model_admin.get_queryset(request).order_by("reason").values_list("reason", flat=True).distinct()
        return [(reason, reason_label(reason)) for reason in found]

    def queryset(self, request: HttpRequest, queryset: QuerySet[DeadLetter]) -> QuerySet[DeadLetter]:
        """Those with the chosen one."""
        return queryset.filter(reason=self.value()) if self.value() else queryset


@admin.register(DeadLetter)
class DeadLetterAdmin(RequeueAdmin):
    """To read, for those who may view them; to requeue, for those who may do that."""

    list_display = ("died_at", "topic", "short_handler", "why", "attempts", "state")
    list_filter = ("state", ReasonFilter, "topic", "handler")
    date_hierarchy = "died_at"
    search_fields = ("topic", "handler", "error", "id")
    actions = ("requeue_selected",)

    # The list.

    @admin.display(description="handler", ordering="handler")
    def short_handler(self, letter: DeadLetter) -> str:
        """Its name without the modules it is in."""
        return ".".join(letter.handler.split(".")[-2:])

    @admin.display(description="reason", ordering="reason")
    def why(self, letter: DeadLetter) -> str:
        """The reason, in words."""
        return reason_label(letter.reason)

    @admin.action(description="Requeue the selected dead letters", permissions=["requeue"])
    def requeue_selected(self, request: HttpRequest, queryset: QuerySet[DeadLetter]) -> None:
        """Each by itself: one that can't be requeued keeps none of the others."""
        requeued = already = 0
        for letter in queryset:
            try:
                is_requeued = requeue(letter.pk, request.user)
            except RoomsError as error:
                messages.error(request, f"{letter.pk}: {error}")
                continue
            requeued, already = requeued + is_requeued, already + (not is_requeued)
        if requeued:
            messages.success(request, f"Requeued: {requeued}.")
        if already:
            messages.warning(request, f"Somebody else was first: {already}.")

    # The page of one.

    def get_urls(self) -> list[Any]:
        """The admin's own, and the button's."""
        view = self.admin_site.admin_view(self.requeue_view)
        return [path("<uuid:pk>/requeue/", view, name="rooms_app_deadletter_requeue"), *super().get_urls()]

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        """All that is known of it. To read only."""
        letter = self._get(request, object_id)
        if request.method not in ("GET", "HEAD"):
            return HttpResponseNotAllowed(["GET", "HEAD"])
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": f"Dead letter {letter.topic}".rstrip(),
            "letter": letter,
            "delivery": letter.delivery if isinstance(letter.delivery, dict) else {},
            "payload": _pretty(letter.delivery),
            "reason": reason_label(letter.reason),
            "can_requeue": self.has_requeue_permission(request) and letter.state == DeadLetter.State.DEAD,
            "entries": AuditEntry.objects.filter(target=target_of(letter)),
        }
        request.current_app = self.admin_site.name
        return TemplateResponse(request, "admin/rooms_app/dead_letter.html", context)

    def requeue_view(self, request: HttpRequest, pk: Any) -> HttpResponse:
        """The button: POST only, then back to the page."""
        if not self.has_requeue_permission(request):
            raise PermissionDenied
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        letter = self._get(request, pk)
        try:
            if requeue(letter.pk, request.user):
                messages.success(request, "Requeued. A running worker handles it as if for the first time.")
            else:
                messages.warning(request, "Not requeued again: somebody else was first.")
        except RoomsError as error:
            messages.error(request, f"It can't be requeued: {error}")
        url = reverse("admin:rooms_app_deadletter_change", args=[letter.pk], current_app=self.admin_site.name)
        return HttpResponseRedirect(url)

    def _get(self, request: HttpRequest, pk: Any) -> DeadLetter:
        if not self.has_view_permission(request):
            raise PermissionDenied
        letter: DeadLetter | None = self.get_object(request, str(pk))
        if letter is None:
            raise Http404("There is no such dead letter.")
        return letter


def _pretty(delivery: Any) -> str:
    """The payload over several lines; as it is where it is no JSON, and all there is where it is no delivery."""
    try:
        value = json.loads(delivery["payload"])
    except (KeyError, TypeError):
        value = delivery
    except ValueError:
        return str(delivery["payload"])
    return json.dumps(value, ensure_ascii=False, indent=2)
