"""What is done to each system: the sizes of the scenarios, and one repetition of each kind."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.figures import percentile
from benchmarks.systems import Deployment
from benchmarks.wire import room_name

#: How long the receivers wait for the next byte before they call the rest lost, in seconds.
_PATIENCE = 15.0
#: For a stock layer to have its subscriptions confirmed, and a new process to come to rest, in seconds.
_SETTLE = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One way to use rooms."""

    key: str
    title: str
    #: "burst", "steady", "idle" or "costs".
    kind: str
    processes: int = 1
    rooms: int = 1
    #: Connections in each room, per process.
    connections: int = 0
    #: Processes that send at the same time. One alone is slower than a server that has little to do per message.
    senders: int = 1
    #: How many messages each sender sends to each room; of a burst that is sized by its CPU, the least.
    messages: int = 0
    #: The most that each sender sends to each room in a burst.
    most: int = 0
    #: How long a burst is to keep the servers busy, in seconds of CPU; 0 leaves `messages` as it is.
    cpu_seconds: float = 0
    #: Messages per second, of a steady scenario.
    rate: float = 0

    @property
    def names(self) -> list[str]:
        """The names of its rooms."""
        return [room_name(index) for index in range(self.rooms)]


FULL = {
    scenario.key: scenario
    for scenario in (
        Scenario(
            key="A",
            title="one process, one room of 500, bursts",
            kind="burst",
            connections=500,
            senders=3,
            messages=3,
            most=10_000,
            cpu_seconds=1.6,
        ),
        Scenario(
            key="B",
            title="two processes, 500 in one room on each, bursts",
            kind="burst",
            processes=2,
            connections=500,
            senders=3,
            messages=3,
            most=10_000,
            cpu_seconds=1.6,
        ),
        Scenario(
            key="C",
            title="500 rooms of 2, bursts to all in turn",
            kind="burst",
            rooms=500,
            connections=2,
            senders=3,
            messages=1,
            most=100,
            cpu_seconds=0.6,
        ),
        Scenario(
            key="D",
            title="20 messages/s to one room of 100",
            kind="steady",
            connections=100,
            messages=60,
            rate=20,
        ),
        Scenario(key="E", title="5,000 idle, then one message", kind="idle", connections=5_000, messages=1),
        Scenario(key="F", title="sends from a plain script", kind="costs", messages=300),
    )
}

#: Large enough to see what is lost, doubled or out of order; too small for a time to mean anything.
SHORT = {
    "A": replace(FULL["A"], title="one process, one room of 100", connections=100, senders=2, messages=150),
    "B": replace(FULL["B"], title="two processes, 100 on each", connections=100, senders=1, messages=300),
    "C": replace(FULL["C"], title="100 rooms of 2", rooms=100, senders=1, messages=10),
    "D": replace(FULL["D"], title="20 messages/s to a room of 50", connections=50, messages=20),
    "E": replace(FULL["E"], title="1,000 idle, then one message", connections=1_000),
    "F": replace(FULL["F"], messages=100),
}
SHORT = {key: replace(scenario, cpu_seconds=0) for key, scenario in SHORT.items()}

#: Connections that an idle server has before its memory counts: the first ones load code and fill caches.
_IDLE_FIRST = 50


def prepare(scenario: Scenario, deployment: Deployment) -> None:
    """Open the connections of a scenario that keeps them, and see that messages reach them."""
    deployment.open(scenario.names, scenario.connections)
    time.sleep(_SETTLE)
    send_burst(replace(scenario, messages=1), deployment)


def run(scenario: Scenario, deployment: Deployment) -> dict[str, Any]:
    """One repetition: what was measured."""
    if scenario.kind == "idle":
        return run_idle(scenario, deployment)
    if scenario.kind == "steady":
        return _measure(scenario, deployment, "steady", room=scenario.names[0], rate=scenario.rate)
    return send_burst(scenario, deployment)


def send_burst(scenario: Scenario, deployment: Deployment) -> dict[str, Any]:
    """Send a burst to the scenario's rooms, and see what arrives."""
    return _measure(scenario, deployment, "burst", rooms=scenario.names)


def run_idle(scenario: Scenario, deployment: Deployment) -> dict[str, Any]:
    """Open the connections of a new server, and then send one message."""
    rooms = scenario.names
    deployment.open(rooms, _IDLE_FIRST)
    time.sleep(_SETTLE)
    rss, commands = deployment.rss_bytes(), _commands(deployment)
    began = time.monotonic()
    more = scenario.connections - _IDLE_FIRST
    deployment.open(rooms, more)
    seconds = time.monotonic() - began
    time.sleep(_SETTLE)
    found = {
        "rss_per_connection": (deployment.rss_bytes() - rss) / more,
        "connect_commands": _commands(deployment) - commands,
        "connects_per_second": more / seconds,
    }
    return {**send_burst(scenario, deployment), **found}


def _measure(scenario: Scenario, deployment: Deployment, command: str, **arguments: Any) -> dict[str, Any]:
    """Have messages sent and received, and read the servers' clocks before and after."""
    for receiver in deployment.receivers:
        receiver.begin("clear")
    for receiver in deployment.receivers:
        receiver.result()
    commands, cpu = _commands(deployment), deployment.cpu_seconds()
    for receiver in deployment.receivers:
        receiver.begin("expect", messages=scenario.messages, senders=scenario.senders, patience=_PATIENCE)
    for sender in deployment.senders:
        sender.begin(command, messages=scenario.messages, **arguments)
    sent = [sender.result(timeout=300) for sender in deployment.senders]
    sends = sum(part["sends"] for part in sent)
    received = [receiver.result(timeout=300) for receiver in deployment.receivers]
    cpu = deployment.cpu_seconds() - cpu
    for server in deployment.servers:
        server.check()
    due = sends * scenario.connections * len(deployment.servers)
    delivered = sum(part["delivered"] for part in received)
    seconds = (max(part["last_at_ns"] for part in received) - min(part["began_ns"] for part in sent)) / 1e9
    waits = [wait / 1e3 for part in received for wait in part["latencies_ns"]]
    return {
        "messages": scenario.messages,
        "sends": sends,
        "due": due,
        **{
            name: sum(part[name] for part in received)
            for name in ("delivered", "lost", "duplicated", "out_of_order", "malformed", "ended")
        },
        "seconds": seconds,
        "deliveries_per_second": delivered / seconds if seconds > 0 else 0.0,
        "server_cpu_seconds": cpu,
        "cpu_us": cpu * 1e6 / delivered if delivered else float("inf"),
        "latency_p50_us": percentile(waits, 0.5) if waits else None,
        "latency_p99_us": percentile(waits, 0.99) if waits else None,
        "latency_max_us": max(part["latency_max_ns"] for part in received) / 1e3,
        "redis_commands": _commands(deployment) - commands,
        "subscriptions": deployment.redis.subscriptions() if deployment.redis else 0,
        "send_us": sum(part["seconds"] for part in sent) * 1e6 / sends,
        "sender_cpu_us": sum(part["cpu_seconds"] for part in sent) * 1e6 / sends,
        "receiver_cpu_us": sum(part["cpu_seconds"] for part in received) * 1e6 / max(delivered, 1),
    }


def _commands(deployment: Deployment) -> int:
    return deployment.redis.commands() if deployment.redis else 0
