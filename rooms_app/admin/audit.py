"""The audit log in the admin: to read, never to change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.http import HttpRequest

from rooms_app.admin.permission import may_send
from rooms_app.models import AuditEntry

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[AuditEntry]
else:
    ModelAdmin = admin.ModelAdmin


@admin.register(AuditEntry)
class AuditEntryAdmin(ModelAdmin):
    """What operators did, for those who may send, or who may view it."""

    list_display = ("at", "actor_name", "action", "target")
    list_filter = ("action", "at")
    search_fields = ("actor_name", "target")
    fields = ("at", "actor_name", "action", "target", "details")

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whoever sends sees what was sent."""
        return may_send(request) or super().has_view_permission(request, obj)

    def has_module_permission(self, request: HttpRequest) -> bool:
        return may_send(request) or super().has_module_permission(request)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Nobody."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody."""
        return False
