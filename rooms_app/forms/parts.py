"""The parts of one form: the tree of a class with as many rows as this form has, and their value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rooms_app.forms.fields import to_payload
from rooms_app.forms.flat import KEEP, Flat, flatten, is_blank, join, needs_box
from rooms_app.forms.plan import MISSING, Group, Leaf, Node, Rows

#: Blank rows that a list has for new items.
SPARE_ROWS = 3


@dataclass(slots=True, kw_only=True)
class Part:
    """A node of the plan in one form."""

    node: Node
    #: The flat name.
    name: str
    children: list[Part] = field(default_factory=list)
    #: It may be left empty as a whole: a group with a default, or the item of a list.
    is_conditional: bool = False
    #: Something in it, or in what it is in, may be left empty as a whole: what is missing is seen later.
    is_in_conditional: bool = False
    #: The rows of a list that are items; known when its value is.
    items: list[Part] = field(default_factory=list)

    @property
    def keep(self) -> str:
        """The name of the box that keeps it although it is empty."""
        return self.name + KEEP

    @property
    def has_keep(self) -> bool:
        """Whether it has such a box."""
        if isinstance(self.node, Leaf):
            return self.node.kind == "text"
        return self.is_conditional if isinstance(self.node, Group) else needs_box(self.node)

    def leaves(self) -> Iterator[Part]:
        """The inputs in it."""
        if isinstance(self.node, Leaf):
            yield self
        for child in self.children:
            yield from child.leaves()

    def walk(self) -> Iterator[Part]:
        """It and all in it."""
        yield self
        for child in self.children:
            yield from child.walk()


def build(node: Node, rows: Mapping[str, list[int]], *, is_bound: bool, name: str = "", is_inner: bool = False) -> Part:
    """The parts for a node: a list has the rows named, and where it is not yet sent some spare ones."""
    part = Part(node=node, name=name, is_in_conditional=is_inner)
    if isinstance(node, Group):
        part.is_conditional = bool(name) and (not node.is_required or node.is_optional or not node.name)
        part.is_in_conditional = is_inner or part.is_conditional
        part.children = [
            build(child, rows, is_bound=is_bound, name=join(name, child.name), is_inner=part.is_in_conditional)
            for child in node.children
        ]
    if isinstance(node, Rows):
        numbers = _with_spare(rows.get(name, []), node.max_rows, is_bound=is_bound)
        part.children = [
            build(
                replace(node.item, label=f"{node.label} {place}"),
                rows,
                is_bound=is_bound,
                name=join(name, str(number)),
                is_inner=True,
            )
            for place, number in enumerate(numbers, 1)
        ]
    return part


def _with_spare(numbers: list[int], max_rows: int | None, *, is_bound: bool) -> list[int]:
    if is_bound and numbers:
        return numbers
    spare = SPARE_ROWS if max_rows is None else max(0, min(SPARE_ROWS, max_rows - len(numbers)))
    first = numbers[-1] + 1 if numbers else 0
    return [*numbers, *range(first, first + spare)]


class Reading:
    """Reads the value of parts from a form's data."""

    def __init__(self, *, cleaned: Mapping[str, Any], raw: Flat, sent: set[str]) -> None:
        #: What Django's fields gave, by flat name; an input with an error has none.
        self._cleaned = cleaned
        #: What was typed, by flat name.
        self._raw = raw
        #: The flat names that came at all.
        self._sent = sent

    def value(self, part: Part) -> Any:
        """The JSON value of a part, or `MISSING`."""
        match part.node:
            case Leaf():
                return self._leaf(part, part.node)
            case Rows():
                return self._rows(part, part.node)
        if part.is_conditional and not self._is_given(part):
            return self._nothing(part)
        return self._object(part)

    def _leaf(self, part: Part, leaf: Leaf) -> Any:
        if part.name not in self._cleaned:
            return MISSING
        if leaf.kind == "boolean":
            # An unticked box is not sent, so that it is False is known only from what was sent beside it.
            return self._cleaned[part.name]
        value = to_payload(leaf, self._cleaned[part.name])
        if self._cleaned[part.name] is not None:
            return value
        return "" if self._keeps(part) else self._nothing(part)

    def _rows(self, part: Part, rows: Rows) -> Any:
        part.items = [row for row in part.children if self._is_given(row)]
        if part.items:
            values = [self.value(row) for row in part.items]
            return ["" if value is MISSING else value for value in values]
        if self._keeps(part):
            return []
        nothing = self._nothing(part)
        return [] if nothing is MISSING and rows.is_required else nothing

    def _object(self, part: Part) -> dict[str, Any]:
        values = {child.node.keys[0]: self.value(child) for child in part.children}
        return {key: value for key, value in values.items() if value is not MISSING}

    def _nothing(self, part: Part) -> Any:
        """What a part left empty means: None where that is a value, else the default or that it is missing."""
        is_sent = any(each.name in self._sent for each in part.leaves())
        is_untouched = isinstance(part.node, Group) and part.node.default not in (MISSING, None)
        if is_untouched and any(self._raw[each.name] for each in part.leaves()):
            return MISSING
        return None if part.node.is_optional and (is_sent or part.node.is_required) else MISSING

    def _is_given(self, part: Part) -> bool:
        if self._keeps(part):
            return True
        if not any(each.name in self._sent for each in part.walk()):
            return False
        inner = {each.name: self._raw[each.name] for each in part.leaves()}
        inner |= {each.keep: True for each in part.walk() if self._keeps(each)}
        return not is_blank(inner, flatten(part.node, MISSING, part.name))

    def _keeps(self, part: Part) -> bool:
        return bool(self._cleaned.get(part.keep))


def find(part: Part, place: tuple[int | str, ...]) -> tuple[Part, tuple[int | str, ...]]:
    """The part at the place of an error, as deep as parts go, and the rest of the place."""
    for depth, step in enumerate(place):
        following = _step(part, step)
        if following is None:
            return part, place[depth:]
        part = following
    return part, ()


def _step(part: Part, step: int | str) -> Part | None:
    if isinstance(part.node, Group):
        return next((child for child in part.children if step in child.node.keys), None)
    if isinstance(part.node, Rows) and isinstance(step, int) and step < len(part.items):
        return part.items[step]
    return None
