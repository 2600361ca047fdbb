"""Messages as JSON, for what is stored and sent later."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from rooms_app.exceptions import RoomsError
from rooms_app.registry import WebSocketMessageBase, registry


def text_of(message: WebSocketMessageBase) -> str:
    """A message's fields as a JSON text that `restore` takes."""
    return message.model_dump_json(round_trip=True)


def restore(message_id: str, text: str) -> WebSocketMessageBase:
    """The message with this MESSAGE_ID and these fields.

    Raises `UnknownMessage` where its class is gone, and `RoomsError` where that takes the fields no longer.
    """
    message_type = registry.get(message_id)
    try:
        return message_type.model_validate_json(text, by_alias=True, by_name=True)
    except ValidationError as error:
        raise RoomsError(f"{message_id} has changed, and no longer fits: {first_problem(error)}") from error


def first_problem(error: ValidationError) -> str:
    """The first thing that is wrong, with its place, as a sentence."""
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"])) or "the message"
    return f"{place}: {first['msg']}."


def storable(text: str) -> str:
    """A text as each database takes it: without NUL, and without halves of surrogate pairs."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()


def is_storable(value: Any) -> bool:
    """Whether each database's JSON takes a value: all texts in it as they are."""
    if isinstance(value, dict):
        return all(map(is_storable, (*value, *value.values())))
    if isinstance(value, list):
        return all(map(is_storable, value))
    return not isinstance(value, str) or value == storable(value)
