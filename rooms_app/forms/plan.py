"""What a Pydantic class asks for, as a tree of inputs, groups and lists, read from the class's JSON schema."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Final

from django.forms.utils import pretty_name
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

#: No value: a field that is left to its default, or has none.
MISSING: Final[Any] = object()

#: The path from the root of a schema to one of its definitions.
_REF = "#/$defs/"

# Keys of our own in the schema.
_KEYS = "x-keys"
_LABELS = "x-labels"
_NAIVE = "x-naive"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One field of a class, or the item of a list."""

    #: The field's name; empty for the class itself and for an item.
    name: str = ""
    #: The names the field goes by in a payload and in the place of an error; first the one to send.
    keys: tuple[str, ...] = ()
    label: str = ""
    #: The description, then the limits in words.
    help: str = ""
    is_required: bool = True
    #: None is a value of it.
    is_optional: bool = False
    default: Any = MISSING


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf(Node):
    """One input."""

    #: text, integer, number, decimal, boolean, choice, date, date-time, time or json.
    kind: str
    #: Its part of the JSON schema.
    schema: dict[str, Any] = field(default_factory=dict)
    choices: tuple[tuple[Any, str], ...] = ()
    is_naive: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Group(Node):
    """An object: a fieldset."""

    children: tuple[Node, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows(Node):
    """A list of inputs or of groups."""

    item: Leaf | Group
    max_rows: int | None = None


def plan_of(message_type: type[BaseModel]) -> Group:
    """The tree of a class. Raises Pydantic's `PydanticInvalidForJsonSchema` for what JSON can't carry."""
    schema = message_type.model_json_schema(by_alias=False, schema_generator=_FormSchema)
    definitions = schema.pop("$defs", {})
    ref = f"{_REF}{message_type.__name__}"
    stack = (schema.get("$ref", ref),)
    if "$ref" in schema:
        schema = definitions[schema["$ref"].removeprefix(_REF)]
    return Group(children=_children(schema, definitions, stack))


class _FormSchema(GenerateJsonSchema):
    """The JSON schema, with what a form needs and JSON schema has no word for."""

    def model_field_schema(self, schema: core_schema.ModelField) -> JsonSchemaValue:
        return {**super().model_field_schema(schema), _KEYS: _aliases(schema)}

    def dataclass_field_schema(self, schema: core_schema.DataclassField) -> JsonSchemaValue:
        return {**super().dataclass_field_schema(schema), _KEYS: _aliases(schema)}

    def typed_dict_field_schema(self, schema: core_schema.TypedDictField) -> JsonSchemaValue:
        return {**super().typed_dict_field_schema(schema), _KEYS: _aliases(schema)}

    def datetime_schema(self, schema: core_schema.DatetimeSchema) -> JsonSchemaValue:
        return {**super().datetime_schema(schema), _NAIVE: schema.get("tz_constraint") == "naive"}

    def decimal_schema(self, schema: core_schema.DecimalSchema) -> JsonSchemaValue:
        found: JsonSchemaValue = {"type": "number", "format": "decimal"}
        limits = {key: str(value) for key, value in schema.items() if key in ("multiple_of", "le", "ge", "lt", "gt")}
        self.update_with_validations(found, limits, self.ValidationsMapping.numeric)
        return found

    def enum_schema(self, schema: core_schema.EnumSchema) -> JsonSchemaValue:
        labels = [str(getattr(each, "label", pretty_name(each.name.lower()))) for each in schema["members"]]
        return {**super().enum_schema(schema), _LABELS: labels}

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        found = super().default_schema(schema)
        if schema.get("default_factory") is list and "$ref" not in found:
            found.setdefault("default", [])
        return found


def _aliases(
    schema: core_schema.ModelField | core_schema.DataclassField | core_schema.TypedDictField,
) -> list[str]:
    given = schema.get("validation_alias")
    paths: list[Any] = [[given]] if isinstance(given, str) else list(given or [])
    if paths and not isinstance(paths[0], list):
        paths = [paths]
    names = [path[0] for path in paths if len(path) == 1]
    return [*names, *filter(None, [schema.get("serialization_alias")])]


def _children(schema: dict[str, Any], definitions: dict[str, Any], stack: tuple[str, ...]) -> tuple[Node, ...]:
    required = schema.get("required", [])
    return tuple(
        _node(each, definitions, stack, name=name, is_required=name in required)
        for name, each in schema["properties"].items()
    )


def _node(
    given: dict[str, Any], definitions: dict[str, Any], stack: tuple[str, ...], *, name: str, is_required: bool
) -> Node:
    schema, is_optional, stack, is_recursive = _resolved(given, definitions, stack)
    title = given.get("title", "")
    common: dict[str, Any] = {
        "name": name,
        "keys": tuple(dict.fromkeys([*given.get(_KEYS, []), name])),
        # Pydantic makes a title of every name; one that says no more is written as Django writes labels.
        "label": pretty_name(name) if title.lower() == name.replace("_", " ").strip().lower() else title,
        "help": given.get("description", ""),
        "is_required": is_required,
        "is_optional": is_optional,
        "default": given.get("default", MISSING),
    }
    common["label"] = common["label"] or pretty_name(name)
    if not is_recursive and schema.get("type") == "object" and schema.get("properties"):
        return Group(**common, children=_children(schema, definitions, stack))
    if not is_recursive and schema.get("type") == "array" and isinstance(schema.get("items"), dict):
        item = _node(schema["items"], definitions, stack, name="", is_required=True)
        if _fits_a_row(item):
            common["help"] = _joined(common["help"], limits_in_words(schema))
            return Rows(**common, item=item, max_rows=schema.get("maxItems"))  # type: ignore[arg-type]
    leaf = _leaf(schema, common, is_recursive=is_recursive)
    return replace(leaf, help=_joined(leaf.help, limits_in_words(schema), _how_to_write(leaf)))


def _fits_a_row(item: Node) -> bool:
    # An empty row is no item, so where None is an item the list is written as JSON.
    return not item.is_optional and not isinstance(item, Rows) and not (isinstance(item, Leaf) and item.kind == "json")


def _leaf(schema: dict[str, Any], common: dict[str, Any], *, is_recursive: bool) -> Leaf:
    if is_recursive:
        return Leaf(**common, kind="json")
    kind, form = schema.get("type"), schema.get("format", "")
    values = schema.get("enum", [schema["const"]] if "const" in schema else [])
    if values:
        common["is_optional"] = common["is_optional"] or None in values
        labels = schema.get(_LABELS) or ["" if each is None else str(each) for each in values]
        pairs = tuple((value, label) for value, label in zip(values, labels, strict=True) if value is not None)
        return Leaf(**common, kind="choice", schema=schema, choices=pairs)
    if kind == "boolean":
        # A box has no third state, and in a row an unticked one would be no item.
        if common["is_optional"] or not common["name"]:
            return Leaf(**common, kind="choice", schema=schema, choices=((True, "Yes"), (False, "No")))
        return Leaf(**common, kind="boolean", schema=schema)
    if kind == "string":
        kind = form if form in ("date", "date-time", "time") else "text"
    elif form == "decimal":
        kind = "decimal"
    elif kind not in ("integer", "number"):
        kind = "json"
    return Leaf(**common, kind=kind, schema=schema, is_naive=schema.get(_NAIVE, False))


def _resolved(
    schema: dict[str, Any], definitions: dict[str, Any], stack: tuple[str, ...]
) -> tuple[dict[str, Any], bool, tuple[str, ...], bool]:
    """The schema behind references and `| None`; whether None is a value, what it is inside of, whether of itself."""
    is_optional = False
    while True:
        options = [each for each in schema.get("anyOf", []) if each.get("type") != "null"]
        if "$ref" in schema:
            ref = schema["$ref"]
            if ref in stack:
                return schema, is_optional, stack, True
            stack = (*stack, ref)
            schema = definitions[ref.removeprefix(_REF)]
        elif len(options) == 1:
            is_optional = True
            schema = options[0]
        else:
            return schema, is_optional or len(options) < len(schema.get("anyOf", [])), stack, False


def limits_in_words(schema: dict[str, Any]) -> str:
    """Such as `1 to 200 characters` or `at least 3`; empty where there are none."""
    parts = []
    for low, high, unit in (("minLength", "maxLength", "character"), ("minItems", "maxItems", "item")):
        parts.append(_span(schema.get(low) or None, schema.get(high), unit))
    if "minimum" in schema and "maximum" in schema:
        parts.append(f"{schema['minimum']} to {schema['maximum']}")
    else:
        parts += [f"at least {schema['minimum']}"] if "minimum" in schema else []
        parts += [f"at most {schema['maximum']}"] if "maximum" in schema else []
    parts += [f"more than {schema['exclusiveMinimum']}"] if "exclusiveMinimum" in schema else []
    parts += [f"less than {schema['exclusiveMaximum']}"] if "exclusiveMaximum" in schema else []
    parts += [f"a multiple of {schema['multipleOf']}"] if "multipleOf" in schema else []
    parts += ["no two alike"] if schema.get("uniqueItems") else []
    parts += [f"pattern {schema['pattern']}"] if "pattern" in schema else []
    return ", ".join(filter(None, parts))


def _span(low: int | None, high: int | None, unit: str) -> str:
    last = high if high is not None else low
    units = unit if last == 1 else f"{unit}s"
    if low is None and high is None:
        return ""
    if low == high:
        return f"exactly {low} {units}"
    if high is None:
        return f"at least {low} {units}"
    return f"at most {high} {units}" if low is None else f"{low} to {high} {units}"


def _how_to_write(leaf: Leaf) -> str:
    if leaf.kind == "json":
        return "as JSON"
    return "as an ISO 8601 duration, such as PT1H30M" if leaf.schema.get("format") == "duration" else ""


def _joined(*texts: str) -> str:
    """Texts as sentences."""
    given = [text for text in texts if text]
    return " ".join(text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".") for text in given)
