"""Models that the tests save: an order with lines and kinds of its own, and one with a UUID for a key."""

from __future__ import annotations

import uuid

from django.db import models

from rooms_app import WebSocketMessage
from rooms_app.changes import Change, sends_changes


class OrderChanged(WebSocketMessage):
    """Read from an order."""

    MESSAGE_ID = "tests.order"
    pk: int
    status: str
    change: Change


class LineChanged(WebSocketMessage):
    """Made by a function: of an order's line, which says how many there were."""

    MESSAGE_ID = "tests.line"
    item: str
    order: str
    lines: int
    change: str


class DocumentChanged(WebSocketMessage):
    """Read from a document, whatever became of it."""

    MESSAGE_ID = "tests.document"
    id: uuid.UUID


@sends_changes(OrderChanged, rooms=lambda order: ["orders", f"order-{order.pk}"])
class Order(models.Model):
    """Tells all who watch orders, and all who watch this one."""

    status = models.CharField(max_length=20, default="new")

    class Meta:
        app_label = "app"

    def __str__(self) -> str:
        return self.status


class RushOrder(Order):
    """An order with a table of its own beside the orders'."""

    hours = models.IntegerField(default=1)

    class Meta:
        app_label = "app"


class PaperOrder(Order):
    """An order in another class."""

    class Meta:
        app_label = "app"
        proxy = True


def line_message(line: Line, change: Change) -> LineChanged | None:
    """Reads what the line refers to; nothing for a line without an item, an error for one that is "bad"."""
    if line.item == "bad":
        raise LookupError("a line that nobody can tell of")
    if not line.item:
        return None
    order = line.order
    return LineChanged(item=line.item, order=order.status, lines=order.lines.count(), change=change)


@sends_changes(message=line_message, rooms=lambda line: f"order-{line.order_id}")
class Line(models.Model):
    """Goes with its order."""

    order = models.ForeignKey(Order, models.CASCADE, related_name="lines")
    item = models.CharField(max_length=20)

    class Meta:
        app_label = "app"

    def __str__(self) -> str:
        return self.item


@sends_changes(DocumentChanged, rooms=lambda document: "documents")
class Stored(models.Model):
    """What everything with a UUID has."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)

    class Meta:
        app_label = "app"
        abstract = True


@sends_changes(DocumentChanged, rooms=lambda document: "archive")
class Document(Stored):
    """Sends what its abstract base says, and a message more."""

    class Meta:
        app_label = "app"

    def __str__(self) -> str:
        return str(self.id)


@sends_changes(DocumentChanged, rooms=lambda document: "signed")
class SignedDocument(Document):
    """A proxy that sends a message more again."""

    class Meta:
        app_label = "app"
        proxy = True
