"""What the admins of dead letters and of the outbox share: who may see them, and have one tried again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.http import HttpRequest

from rooms_app.requeue import PERMISSION

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
else:
    ModelAdmin = admin.ModelAdmin


class RequeueAdmin(ModelAdmin):
    """To read, for those who may view it or requeue; changed by nobody."""

    def has_requeue_permission(self, request: HttpRequest) -> bool:
        """Whether this operator may have something tried again; also for an action's `permissions`."""
        return request.user.has_perm(PERMISSION)

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.has_requeue_permission(request) or super().has_module_permission(request)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whoever requeues sees what."""
        return self.has_requeue_permission(request) or super().has_view_permission(request, obj)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Nobody."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody."""
        return False
