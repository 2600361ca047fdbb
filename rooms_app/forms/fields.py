"""The Django field of one input: from what is typed to a JSON value, and back."""

from __future__ import annotations

import datetime
import json
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from pydantic_core import from_json

from rooms_app.forms.plan import MISSING, Leaf

#: Above so many characters, or without a limit, a text has several lines.
_ONE_LINE = 200

_TEXT_INPUTS = {"email": forms.EmailInput, "uri": forms.URLInput}


@dataclass(frozen=True, slots=True)
class Parsed:
    """What JSON text said, so that a `null` is not taken for nothing."""

    value: Any


class JsonField(forms.CharField):
    """JSON text."""

    widget = forms.Textarea

    def clean(self, value: Any) -> Any:
        """What the text says, as `Parsed`; None for no text. Raises `ValidationError`."""
        text = super().clean(value)
        if text is None:
            return None
        try:
            # Pydantic reads it again as a part of the whole, and is the stricter one.
            from_json(text)
            return Parsed(json.loads(text))
        except (ValueError, RecursionError) as error:
            raise ValidationError(f"Enter valid JSON: {error}", code="invalid") from error


class DateTimeField(forms.DateTimeField):
    """A date and time as ISO 8601; without an offset it is in the current time zone, or in none where `is_naive`."""

    def __init__(self, *, is_naive: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.is_naive = is_naive

    def to_python(self, value: Any) -> datetime.datetime | None:
        """Raises `ValidationError`, also for a time that the time zone skips or has twice."""
        if not self.is_naive or value in self.empty_values:
            return super().to_python(value)
        try:
            found = parse_datetime(str(value).strip())
        except ValueError:
            found = None
        if found is None:
            raise ValidationError(self.error_messages["invalid"], code="invalid")
        return found


class TimeField(forms.TimeField):
    """A time as ISO 8601, which may have an offset."""

    def to_python(self, value: Any) -> datetime.time | None:
        """Raises `ValidationError`."""
        if value in self.empty_values:
            return None
        try:
            return datetime.time.fromisoformat(str(value).strip())
        except ValueError as error:
            raise ValidationError(self.error_messages["invalid"], code="invalid") from error


def django_field(leaf: Leaf, *, is_required: bool, text: object) -> forms.Field:
    """The field for an input that shows `text` at first.

    Lengths and patterns are left to Pydantic, which may strip before it counts; a `maxlength` would cut what is pasted.
    """
    common: dict[str, Any] = {"required": is_required, "label": leaf.label, "help_text": leaf.help}
    limits: dict[str, Any] = {"min_value": leaf.schema.get("minimum"), "max_value": leaf.schema.get("maximum")}
    match leaf.kind:
        case "boolean":
            return forms.BooleanField(**{**common, "required": False, "label_suffix": ""})
        case "choice":
            return _choice_field(leaf, common)
        case "integer":
            return forms.IntegerField(**common, **limits)
        case "number":
            return forms.FloatField(**common, **limits)
        case "decimal":
            exact: dict[str, Any] = {name: None if limit is None else Decimal(limit) for name, limit in limits.items()}
            return forms.DecimalField(**common, **exact)
        case "date":
            return forms.DateField(**common, input_formats=["%Y-%m-%d"], widget=_picker("date", text))
        case "date-time":
            return DateTimeField(**common, is_naive=leaf.is_naive, widget=_picker("datetime-local", text))
        case "time":
            return TimeField(**common, widget=_picker("time", text))
        case "json":
            return JsonField(**common, strip=False, empty_value=None, widget=_textarea())
    return forms.CharField(**common, strip=False, empty_value=None, widget=_text_widget(leaf, text))


def to_payload(leaf: Leaf, value: Any) -> Any:
    """What a field's `clean` gave as a JSON value."""
    match value:
        case Parsed():
            return value.value
        case Decimal():
            return str(value)
        case datetime.datetime():
            return _utc(value).isoformat()
        case datetime.date() | datetime.time():
            return value.isoformat()
        case str() if leaf.kind == "text":
            # Browsers send every line's end as two characters.
            return value.replace("\r\n", "\n")
    return value


def to_text(leaf: Leaf, value: Any) -> str | bool:
    """What an input shows for a JSON value; empty for none."""
    if leaf.kind == "boolean":
        return value is True
    if leaf.kind == "json":
        is_empty = value is MISSING or (value is None and leaf.is_optional)
        return "" if is_empty else json.dumps(value, indent=2, ensure_ascii=False)
    if value is MISSING or value is None:
        return ""
    if leaf.kind == "choice":
        return choice_key(leaf, value)
    if leaf.kind == "date-time" and isinstance(value, str):
        return _local(leaf, value)
    # A field that takes JSON as text (`Json[...]`) is dumped as what the text says.
    return value if isinstance(value, str) else json.dumps(value)


def choice_key(leaf: Leaf, value: Any) -> str:
    """What the option of a value sends: the value itself where all are texts, else its JSON."""
    if isinstance(value, str) and all(isinstance(each, str) and each for each, _ in leaf.choices):
        return value
    return json.dumps(value)


def _choice_field(leaf: Leaf, common: dict[str, Any]) -> forms.Field:
    values = {choice_key(leaf, value): value for value, _ in leaf.choices}
    options = [(choice_key(leaf, value), label) for value, label in leaf.choices]
    # Parsed, for a value may be empty itself.
    return forms.TypedChoiceField(
        **common, choices=[("", "---------"), *options], coerce=lambda key: Parsed(values[key]), empty_value=None
    )


def _picker(kind: str, text: object) -> forms.TextInput:
    """A browser's date or time input, but a plain one for what that can't hold, and would show as nothing."""
    shown = str(text)
    fraction = shown.partition(".")[2]
    time = shown.partition("T")[2] if kind == "datetime-local" else shown if kind == "time" else ""
    fits = len(fraction) <= 3 and not any(sign in time for sign in "+-Z")
    widget = forms.TextInput(attrs={} if kind == "date" else {"step": "any"})
    widget.input_type = kind if fits else "text"
    return widget


def _text_widget(leaf: Leaf, text: object) -> forms.Widget:
    longest = leaf.schema.get("maxLength")
    widget = _TEXT_INPUTS.get(leaf.schema.get("format", ""))
    if widget is not None:
        return widget()
    if leaf.schema.get("format") in ("uuid", "duration"):
        return forms.TextInput()
    # A one-line input would drop the ends of the lines.
    if longest is None or longest > _ONE_LINE or "\n" in str(text):
        return _textarea()
    return forms.TextInput()


def _textarea() -> forms.Textarea:
    return forms.Textarea(attrs={"rows": 3, "class": "vLargeTextField"})


def _utc(moment: datetime.datetime) -> datetime.datetime:
    """In UTC, since the offset of a time zone long ago has seconds, which Pydantic does not read."""
    if timezone.is_naive(moment):
        return moment
    try:
        return moment.astimezone(datetime.UTC)
    except OverflowError:
        return moment


def _local(leaf: Leaf, text: str) -> str:
    """A moment as the current time zone has it; as it is where that time comes twice, or is out of range."""
    try:
        moment = datetime.datetime.fromisoformat(text)
        if leaf.is_naive or timezone.is_naive(moment):
            return text
        local = timezone.make_naive(moment)
        is_same = timezone.make_aware(local) == moment and timezone.make_aware(local.replace(fold=1)) == moment
    except (ValueError, OverflowError):
        return text
    return local.isoformat() if is_same else text
