"""Runs scenarios: the systems take turns, so that a disturbance of the machine does not fall on one alone."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks import scenarios
from benchmarks.figures import rotated, size_for
from benchmarks.processes import ROOT, BenchmarkError
from benchmarks.scenarios import Scenario
from benchmarks.systems import Deployment, RedisServer, System, deployed

#: Follows the name of a system that was measured beside stalled connections.
STALLED = " + stalled"
#: The burst that a larger one is sized by is itself sized so often at most.
_SIZINGS = 4
#: What was measured of each system, repetition by repetition.
Results = dict[str, list[dict[str, Any]]]


@dataclass(slots=True, kw_only=True)
class Runner:
    """The options that all scenarios share."""

    systems: list[System]
    repetitions: int
    #: uvicorn's `--loop`.
    loop: str
    #: Shows a line of progress.
    say: Callable[[str], None]
    #: Systems that could not go on, and why.
    failures: list[str] = field(default_factory=list)

    def run(self, scenario: Scenario) -> Results:
        """All repetitions of a scenario."""
        self.say(f"\n{scenario.key}: {scenario.title}")
        if scenario.kind == "costs":
            return {"script": self._costs(scenario)}
        if scenario.kind == "idle":
            return self._fresh_each_time(scenario)
        return self._side_by_side(scenario)

    def _side_by_side(self, scenario: Scenario) -> Results:
        """All systems stay up, and take turns."""
        results: Results = {}
        systems = [system for system in self.systems if not scenario.kinds or system.kind in scenario.kinds]
        with self._deployed(systems, scenario) as deployments:
            sized: dict[str, Scenario] = {}
            for name, deployment in deployments.items():
                with self._failures_of(name, scenario):
                    self._show(scenario, name, "opens its connections")
                    scenarios.prepare(scenario, deployment)
                    sized[name] = self._sized(replace(scenario, stalled=0), deployment)
                    results[name] = []
                    if scenario.stalled:
                        sized[name + STALLED] = replace(sized[name], stalled=scenario.stalled)
                        results[name + STALLED] = []
            for repetition in range(self.repetitions):
                for name in rotated(list(results), repetition):
                    with self._failures_of(name, scenario):
                        deployment = deployments[name.removesuffix(STALLED)]
                        found = scenarios.run(sized[name], deployment)
                        if found["server_cpu_seconds"] < scenario.least_cpu_seconds:
                            sized[name] = _resized(scenario, sized[name], found)
                            found = scenarios.with_counts(scenarios.run(sized[name], deployment), found)
                        results[name].append(found)
                        self._progress(scenario, name, repetition, found)
        return results

    def _fresh_each_time(self, scenario: Scenario) -> Results:
        """Each repetition has new processes: memory that was used once is not given back."""
        results: Results = {system.name: [] for system in self.systems}
        for repetition in range(self.repetitions):
            for system in rotated(self.systems, repetition):
                with (
                    self._failures_of(system.name, scenario),
                    self._deployed([system], scenario) as deployments,
                ):
                    found = scenarios.run(scenario, deployments[system.name])
                    results[system.name].append(found)
                    self._progress(scenario, system.name, repetition, found)
        return results

    def _deployed(self, systems: list[System], scenario: Scenario) -> AbstractContextManager[dict[str, Deployment]]:
        return deployed(
            systems,
            processes=scenario.processes,
            senders=scenario.senders,
            loop=self.loop,
            text_bytes=scenario.text_bytes,
        )

    def _costs(self, scenario: Scenario) -> list[dict[str, Any]]:
        results = []
        with tempfile.TemporaryDirectory(prefix="bench-") as name:
            redis_server = RedisServer(Path(name))
            try:
                redis_server.wait()
                for repetition in range(self.repetitions):
                    done = subprocess.run(
                        [sys.executable, "-m", "benchmarks.costs", str(scenario.messages)],
                        cwd=ROOT,
                        env=redis_server.env("pubsub"),
                        stdin=subprocess.DEVNULL,
                        capture_output=True,
                        text=True,
                        timeout=300,
                    )
                    if done.returncode:
                        raise BenchmarkError(f"The script of scenario F failed:\n{done.stderr[-2000:]}")
                    found = json.loads(done.stdout)
                    results.append(found)
                    line = ", ".join(f"{way} {cost['p50_us']:.0f}" for way, cost in found.items())
                    self._show(scenario, f"{repetition + 1}/{self.repetitions}", f"µs at p50: {line}")
            finally:
                redis_server.stop()
        return results

    def _sized(self, scenario: Scenario, deployment: Deployment) -> Scenario:
        """The scenario with as many messages as keep this system busy for long enough; it warms up on the way."""
        if not scenario.cpu_seconds:
            return scenario
        sized = scenario
        # Again and again: a burst that is too small is dearer, by what it can't share.
        for _ in range(_SIZINGS):
            found = scenarios.send_burst(sized, deployment)
            before, sized = sized, _resized(scenario, sized, found)
            if sized.messages < 1.2 * before.messages:
                break
        self._show(scenario, deployment.system.name, f"bursts of {sized.messages:,} to each room")
        return sized

    @contextmanager
    def _failures_of(self, name: str, scenario: Scenario) -> Iterator[None]:
        """One system that fails is reported, and the others go on."""
        try:
            yield
        except BenchmarkError as error:
            self.failures.append(f"{scenario.key} {name}: {error}")
            self.say(f"  {name} failed: {error}")

    def _progress(self, scenario: Scenario, name: str, repetition: int, found: dict[str, Any]) -> None:
        wrong = [f"{found[key]} {key}" for key in ("lost", "duplicated", "out_of_order", "malformed") if found[key]]
        memory = f", {found['rss_per_connection'] / 1024:.1f} KiB" if "rss_per_connection" in found else ""
        text = f"{found['delivered']:,} deliveries, {found['cpu_us']:.2f} µs each{memory}"
        text += f", p99 {(found['latency_p99_us'] or 0) / 1e3:.1f} ms {' '.join(wrong)}"
        self._show(scenario, f"{repetition + 1}/{self.repetitions} {name}", text)

    def _show(self, scenario: Scenario, what: str, text: str) -> None:
        self.say(f"  {time.strftime('%H:%M:%S')} {scenario.key} {what}: {text}")


def _resized(scenario: Scenario, sized: Scenario, found: dict[str, Any]) -> Scenario:
    """A sized scenario, sized anew by what a burst of it took, to keep the servers busy for as long as it should."""
    messages = size_for(
        scenario.cpu_seconds * scenario.processes,
        measured_cpu=found["server_cpu_seconds"],
        measured_messages=sized.messages,
        least=scenario.messages,
        most=scenario.most,
    )
    return replace(sized, messages=messages)
