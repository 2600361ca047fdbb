"""What is done to each system: the sizes of the scenarios, and one repetition of each kind."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.figures import percentile
from benchmarks.systems import Deployment
from benchmarks.wire import SHORT_TEXT_BYTES, room_name

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
    #: How long a burst is to keep each server busy, in seconds of CPU; 0 leaves `messages` as it is.
    cpu_seconds: float = 0
    #: A burst that took all servers less CPU than this is sent again, larger.
    least_cpu_seconds: float = 0
    #: Messages per second, of a steady scenario.
    rate: float = 0
    #: The size of a message with its envelope.
    text_bytes: int = SHORT_TEXT_BYTES
    #: The kinds of systems it is for; all of them when empty.
    kinds: tuple[str, ...] = ()
    #: Whether each repetition has a second burst, all of it waiting before the servers read any, during which
    #: someone asks rooms_app whether it lives.
    is_probed: bool = False
    #: Connections besides that read nothing; each system is measured without them as well, in turn.
    stalled: int = 0
    #: Messages that go out at once before the steady ones, so that a stalled connection is soon in trouble.
    ahead: int = 0

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
            least_cpu_seconds=1,
            is_probed=True,
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
            least_cpu_seconds=1,
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
        Scenario(
            key="G",
            title="20 messages/s of 2 KB to one room of 1,000, without and with one reader that stalled",
            kind="steady",
            connections=1_000,
            messages=200,
            rate=20,
            text_bytes=2_048,
            kinds=("rooms",),
            stalled=1,
            # Nearly what rooms_app and the kernel hold for one connection: it is closed, and then reset, on the way.
            ahead=640,
        ),
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
    "G": replace(FULL["G"], title="a room of 100 without and with one stalled reader", connections=100, messages=20),
}
SHORT = {key: replace(scenario, cpu_seconds=0, least_cpu_seconds=0) for key, scenario in SHORT.items()}

#: What went wrong with deliveries.
WRONG = ("lost", "duplicated", "out_of_order", "malformed", "ended")
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
        return run_steady(scenario, deployment)
    found = send_burst(scenario, deployment)
    if scenario.is_probed and deployment.system.kind == "rooms":
        # Answers cost CPU, so they are asked for in a burst of their own.
        for name, is_held in (("health", False), ("backlog", True)):
            found = with_counts(found, probed := _burst_with_questions(scenario, deployment, is_held=is_held))
            found[f"{name}_ms"] = probed["answers_ms"]
            found[f"{name}_seconds"] = probed["seconds"]
    return found


def send_burst(scenario: Scenario, deployment: Deployment, *, is_held: bool = False) -> dict[str, Any]:
    """Send a burst to the scenario's rooms, and see what arrives.

    With `is_held` the servers stand still until all of it is sent: a backlog, however fast they are.
    """
    return _measure(scenario, deployment, "burst", is_held=is_held, rooms=scenario.names)


def run_steady(scenario: Scenario, deployment: Deployment) -> dict[str, Any]:
    """Send at a steady rate, beside connections that read nothing where the scenario has some."""
    room = scenario.names[0]
    receiver = deployment.receivers[0]
    if scenario.stalled:
        receiver.call("stall", port=deployment.port, room=room, connections=scenario.stalled)
    before = send_burst(replace(scenario, messages=scenario.ahead), deployment) if scenario.ahead else {}
    found = _measure(scenario, deployment, "steady", room=room, rate=scenario.rate)
    if scenario.stalled:
        found["stalled_reset"] = receiver.call("release")["reset"]
    return with_counts(found, before)


def _burst_with_questions(scenario: Scenario, deployment: Deployment, *, is_held: bool) -> dict[str, Any]:
    """A burst, and how long each answer to `GET /health/live` took meanwhile, in ms."""
    deployment.prober.call("start", port=deployment.port)
    found = send_burst(scenario, deployment, is_held=is_held)
    answers = deployment.prober.call("stop")["answers"]
    resumed, end = found["resumed_ns"] if is_held else found["began_ns"], found["last_at_ns"]
    # Who asked a server that was held has waited since it went on.
    waits = [got - max(asked, resumed) for asked, got in answers if got > resumed and asked < end]
    return {**found, "answers_ms": [round(wait / 1e6, 3) for wait in waits], "seconds": (end - resumed) / 1e9}


def with_counts(found: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """What was found, with what went wrong in another part of the same repetition."""
    return {**found, **{name: found[name] + other.get(name, 0) for name in WRONG}}


def run_idle(scenario: Scenario, deployment: Deployment) -> dict[str, Any]:
    """Open the connections of a new server, and then send one message."""
    rooms = scenario.names
    commands = _commands(deployment)
    deployment.open(rooms, _IDLE_FIRST)
    time.sleep(_SETTLE)
    rss = deployment.rss_bytes()
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


def _measure(
    scenario: Scenario, deployment: Deployment, command: str, *, is_held: bool = False, **arguments: Any
) -> dict[str, Any]:
    """Have messages sent and received, and read the servers' clocks before and after."""
    for receiver in deployment.receivers:
        receiver.begin("clear")
    for receiver in deployment.receivers:
        receiver.result()
    commands, cpu = _commands(deployment), deployment.cpu_seconds()
    for receiver in deployment.receivers:
        receiver.begin("expect", messages=scenario.messages, senders=scenario.senders, patience=_PATIENCE)
    senders = deployment.senders
    if is_held:
        for server in deployment.servers:
            server.hold()
    for sender in senders:
        sender.begin(command, messages=scenario.messages, **arguments)
    sent = [sender.result(timeout=300) for sender in senders]
    if is_held:
        for server in deployment.servers:
            server.resume()
    resumed_ns = time.monotonic_ns()
    sends = sum(part["sends"] for part in sent)
    received = [receiver.result(timeout=300) for receiver in deployment.receivers]
    cpu = deployment.cpu_seconds() - cpu
    for server in deployment.servers:
        server.check()
    due = sends * scenario.connections * len(deployment.servers)
    delivered = sum(part["delivered"] for part in received)
    began_ns, last_at_ns = min(part["began_ns"] for part in sent), max(part["last_at_ns"] for part in received)
    seconds = (last_at_ns - began_ns) / 1e9
    waits = [wait / 1e3 for part in received for wait in part["latencies_ns"]]
    return {
        "messages": scenario.messages,
        "sends": sends,
        "due": due,
        **{name: sum(part[name] for part in received) for name in ("delivered", *WRONG)},
        "began_ns": began_ns,
        "last_at_ns": last_at_ns,
        "resumed_ns": resumed_ns,
        # From the first send until the last was done: what is left of `seconds` the servers worked off a backlog.
        "sending_seconds": (max(part["began_ns"] + part["seconds"] * 1e9 for part in sent) - began_ns) / 1e9,
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
    return deployment.redis.commands(deployment.system.layer) if deployment.redis else 0
