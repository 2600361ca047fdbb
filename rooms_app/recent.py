"""A bounded memory of what was seen lately."""

from __future__ import annotations


class Recent:
    """Remembers at least the last `capacity` values, and at most twice as many."""

    __slots__ = ("_capacity", "_newer", "_older")

    def __init__(self, capacity: int = 8192) -> None:
        self._capacity = capacity
        self._newer: set[str] = set()
        self._older: set[str] = set()

    def add(self, value: str) -> bool:
        """Whether the value is new; it is remembered from now on."""
        if value in self._newer or value in self._older:
            return False
        if len(self._newer) >= self._capacity:
            self._older, self._newer = self._newer, set()
        self._newer.add(value)
        return True
