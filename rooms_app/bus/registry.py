"""Bus messages by their MESSAGE_TOPIC: what may be published, and what a topic means to a worker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from pydantic import BaseModel

from rooms_app.exceptions import MessageDefinitionError

#: Longest MESSAGE_TOPIC, in characters.
MAX_TOPIC_LENGTH = 100


class BusRegistry:
    """The bus message classes of a process, each under its MESSAGE_TOPIC."""

    def __init__(self) -> None:
        self._types: dict[str, type[BusMessageBase]] = {}

    def add(self, message_type: type[BusMessageBase]) -> None:
        """Enter a class. Raises `MessageDefinitionError` for a MESSAGE_TOPIC that is missing or taken."""
        topic = getattr(message_type, "MESSAGE_TOPIC", None)
        name = full_name(message_type)
        if not isinstance(topic, str) or not 0 < len(topic) <= MAX_TOPIC_LENGTH:
            raise MessageDefinitionError(
                f'{name} needs a MESSAGE_TOPIC: a text of 1 to {MAX_TOPIC_LENGTH} characters, such as "user.activity".'
            )
        other = self._types.get(topic)
        # The same definition run again (a reload, a function that makes a class) replaces the one before.
        if other is not None and full_name(other) != name:
            raise MessageDefinitionError(f"{name} and {full_name(other)} both have the MESSAGE_TOPIC {topic!r}.")
        self._types[topic] = message_type

    def __iter__(self) -> Iterator[type[BusMessageBase]]:
        return iter(self._types.values())


#: The process's bus message types.
bus_registry = BusRegistry()


class BusMessageBase(BaseModel):
    """A typed job for a worker: Pydantic fields, and a MESSAGE_TOPIC that names the type between processes.

    A subclass without a MESSAGE_TOPIC of its own, or with another class's, raises `MessageDefinitionError`.
    Give `abstract=True` as a class keyword to a base class that is not itself published.
    """

    MESSAGE_TOPIC: ClassVar[str]
    #: Stored in the transaction that publishes it, and published from there: "saved but never announced" can't happen.
    OUTBOX: ClassVar[bool] = False

    def __init_subclass__(cls, *, abstract: bool = False, **kwargs: Any) -> None:
        """Takes the class keyword; the class is complete, and entered, only when Pydantic's own hook runs."""
        super().__init_subclass__(**kwargs)

    @classmethod
    def __pydantic_init_subclass__(cls, *, abstract: bool = False, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        is_parametrised = bool(cls.__pydantic_generic_metadata__["args"])
        if not abstract and not is_parametrised:
            bus_registry.add(cls)


def full_name(thing: Any) -> str:
    """Where a class or function is defined, as a dotted name."""
    return f"{thing.__module__}.{thing.__qualname__}"
