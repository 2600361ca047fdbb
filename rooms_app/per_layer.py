"""What a process has once for each channel layer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from rooms_app.background import after_fork_in_child

T = TypeVar("T")


class PerLayer(Generic[T]):
    """Makes one thing for each channel layer, for all threads; it goes with the layer, so it must not hold that."""

    def __init__(self, make: Callable[[Any], T]) -> None:
        self._make = make
        self._start_afresh()
        # A fork may take along a lock that nobody is left to release, and what is the parent's: its connections.
        after_fork_in_child(self._start_afresh)

    def _start_afresh(self) -> None:
        self._lock = threading.Lock()
        self._made: WeakKeyDictionary[Any, T] = WeakKeyDictionary()

    def of(self, layer: Any) -> T:
        """That of this layer; made when it is first asked for."""
        with self._lock:
            if layer not in self._made:
                self._made[layer] = self._make(layer)
            return self._made[layer]
