"""The form of a Pydantic class."""

from __future__ import annotations

import json
from collections import ChainMap
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar

from django import forms
from django.core.exceptions import NON_FIELD_ERRORS
from django.utils.safestring import SafeString
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from rooms_app.forms.fields import django_field
from rooms_app.forms.flat import KEEP, Flat, flatten, is_of_row, rows_by_name
from rooms_app.forms.parts import Part, Reading, build, find
from rooms_app.forms.plan import MISSING, Group, Leaf, Rows, plan_of

_REQUIRED = "This field is required."


class MessageForm(forms.Form):
    """A form that gives an instance of one Pydantic class; made by `form_class`.

    Its inputs have flat names: `title`, `address-street`, `lines-0-sku`. A row left empty is no item; an object left
    empty is None where it may be, else its default. The box beside what may be left empty keeps it nevertheless.
    """

    required_css_class = "required"
    error_css_class = "errors"

    class Media:
        js = (forms.Script("rooms_app/forms.js", type="module"),)

    #: The class whose instance the form gives.
    message_type: ClassVar[type[BaseModel]]
    plan: ClassVar[Group]

    def __init__(
        self,
        data: Mapping[str, Any] | None = None,
        files: Any = None,
        *,
        initial: Mapping[str, Any] | None = None,
        prefix: str | None = None,
        **options: Any,
    ) -> None:
        shown: dict[str, Any] = flatten(self.plan, MISSING)
        if initial:
            # The rows of a list that is given as empty are not those of its default.
            shown = {name: value for name, value in shown.items() if not is_of_row(name)} | {**initial}
        super().__init__(data, files, initial=shown, prefix=prefix, **options)
        self._message: BaseModel | None = None
        sent = self._sent()
        self.root = build(self.plan, rows_by_name(sent if self.is_bound else shown), is_bound=self.is_bound)
        for part in self.root.walk():
            self._add_fields(part)

    @classmethod
    def initial_from(cls, payload: Mapping[str, Any]) -> Flat:
        """The `initial` that shows a JSON payload, such as `model_dump(mode="json")` gives."""
        flat = flatten(cls.plan, dict(payload))
        flat.pop(KEEP, None)
        return flat

    @property
    def message(self) -> BaseModel:
        """The validated instance. Raises `ValueError` unless `is_valid()` said so."""
        if self._message is None:
            raise ValueError("The form has no message: is_valid() was not called, or was False.")
        return self._message

    def as_fieldsets(self) -> SafeString:
        """All of it as HTML: objects as fieldsets, lists as rows, each error and help text tied to its input."""
        return self.render("rooms_app/forms/form.html", {"form": self, "part": shown_part(self, self.root)})

    def clean(self) -> dict[str, Any]:
        """Have Pydantic validate the whole; its errors go beside the inputs they are about."""
        raw = {part.name: self._raw(part.name) for part in self.root.leaves()}
        reading = Reading(cleaned=dict(self.cleaned_data), raw=raw, sent=self._sent())
        payload = reading.value(self.root)
        try:
            message = self.message_type.model_validate_json(json.dumps(payload), by_alias=True, by_name=True)
        except ValidationError as error:
            self._add_errors(error.errors(include_url=False, include_input=False))
        else:
            self._message = None if self.errors else message
        return self.cleaned_data

    def _add_fields(self, part: Part) -> None:
        leaf = part.node
        if isinstance(leaf, Rows):
            # A row for a new item shows its defaults.
            blank = [flatten(leaf.item, MISSING, row.name) for row in part.children]
            self.initial = {**ChainMap(*blank), **self.initial}
        is_kept = part.has_keep and bool(
            self._sent_value(part.keep) if self.is_bound else self.initial.get(part.keep, False)
        )
        if isinstance(leaf, Leaf):
            is_required = leaf.is_required and not leaf.is_optional and not part.is_in_conditional and not is_kept
            shown = self._sent_value(part.name) if self.is_bound else self.initial.get(part.name, "")
            self.fields[part.name] = django_field(leaf, is_required=is_required, text=shown)
        # For an input the box is needed only where it stands for an empty text.
        if part.has_keep and (is_kept or not isinstance(leaf, Leaf)):
            self.fields[part.keep] = forms.BooleanField(
                required=False, label="Keep this even when it is empty", label_suffix=""
            )

    def _add_errors(self, details: list[ErrorDetails]) -> None:
        had_errors = bool(self.errors)
        wrong = set(self.errors)
        for detail in details:
            part, rest = find(self.root, detail["loc"])
            name = part.name or NON_FIELD_ERRORS
            # What Django refused is missing for Pydantic, and what follows from that is no error of its own.
            if name in wrong or (had_errors and not isinstance(part.node, Leaf)):
                continue
            self._put_error(name, _in_words(detail, rest), detail["type"])

    def _put_error(self, name: str, text: str, code: str) -> None:
        if name not in self.errors and name not in self.fields and name != NON_FIELD_ERRORS:
            # Objects and lists have errors too, but no field.
            self.errors[name] = self.error_class(renderer=self.renderer, field_id=self.id_of(name))
        self.add_error(None if name == NON_FIELD_ERRORS else name, forms.ValidationError(text, code=code))

    def id_of(self, name: str) -> str:
        """The HTML id of what has a flat name."""
        html_name = self.add_prefix(name)
        return self.auto_id % html_name if isinstance(self.auto_id, str) and "%s" in self.auto_id else html_name

    def _sent(self) -> set[str]:
        start = f"{self.prefix}-" if self.prefix else ""
        return {str(key).removeprefix(start) for key in self.data if str(key).startswith(start)}

    def _sent_value(self, name: str) -> str:
        value = self.data.get(self.add_prefix(name))
        return "" if value is None else str(value)

    def _raw(self, name: str) -> str | bool:
        value = self[name].data
        if isinstance(value, bool):
            return value
        return "" if value is None else str(value).replace("\r\n", "\n")


def form_class(message_type: type[BaseModel]) -> type[MessageForm]:
    """The form of a class. Raises Pydantic's `PydanticInvalidForJsonSchema` for what JSON can't carry."""
    return _form_class(message_type)


@lru_cache(maxsize=256)
def _form_class(message_type: type[BaseModel]) -> type[MessageForm]:
    members = {"message_type": message_type, "plan": plan_of(message_type), "__doc__": message_type.__doc__}
    return type(f"{message_type.__name__}Form", (MessageForm,), members)


def _in_words(detail: ErrorDetails, rest: tuple[int | str, ...]) -> str:
    if detail["type"] == "missing" and not rest:
        return _REQUIRED
    cause = detail.get("ctx", {}).get("error")
    text = str(cause) if isinstance(cause, Exception) and str(cause) else detail["msg"]
    return f"{'.'.join(map(str, rest))}: {text}" if rest else text


def shown_part(form: MessageForm, part: Part) -> dict[str, Any]:
    """What the template needs to know of a part."""
    node = part.node
    return {
        # For the script that adds rows.
        "list_name": form.add_prefix(part.name) if isinstance(node, Rows) else "",
        "max_rows": node.max_rows if isinstance(node, Rows) else None,
        "is_bound": form.is_bound,
        "name": part.name,
        "label": part.node.label,
        "help": part.node.help,
        "kind": type(part.node).__name__.lower(),
        "field": form[part.name] if part.name in form.fields else None,
        "keep": form[part.keep] if part.keep in form.fields else None,
        "errors": form.errors.get(part.name) if part.name else None,
        "id": form.id_of(part.name),
        "children": [shown_part(form, child) for child in part.children],
    }
