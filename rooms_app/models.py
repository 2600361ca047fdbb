"""What is stored: broadcasts that operators compose, what operators did, the outbox, and the dead letters."""

from __future__ import annotations

import uuid
from typing import Any

from django.db import models
from django.utils import timezone

from rooms_app.conf import user_model_name
from rooms_app.payloads import storable
from rooms_app.registry import MAX_ID_LENGTH

#: By name: the project's own may be loaded later.
_USER = user_model_name()


class Broadcast(models.Model):
    """A message that an operator sends, now or later, to everyone, to rooms or to users.

    Its state only changes by compare-and-set: see `rooms_app.broadcasts`.
    """

    class Audience(models.TextChoices):
        """Whom it goes to."""

        EVERYONE = "everyone", "Everyone"
        ROOMS = "rooms", "Rooms"
        USERS = "users", "Users"

    class State(models.TextChoices):
        """Where it is between an idea and a client."""

        DRAFT = "draft", "Draft"
        SCHEDULED = "scheduled", "Scheduled"
        SENDING = "sending", "Sending"
        SENT = "sent", "Sent"
        FAILED = "failed", "Failed"
        CANCELLED = "cancelled", "Cancelled"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    #: The MESSAGE_ID of a message class …
    message_type = models.CharField(max_length=MAX_ID_LENGTH)
    #: … and what its fields hold, as JSON.
    payload = models.JSONField(default=dict)
    audience = models.CharField(max_length=10, choices=Audience.choices, default=Audience.EVERYONE)
    rooms = models.JSONField(default=list, blank=True)
    users: models.ManyToManyField[Any, Any] = models.ManyToManyField(
        _USER, blank=True, related_name="+", verbose_name="users by choice"
    )
    #: Looked up when it is sent, by the search of the project's own user admin.
    user_query = models.CharField("users by query", max_length=255, blank=True)
    send_at = models.DateTimeField(null=True, blank=True)
    #: Counts what operators have saved of it: what one has looked at is what is sent.
    revision = models.PositiveIntegerField(default=1, editable=False)
    state = models.CharField(max_length=10, choices=State.choices, default=State.DRAFT)
    created_by = models.ForeignKey(_USER, null=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(default=timezone.now)
    #: Who pressed the button, also where it was "Schedule".
    sent_by = models.ForeignKey(_USER, null=True, on_delete=models.SET_NULL, related_name="+")
    sent_at = models.DateTimeField(null=True)
    #: The primary keys, as text, of the last user it went to, and of the last one of the part that is being sent: where
    #: an attempt that failed is gone on with.
    sent_up_to = models.CharField(max_length=255, blank=True, editable=False)
    sending_up_to = models.CharField(max_length=255, blank=True, editable=False)
    #: How many connections there were to reach at that moment; null when unknown.
    reached = models.PositiveBigIntegerField(null=True)
    error = models.TextField(blank=True)
    #: While sending: when the sender counts as dead. While scheduled: not before then, after a failure.
    claimed_until = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-created_at"]
        permissions = [("send_broadcast", "Can send messages to users")]
        indexes = [models.Index(fields=["state", "send_at"], name="rooms_broadcast_due")]

    def __str__(self) -> str:
        return f"{self.message_type} to {self.get_audience_display().lower()}"


class AuditEntry(models.Model):
    """What an operator did. Written once, never changed."""

    id = models.BigAutoField(primary_key=True)
    at = models.DateTimeField(default=timezone.now, db_index=True)
    #: Null for what no one asked for, or when the user is gone; the name stays.
    actor = models.ForeignKey(_USER, null=True, on_delete=models.SET_NULL, related_name="+")
    actor_name = models.CharField(max_length=255, blank=True)
    action = models.CharField(max_length=50)
    target = models.CharField(max_length=255, db_index=True)
    details = models.JSONField(default=dict)

    class Meta:
        ordering = ["-at", "-id"]
        verbose_name_plural = "audit entries"

    def __str__(self) -> str:
        return f"{self.action} {self.target}"

    @classmethod
    def record(cls, actor: Any, action: str, target: str, **details: Any) -> AuditEntry:
        """Enter what an operator did; `actor` is a user, or None for what the scheduler did by itself."""
        name = "" if actor is None else str(actor.get_username())[:255]
        # A room's name may hold what PostgreSQL does not store.
        named = storable(target)[:255]
        return cls.objects.create(actor=actor, actor_name=name, action=action, target=named, details=details)


class LiveRoom(models.Model):
    """Stands for the rooms that have connections now: a place in the admin, and its permissions. It has no table."""

    class Meta:
        managed = False
        default_permissions = ()
        permissions = [
            ("view_live_rooms", "Can see rooms and who is connected"),
            ("moderate_rooms", "Can kick users and close rooms"),
        ]

    def __str__(self) -> str:
        return "live room"


class OutboxEntry(models.Model):
    """Something that is to leave after the transaction that stored it, at once or at its time.

    Its state only changes by compare-and-set: see `rooms_app.carrying`.
    """

    class State(models.TextChoices):
        """Where it is."""

        WAITING = "waiting", "Waiting"
        DONE = "done", "Done"
        FAILED = "failed", "Failed"

    id = models.BigAutoField(primary_key=True)
    #: Names who carries it, such as "send".
    kind = models.CharField(max_length=20)
    #: Two of one kind with the same key are one.
    key = models.CharField(max_length=255)
    #: What its carrier needs. Empty once it is done: only the key is remembered then.
    body = models.JSONField(default=dict)
    #: Whether the key is remembered for a day once it is done; a key that nobody can give again is not.
    is_remembered = models.BooleanField(default=True)
    due_at = models.DateTimeField(default=timezone.now)
    created_at = models.DateTimeField(default=timezone.now)
    state = models.CharField(max_length=10, choices=State.choices, default=State.WAITING)
    #: Whoever carries it now, by a token of that one claim; empty for nobody.
    claimed_by = models.CharField(max_length=32, blank=True)
    #: With a claim: when whoever has it counts as dead. Without: not before then, after a failure.
    claimed_until = models.DateTimeField(null=True)
    #: Tries that failed, but for those at which what it needs did not answer.
    attempts = models.PositiveIntegerField(default=0)
    #: What went wrong last.
    error = models.TextField(blank=True)
    done_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["due_at", "id"]
        verbose_name_plural = "outbox entries"
        constraints = [models.UniqueConstraint(fields=["kind", "key"], name="rooms_outbox_key")]
        indexes = [
            models.Index(fields=["state", "kind", "due_at"], name="rooms_outbox_due"),
            models.Index(fields=["state", "done_at"], name="rooms_outbox_done"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.key}"


class DeadLetter(models.Model):
    """A delivery of a bus message that its handler could not take, kept for an operator to look at."""

    class State(models.TextChoices):
        """Whether an operator has given it another try."""

        DEAD = "dead", "Dead"
        REQUEUED = "requeued", "Requeued"

    class Reason(models.TextChoices):
        """Why it was given up."""

        RETRIES = "retries", "Failed at every try"
        REJECTED = "rejected", "Rejected by its handler"
        PAYLOAD = "payload", "Its payload does not fit"
        LOST = "lost", "Its worker died, again and again"
        UNKNOWN = "unknown", "No handler has this name"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    #: All of the delivery, as its worker got it.
    delivery = models.JSONField(default=dict)
    topic = models.CharField(max_length=255)
    handler = models.CharField(max_length=255)
    #: A `Reason`. Not `choices`, which would need a migration for each new one.
    reason = models.CharField(max_length=20)
    error = models.TextField(blank=True)
    attempts = models.PositiveIntegerField(default=0)
    published_at = models.DateTimeField(null=True)
    died_at = models.DateTimeField(default=timezone.now, db_index=True)
    state = models.CharField(max_length=10, choices=State.choices, default=State.DEAD)
    requeued_at = models.DateTimeField(null=True)
    requeued_by = models.ForeignKey(_USER, null=True, on_delete=models.SET_NULL, related_name="+")

    class Meta:
        ordering = ["-died_at"]
        permissions = [("requeue_dead_letter", "Can have dead letters and failed outbox entries tried again")]

    def __str__(self) -> str:
        return f"{self.topic} for {self.handler}"
