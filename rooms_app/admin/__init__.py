"""The admin: broadcasts that operators write, preview and send, and what they did."""

from rooms_app.admin.audit import AuditEntryAdmin
from rooms_app.admin.broadcasts import BroadcastAdmin
from rooms_app.admin.live import LiveRoomAdmin
from rooms_app.admin.notify import NotifyRoomsMixin

__all__ = ["AuditEntryAdmin", "BroadcastAdmin", "LiveRoomAdmin", "NotifyRoomsMixin"]
