"""`manage.py rooms_messages`: which messages there are, and what is in each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from django.core.management.base import CommandParser
from pydantic import PydanticUserError

from rooms_app.management.base import RoomsCommand
from rooms_app.registry import WebSocketMessageBase, registry, summary

#: What JSON Schema says of a field's values beside their type.
_LIMITS = (
    *("minLength", "maxLength", "pattern", "minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"),
    *("multipleOf", "minItems", "maxItems", "uniqueItems", "minProperties", "maxProperties"),
)


class Command(RoomsCommand):
    """Shows the message types of the installed apps."""

    help = "Lists the message types, each with its fields, their types, limits and defaults. Needs no Redis."
    example = "chat.message --json"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("message_id", nargs="?", metavar="MESSAGE_ID", help="only this one (all)")
        self.add_json_argument(parser, help="print one JSON list, with the JSON schema of each")

    def handle(self, *args: Any, message_id: str | None, as_json: bool, **options: Any) -> None:
        """Print them in the order of their MESSAGE_IDs; `CommandError` for an unknown one."""
        types = sorted(registry, key=lambda each: each.MESSAGE_ID) if message_id is None else [registry.get(message_id)]
        if as_json:
            self.write_json([_described(each) for each in types])
            return
        if not types:
            self.stderr.write("No installed app has a WebSocketMessage in its messages.py.")
        for each in types:
            self.stdout.write("\n".join(_lines(each)))


def _described(message_type: type[WebSocketMessageBase]) -> dict[str, Any]:
    schema, problem = _schema(message_type)
    return {
        "MESSAGE_ID": message_type.MESSAGE_ID,
        "class": _class_name(message_type),
        "description": summary(message_type),
        "history": message_type.HISTORY,
        "retain": message_type.RETAIN,
        "volatile": message_type.VOLATILE,
        "outbox": message_type.OUTBOX,
        "schema": schema,
        **({"problem": problem} if problem else {}),
    }


def _lines(message_type: type[WebSocketMessageBase]) -> Iterator[str]:
    yield f"{message_type.MESSAGE_ID}  ({', '.join([_class_name(message_type), *_traits(message_type)])})"
    description = summary(message_type)
    if description:
        yield f"    {description}"
    schema, problem = _schema(message_type)
    if schema is None:
        yield f"    no JSON schema: {problem}"
        return
    fields = schema.get("properties", {})
    width = max(map(len, fields), default=0)
    required = schema.get("required", ())
    for name, field in fields.items():
        yield f"    {name:{width}}  {', '.join(_said_of(field, is_required=name in required))}"


def _said_of(field: Mapping[str, Any], *, is_required: bool) -> Iterator[str]:
    yield _type_name(field)
    yield from (f"{limit} {field[limit]}" for limit in _LIMITS if limit in field)
    if is_required:
        yield "required"
    elif "default" in field:
        yield f"default {field['default']!r}"
    else:
        yield "optional"


def _type_name(schema: Mapping[str, Any]) -> str:
    """A JSON schema in a few words: `array of integer | null`."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    choices = schema.get("anyOf") or schema.get("oneOf")
    if choices:
        return " | ".join(_type_name(each) for each in choices)
    if "enum" in schema:
        return " | ".join(repr(value) for value in schema["enum"])
    if "const" in schema:
        return repr(schema["const"])
    name = str(schema.get("type", "anything"))
    if name == "array" and "items" in schema:
        return f"array of {_type_name(schema['items'])}"
    return f"{name} ({schema['format']})" if "format" in schema else name


def _schema(message_type: type[WebSocketMessageBase]) -> tuple[dict[str, Any] | None, str | None]:
    """The JSON schema, or why there is none: a field of an arbitrary class, or one not defined yet, has none."""
    try:
        return message_type.model_json_schema(), None
    except PydanticUserError as error:
        return None, str(error).splitlines()[0]


def _traits(message_type: type[WebSocketMessageBase]) -> Iterator[str]:
    if not message_type.HISTORY:
        yield "without history"
    if message_type.RETAIN:
        yield "retained"
    if message_type.VOLATILE:
        yield "volatile"
    if message_type.OUTBOX:
        yield "outbox"


def _class_name(message_type: type[WebSocketMessageBase]) -> str:
    return f"{message_type.__module__}.{message_type.__qualname__}"
