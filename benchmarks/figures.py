"""The statistics: pure functions of what was measured."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

T = TypeVar("T")

_RESAMPLES = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """A ratio of medians, and the interval in which it lies with 95 %."""

    value: float
    low: float
    high: float


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of the values that at least this share of them does not exceed. Raises `ValueError` for none."""
    if not values:
        raise ValueError("There is no percentile of no values.")
    ordered = sorted(values)
    # Ceiling, without the floating point error that makes 0.99 * 100 more than 99.
    rank = -int(-round(share * len(ordered), 9) // 1)
    return ordered[max(rank, 1) - 1]


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """The first and the third quartile."""
    return percentile(values, 0.25), percentile(values, 0.75)


def ratio_of_medians(values: Sequence[float], base: Sequence[float]) -> Ratio:
    """The ratio of the medians of two series that were measured in turn, with its bootstrap interval.

    Repetitions are drawn as pairs: what disturbs the machine for a while disturbs both. The percentile bootstrap of
    Efron and Tibshirani, "An Introduction to the Bootstrap", chapter 13. Raises `ValueError` where the series differ
    in length or are empty.
    """
    pairs = list(zip(values, base, strict=True))
    if not pairs:
        raise ValueError("There is no ratio of no values.")
    # Seeded: the same measurements give the same interval.
    draw = random.Random(len(pairs)).choices
    found = []
    for _ in range(_RESAMPLES):
        sample = draw(pairs, k=len(pairs))
        found.append(median(pair[0] for pair in sample) / median(pair[1] for pair in sample))
    return Ratio(value=median(values) / median(base), low=percentile(found, 0.025), high=percentile(found, 0.975))


def size_for(cpu_seconds: float, *, measured_cpu: float, measured_messages: int, least: int, most: int) -> int:
    """How many messages make the servers work for so long, judged by a smaller run."""
    if measured_cpu <= 0:
        return most
    return max(least, min(most, round(cpu_seconds * measured_messages / measured_cpu)))


def rotated(items: Sequence[T], by: int) -> list[T]:
    """The items from the `by`-th on, then those before: who goes first changes with each repetition."""
    by %= len(items) or 1
    return [*items[by:], *items[:by]]
