"""The picture: server CPU per delivery against the size of the room."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.runner import Runner
from benchmarks.scenarios import FULL

SIZES = (10, 50, 100, 500, 1_000, 5_000)
#: Stock Channels on the classic layer is left out: it is the dearest, and would need a scale of its own.
_LABELS = {
    "stock-daphne-pubsub": "stock Channels, daphne",
    "stock-uvicorn-pubsub": "stock Channels, uvicorn",
    "floor": "bare picows server",
    "rooms-daphne": "rooms_app, daphne",
    "rooms-uvicorn": "rooms_app, uvicorn",
}
_CPU_SECONDS = 0.5
_MOST_REPETITIONS = 3

#: The median CPU per delivery in µs: by system, then by size.
Points = dict[str, dict[int, float]]


def measure(runner: Runner) -> Points:
    """Bursts to one room of each size."""
    runner.systems = [system for system in runner.systems if system.name in _LABELS]
    runner.repetitions = min(runner.repetitions, _MOST_REPETITIONS)
    points: Points = {}
    for size in SIZES:
        scenario = replace(
            FULL["A"],
            title=f"a room of {size:,}",
            connections=size,
            messages=3,
            cpu_seconds=_CPU_SECONDS,
            least_cpu_seconds=0,
            is_probed=False,
        )
        for name, found in runner.run(scenario).items():
            if found:
                points.setdefault(name, {})[size] = median(part["cpu_us"] for part in found)
    return points


def draw(points: Points, file: Path, machine: Mapping[str, Any]) -> str:
    """Write the picture; returns a line that says so, or what is missing."""
    try:
        import matplotlib
    except ImportError:
        return "There is no picture without matplotlib: pip install -r requirements-bench.txt"
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    for name, label in _LABELS.items():
        if name in points:
            sizes = sorted(points[name])
            style = "--" if name == "floor" else "-"
            axes.plot(sizes, [points[name][size] for size in sizes], style, marker="o", markersize=4, label=label)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="connections in the room, one process",
        ylabel="server CPU per delivery, µs",
        title="Bursts to one room",
    )
    axes.set_xticks(SIZES, [f"{size:,}" for size in SIZES])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    where = f"{machine['cores']} cores, {machine['cpu']}, Python {machine['python']}"
    figure.text(0.99, 0.005, where, ha="right", fontsize=7, color="0.4")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)
    pyplot.close(figure)
    return f"Picture: {file}"
