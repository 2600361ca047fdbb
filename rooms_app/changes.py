"""Messages for model changes: one for each object that is created, changed or deleted, once that is committed."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Any, NamedTuple, TypeVar

from django.db import connections, transaction
from django.db.models import Model
from django.db.models.signals import class_prepared, post_save, pre_delete

from rooms_app.messages import WebSocketMessage

__all__ = ["Change", "sends_changes"]

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=Model)


class Change(StrEnum):
    """What a transaction did to an object."""

    CREATED = "created"
    CHANGED = "changed"
    DELETED = "deleted"


def sends_changes(
    message: type[WebSocketMessage] | Callable[[Any, Change], WebSocketMessage | None],
    *,
    rooms: Callable[[Any], str | Iterable[str]],
) -> Callable[[type[M]], type[M]]:
    """A decorator of a model: each object that is created, changed or deleted sends a message after the commit.

    `message` is a message class, whose fields are read from the object by name, `change` being the `Change`; or a
    function of the object and the `Change`, which returns a message, or None to send nothing. `rooms` gives the
    object's room, or several. Subclasses send, too: to both functions they are objects of the decorated model, or
    of the topmost model below an abstract one. What fails is logged, and breaks neither the save nor other hooks.
    Raises `TypeError` for a class that is no `WebSocketMessage`.
    """
    if not isinstance(message, type):
        make = message
    elif issubclass(message, WebSocketMessage):
        make = functools.partial(_read, message)
    else:
        raise TypeError(f"{message.__name__} can't send itself: it is no WebSocketMessage.")

    def decorate(decorated: type[M]) -> type[M]:
        by_model: dict[type[Model], _ChangeMessages] = {}

        def cover(sender: type[Model], **_: Any) -> None:
            if not issubclass(sender, decorated):
                return
            family = [model for model in sender.__mro__ if issubclass(model, decorated) and not model._meta.abstract]
            topmost = family[-1]
            by_model.setdefault(topmost, _ChangeMessages(topmost, make, rooms)).listen(sender)

        if not decorated._meta.abstract:
            cover(decorated)
        class_prepared.connect(cover, weak=False)
        return decorated

    return decorate


class _Changed:
    """An object with its `change` beside it, as Pydantic reads it."""

    def __init__(self, instance: Model, change: Change) -> None:
        self._instance = instance
        self.change = change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._instance, name)


def _read(message_type: type[WebSocketMessage], instance: Model, change: Change) -> WebSocketMessage:
    return message_type.model_validate(_Changed(instance, change), from_attributes=True)


class _Prepared(NamedTuple):
    rooms: list[str]
    message: WebSocketMessage

    def send(self, using: str) -> None:
        self.message.send_sync(*self.rooms, using=using)


class _ChangeMessages:
    """What one decorator does for one model: `model` is what its functions get objects of."""

    def __init__(
        self,
        model: type[Model],
        make: Callable[[Any, Change], WebSocketMessage | None],
        rooms: Callable[[Any], str | Iterable[str]],
    ) -> None:
        self.model = model
        self._make = make
        self._rooms = rooms

    def listen(self, sender: type[Model]) -> None:
        """Send for what is saved or deleted as this class."""
        # Class by class: a listener to all models would end Django's fast deletes for all of them.
        post_save.connect(self._on_save, sender=sender, weak=False)
        # The deletion of a child's row deletes the parent's with a signal of its own, or leaves the parent there.
        if sender._meta.concrete_model is self.model._meta.concrete_model:
            pre_delete.connect(self._on_delete, sender=sender, weak=False)

    def prepare(self, instance: Model, change: Change) -> _Prepared | None:
        """The message and its rooms; None where there is nothing to send."""
        rooms = self._rooms(instance)
        names = [rooms] if isinstance(rooms, str) else list(rooms)
        message = self._make(instance, change) if names else None
        return None if message is None else _Prepared(names, message)

    def find(self, pk: Any, using: str) -> Model | None:
        """The object as the database has it now."""
        return self.model._base_manager.using(using).filter(pk=pk).first()

    def _on_save(self, instance: Model, created: bool, raw: bool, using: str, **_: Any) -> None:
        # Raw is a fixture being loaded: what it refers to may not be there yet.
        if not raw:
            self._add(instance, Change.CREATED if created else Change.CHANGED, None, using)

    def _on_delete(self, instance: Model, using: str, **_: Any) -> None:
        # Now, before anything is deleted: the functions may read what it refers to, and what refers to it.
        try:
            farewell = self.prepare(instance, Change.DELETED)
        except Exception:
            logger.exception("no message could be made of a deletion: model=%s", self.model._meta.label)
            farewell = None
        self._add(instance, Change.DELETED, farewell, using)

    def _add(self, instance: Model, change: Change, farewell: _Prepared | None, using: str) -> None:
        key = self.model._meta.pk
        # Of this model: a child may have a primary key of its own. And of one type, so that "7" is 7.
        pk = key.to_python(getattr(instance, key.attname))
        objects = _changed_objects(using)
        changed = objects.get((self, pk))
        # Has been told: hooks run before the end of the transaction in Django's `captureOnCommitCallbacks`.
        if changed is None or changed.is_told:
            changed = objects[self, pk] = _ChangedObject(self, pk, using)
        transaction.on_commit(functools.partial(_after_commit, objects, changed, change, farewell), using=using)


class _ChangedObject:
    """One object in one transaction. Each of its changes has a hook: a savepoint's rollback takes its own along."""

    def __init__(self, messages: _ChangeMessages, pk: Any, using: str) -> None:
        self._messages = messages
        self._pk = pk
        self._using = using
        #: The change that the first hook was for: the others were rolled back, or came later.
        self._first: Change | None = None
        #: Whether the first hook found nothing, and no hook of a deletion has told so yet.
        self._is_gone = False

    @property
    def is_told(self) -> bool:
        """Whether its hooks run, or have run."""
        return self._first is not None

    def tell(self, change: Change, farewell: _Prepared | None) -> None:
        """Send what was committed, whichever hooks came to it; called by each hook, in order."""
        if self._first is None:
            self._first = change
            self._tell_if_there()
        # By the deletion's own hook: another deletion's message may belong to a savepoint that was rolled back.
        if self._is_gone and farewell is not None and self._first is not Change.CREATED:
            self._is_gone = False
            farewell.send(self._using)

    def _tell_if_there(self) -> None:
        instance = self._messages.find(self._pk, self._using)
        if instance is None:
            self._is_gone = True
            return
        change = Change.CREATED if self._first is Change.CREATED else Change.CHANGED
        prepared = self._messages.prepare(instance, change)
        if prepared is not None:
            prepared.send(self._using)

    def __str__(self) -> str:
        return f"model={self._messages.model._meta.label} pk={self._pk}"


_Objects = dict[tuple[_ChangeMessages, Any], _ChangedObject]


def _changed_objects(using: str) -> _Objects:
    """The changed objects of the open transaction; new ones where none of their hooks is left."""
    for hook in reversed(connections[using].run_on_commit):
        function = hook[1]
        if isinstance(function, functools.partial) and function.func is _after_commit:
            objects: _Objects = function.args[0]
            return objects
    return {}


def _after_commit(_: _Objects, changed: _ChangedObject, change: Change, farewell: _Prepared | None) -> None:
    # It is committed: an error here would only break what was saved, and skip the hooks that come after this one.
    try:
        changed.tell(change, farewell)
    except Exception:
        logger.exception("no message could be sent of a change: %s", changed)
