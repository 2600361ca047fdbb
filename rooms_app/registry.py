"""Message types by their MESSAGE_ID: what may be sent, and what a name on the wire means."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from pydantic import BaseModel

from rooms_app.exceptions import MessageDefinitionError, UnknownMessage

#: MESSAGE_IDs that start so belong to the protocol itself.
RESERVED_PREFIX = "sys."

#: Longest MESSAGE_ID, in characters.
MAX_ID_LENGTH = 100


class MessageRegistry:
    """The message classes of a process, each under its MESSAGE_ID."""

    def __init__(self) -> None:
        self._types: dict[str, type[WebSocketMessageBase]] = {}
        #: Definitions that failed while the apps' `messages` modules were imported, for the system check.
        self.errors: list[MessageDefinitionError] = []

    def add(self, message_type: type[WebSocketMessageBase]) -> None:
        """Enter a class. Raises `MessageDefinitionError` for a MESSAGE_ID that is missing, reserved or taken."""
        message_id = getattr(message_type, "MESSAGE_ID", None)
        name = f"{message_type.__module__}.{message_type.__qualname__}"
        if not isinstance(message_id, str) or not 0 < len(message_id) <= MAX_ID_LENGTH:
            raise MessageDefinitionError(
                f'{name} needs a MESSAGE_ID: a text of 1 to {MAX_ID_LENGTH} characters, such as "chat.message".'
            )
        if message_id.startswith(RESERVED_PREFIX):
            raise MessageDefinitionError(f"{name}: MESSAGE_IDs that start with {RESERVED_PREFIX!r} are reserved.")
        other = self._types.get(message_id)
        # The same definition run again (a reload, a function that makes a class) replaces the one before.
        if other is not None and f"{other.__module__}.{other.__qualname__}" != name:
            raise MessageDefinitionError(
                f"{name} and {other.__module__}.{other.__qualname__} both have the MESSAGE_ID {message_id!r}."
            )
        self._types[message_id] = message_type

    def get(self, message_id: str) -> type[WebSocketMessageBase]:
        """The class with this MESSAGE_ID. Raises `UnknownMessage`."""
        try:
            return self._types[message_id]
        except KeyError:
            known = ", ".join(sorted(self._types)) or "none"
            raise UnknownMessage(f"No message class has the MESSAGE_ID {message_id!r}. Known: {known}.") from None

    def __iter__(self) -> Iterator[type[WebSocketMessageBase]]:
        return iter(self._types.values())


#: The process's message types.
registry = MessageRegistry()


def sendable(message_id: str) -> type[WebSocketMessageBase]:
    """The class with this MESSAGE_ID, for operators to send. Raises `UnknownMessage`, also for rooms_app's own."""
    found = registry.get(message_id)
    if is_own(found):
        raise UnknownMessage(f"{message_id!r} is for rooms_app itself to send.")
    return found


def is_own(message_type: type[WebSocketMessageBase]) -> bool:
    """Whether it is one of rooms_app's own types, such as those of presence."""
    return message_type.__module__.startswith("rooms_app.")


def summary(message_type: type[WebSocketMessageBase]) -> str:
    """The first line of its docstring; empty where it has none."""
    return (message_type.__doc__ or "").strip().partition("\n")[0]


class WebSocketMessageBase(BaseModel):
    """A typed message: Pydantic fields, and a MESSAGE_ID that names the type on the wire.

    A subclass without a MESSAGE_ID of its own, or with another class's, raises `MessageDefinitionError`.
    Give `abstract=True` as a class keyword to a base class that is not itself sent.
    """

    MESSAGE_ID: ClassVar[str]
    #: Kept for those who come back, on a layer with history.
    HISTORY: ClassVar[bool] = True
    #: The last one of each room is sent to those who join later.
    RETAIN: ClassVar[bool] = False
    #: Not kept, and dropped for a slow connection rather than closing it: a cursor's place, a progress bar.
    VOLATILE: ClassVar[bool] = False
    #: Stored in the transaction that sends it, and sent from there: it leaves also if the process dies in between.
    OUTBOX: ClassVar[bool] = False

    @classmethod
    def may_broadcast(cls, user: Any) -> bool:
        """Whether this operator, who has the permission to send, may send this type from the admin: here, any."""
        return True

    def __init_subclass__(cls, *, abstract: bool = False, **kwargs: Any) -> None:
        """Takes the class keyword; the class is complete, and entered, only when Pydantic's own hook runs."""
        super().__init_subclass__(**kwargs)

    @classmethod
    def __pydantic_init_subclass__(cls, *, abstract: bool = False, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        is_parametrised = bool(cls.__pydantic_generic_metadata__["args"])
        if not abstract and not is_parametrised:
            registry.add(cls)
