"""A payload as flat names and what their inputs show: `address-street`, `lines-0-sku`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rooms_app.forms.fields import to_text
from rooms_app.forms.plan import MISSING, Group, Leaf, Node, Rows

#: Ends the name of the box that says: keep this although it is empty. No field's name starts with a hyphen.
KEEP = "--keep"

#: Longest name of an input that is looked at.
_MAX_NAME = 500

Flat = dict[str, str | bool]


def join(*names: str) -> str:
    """The flat name of a path."""
    return "-".join(filter(None, names))


def flatten(node: Node, value: Any, name: str = "") -> Flat:
    """What the inputs of a node show for a JSON value; `MISSING` shows its default.

    Where that is what an empty one shows too, its box to keep it is ticked.
    """
    shown = node.default if value is MISSING else value
    match node:
        case Leaf():
            flat: Flat = {name: to_text(node, shown)}
            if value == "" and node.kind == "text" and not means_empty_text(node):
                flat[name + KEEP] = True
        case Rows():
            items = shown if isinstance(shown, list) else []
            flat = {}
            for index, item in enumerate(items):
                flat |= flatten(node.item, item, join(name, str(index)))
                if isinstance(node.item, Leaf) and flat[join(name, str(index))] == "":
                    flat[join(name, str(index)) + KEEP] = True
            if value == [] and needs_box(node):
                flat[name + KEEP] = True
        case Group():
            given = shown if isinstance(shown, dict) else {}
            flat = {}
            for child in node.children:
                flat |= flatten(child, _pick(given, child.keys), join(name, child.name))
            if isinstance(value, dict) and is_blank(flat, flatten(node, MISSING, name)):
                flat[name + KEEP] = True
        case _:
            raise TypeError(f"{node!r} is no kind of input.")
    return flat


def means_empty_text(leaf: Leaf) -> bool:
    """Whether an input left empty gives an empty text anyway."""
    return not leaf.is_optional and leaf.default == ""


def needs_box(node: Node) -> bool:
    """Whether nothing typed could mean something else than an empty value."""
    if isinstance(node, Rows):
        return node.is_optional or not (node.is_required or node.default == [])
    return True


def is_blank(flat: Flat, untouched: Flat) -> bool:
    """Whether nothing was typed: each input is empty, or as it was; a box to tick is as it was."""
    for name, value in flat.items():
        before = untouched.get(name, "")
        if value is True or (value is False and before is True):
            if value is not before:
                return False
        elif value not in ("", False, before):
            return False
    return True


def rows_by_name(names: Iterable[str]) -> dict[str, list[int]]:
    """The numbers of the rows that some flat names speak of, by the name of their list."""
    found: dict[str, set[int]] = {}
    for name in names:
        if len(name) > _MAX_NAME:
            continue
        parts = name.removesuffix(KEEP).split("-")
        for place, part in enumerate(parts):
            if part.isascii() and part.isdigit() and len(part) <= 6 and str(int(part)) == part:
                found.setdefault("-".join(parts[:place]), set()).add(int(part))
    return {name: sorted(numbers) for name, numbers in found.items()}


def is_of_row(name: str) -> bool:
    """Whether a flat name is of a row, or of a box that keeps something empty."""
    return name.endswith(KEEP) or any(part.isdigit() for part in name.split("-"))


def _pick(payload: dict[str, Any], keys: Iterable[str]) -> Any:
    return next((payload[key] for key in keys if key in payload), MISSING)
