"""The admin: broadcasts that operators write, preview and send, what they did, the outbox, and the dead letters."""

from rooms_app.admin.audit import AuditEntryAdmin
from rooms_app.admin.broadcasts import BroadcastAdmin
from rooms_app.admin.dead_letters import DeadLetterAdmin
from rooms_app.admin.live import LiveRoomAdmin
from rooms_app.admin.notify import NotifyRoomsMixin
from rooms_app.admin.outbox_entries import OutboxEntryAdmin

__all__ = [
    "AuditEntryAdmin",
    "BroadcastAdmin",
    "DeadLetterAdmin",
    "LiveRoomAdmin",
    "NotifyRoomsMixin",
    "OutboxEntryAdmin",
]
