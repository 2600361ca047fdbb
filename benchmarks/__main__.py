"""`python -m benchmarks`: start servers, send, measure, and print what came of it."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import plot, report, scenarios
from benchmarks.calibration import receiver_limit
from benchmarks.processes import BenchmarkError, raise_file_limit
from benchmarks.runner import Results, Runner
from benchmarks.systems import FLOOR, SYSTEMS, System, installed

_EXAMPLES = """examples:
  python -m benchmarks                              everything, up to an hour
  python -m benchmarks --scenario A D --system rooms-uvicorn floor
  python -m benchmarks --short                      counts only, about a minute; ends with 1 if one is wrong
  python -m benchmarks --plot docs/explanation/cpu-per-delivery.png
"""
_DEFAULT_JSON = Path(__file__).parent / "results" / "latest.json"
#: What the short form looks at: ours, and whether the tools still work. Stock layers may lose.
_SHORT_SYSTEMS = ("rooms-daphne", "rooms-uvicorn", FLOOR)


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 1 where a count is wrong or a system could not go on, never for a time."""
    options = _parse(arguments)
    try:
        raise_file_limit()
        return _run(options)
    except BenchmarkError as error:
        print(f"The benchmark can't go on: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _run(options: argparse.Namespace) -> int:
    systems, left_out = installed(_chosen(options))
    if left_out:
        say(left_out)
    began = time.time()
    runner = Runner(
        systems=systems,
        repetitions=options.repetitions or (1 if options.short else 9),
        loop=options.uvicorn_loop,
        say=say,
    )
    machine = report.machine()
    if options.plot:
        return _plot(runner, options.plot, machine)
    chosen = {
        key: (scenarios.SHORT if options.short else scenarios.FULL)[key] for key in options.scenario or scenarios.FULL
    }
    limits = [] if options.short else _calibrate()
    measured: dict[str, Results] = {key: runner.run(scenario) for key, scenario in chosen.items()}

    for key, results in measured.items():
        say(f"\n{chosen[key].title}\n{report.aligned(report.table(key, results))}")
        for note in report.notes(key, results):
            say(note)
    verdicts = list(report.verdicts(measured))
    if verdicts and not options.short:
        say(f"\n{report.aligned(report.verdict_table(verdicts))}")
    wrong = [*report.problems(measured, chosen), *runner.failures]
    say("\nCounts: " + ("all right" if not wrong else "\n  ".join(["WRONG", *wrong])))
    document = {
        "machine": machine,
        "began": round(began),
        "seconds": round(time.time() - began, 1),
        "short": options.short,
        "repetitions": runner.repetitions,
        "uvicorn_loop": options.uvicorn_loop,
        "left_out": left_out,
        "receiver_limit": limits,
        "scenarios": {key: {**asdict(chosen[key]), "results": results} for key, results in measured.items()},
        "targets": verdicts,
        "problems": wrong,
    }
    _write(options.json, document)
    return 1 if wrong else 0


def _calibrate() -> list[dict[str, Any]]:
    say("The receiver's own limit, from a sender that only calls sendall:")
    limits = []
    for joined in (1, 32):
        limit = receiver_limit(connections=500, messages=800 if joined == 1 else 6_400, joined=joined)
        limits.append(limit)
        say(
            f"  {joined} frames a write: {limit['deliveries_per_second']:,.0f} deliveries/s, "
            f"{limit['cpu_us']:.2f} µs each, {limit['lost']} lost"
        )
    return limits


def _plot(runner: Runner, file: Path, machine: dict[str, Any]) -> int:
    points = plot.measure(runner)
    _write(file.with_suffix(".json"), {"machine": machine, "cpu_us_by_room_size": points})
    say(plot.draw(points, file, machine))
    return 1 if runner.failures else 0


def _write(file: Path, document: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document, indent=1) + "\n")
    say(f"Figures: {file}")


def _chosen(options: argparse.Namespace) -> list[System]:
    names = options.system or (_SHORT_SYSTEMS if options.short else [system.name for system in SYSTEMS])
    return [system for system in SYSTEMS if system.name in names]


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure rooms_app and stock Channels on real servers, against a bare server in the same run.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    keys = "  ".join(f"{scenario.key}: {scenario.title}." for scenario in scenarios.FULL.values())
    names = [system.name for system in SYSTEMS]
    add = parser.add_argument
    add("--short", action="store_true", help="small sizes, one repetition; fails on counts only")
    add("--scenario", nargs="+", action="extend", choices=list(scenarios.FULL), metavar="A", help=keys)
    add("--system", nargs="+", action="extend", choices=names, metavar="NAME", help=f"of {', '.join(names)}")
    add("--repetitions", type=_positive, help="of each scenario and system; 9, or 1 with --short")
    add("--json", type=Path, default=_DEFAULT_JSON, metavar="FILE", help="where the figures go")
    add("--uvicorn-loop", choices=["auto", "asyncio", "uvloop"], default="auto", help="uvicorn's --loop")
    add("--plot", type=Path, metavar="PNG", help="only CPU per delivery by room size, 10 to 5,000, as a picture")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def say(text: str) -> None:
    """Show a line at once, also through a pipe."""
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
