"""The outbox in the admin: what waits, and what failed and can be tried again."""

from __future__ import annotations

import json
from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html

from rooms_app.admin.requeuing import RequeueAdmin
from rooms_app.models import OutboxEntry
from rooms_app.requeue import try_again


class StateFilter(admin.SimpleListFilter):
    """By state, of those that are shown."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """All but "Done"."""
        return [(state.value, state.label) for state in OutboxEntry.State if state != OutboxEntry.State.DONE]

    def queryset(self, request: HttpRequest, queryset: QuerySet[OutboxEntry]) -> QuerySet[OutboxEntry]:
        """Those in the chosen one."""
        return queryset.filter(state=self.value()) if self.value() else queryset


@admin.register(OutboxEntry)
class OutboxEntryAdmin(RequeueAdmin):
    """To read, for those who may view it; failed ones can be tried again by those who may requeue."""

    list_display = ("due_at", "kind", "what", "state", "attempts", "short_error")
    list_filter = (StateFilter, "kind", "due_at")
    search_fields = ("key", "error")
    fields = (
        *("state", "kind", "what", "key", "due_at", "created_at", "attempts", "error"),
        *("claimed_until", "pretty_body"),
    )
    actions = ("try_again_selected",)

    class Media:
        css = {"all": ["rooms_app/admin/broadcast.css"]}

    # The pages.

    def get_queryset(self, request: HttpRequest) -> QuerySet[OutboxEntry]:
        """Not what has left: of that the key alone is there."""
        return super().get_queryset(request).exclude(state=OutboxEntry.State.DONE)

    @admin.display(description="what")
    def what(self, entry: OutboxEntry) -> str:
        """The message's name: of a send, or of a bus message."""
        return str(entry.body.get("message_type") or entry.body.get("topic") or "")

    @admin.display(description="error", ordering="error")
    def short_error(self, entry: OutboxEntry) -> str:
        """Its beginning."""
        return entry.error if len(entry.error) <= 100 else f"{entry.error[:100]}…"

    @admin.display(description="body")
    def pretty_body(self, entry: OutboxEntry) -> str:
        """What its carrier gets, with the JSON texts in it taken apart."""
        body = {name: _parsed(value) for name, value in entry.body.items()}
        return format_html('<pre class="rooms-frame">{}</pre>', json.dumps(body, ensure_ascii=False, indent=2))

    @admin.action(description="Try the selected failed entries again", permissions=["requeue"])
    def try_again_selected(self, request: HttpRequest, queryset: QuerySet[OutboxEntry]) -> None:
        """A relay takes them."""
        chosen = list(queryset.values_list("pk", flat=True))
        again = sum(try_again(pk, request.user) for pk in chosen)
        if again:
            messages.success(request, f"They are tried again: {again}. A running worker or rooms_scheduler does it.")
        if left := len(chosen) - again:
            messages.warning(request, f"They have not failed, or somebody else was first: {left}.")


def _parsed(value: Any) -> Any:
    if not isinstance(value, str) or value[:1] not in ("{", "["):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value
