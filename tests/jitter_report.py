"""What became of each message in the storm: per client and room, every number once and in order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.jitter_client import JitterClient

_EXAMPLES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one client got of one room."""

    due: int
    missing: tuple[int, ...]
    duplicates: int
    disordered: int

    @property
    def is_right(self) -> bool:
        """Whether each number came once, and in order."""
        return not (self.missing or self.duplicates or self.disordered)


def judge(received: Sequence[int], *, due_from: int, last: int) -> Verdict:
    """The verdict on the numbers of a room as a client got them; due are all from `due_from` or the first it got."""
    due = range(min([due_from, *received[:1]]), last + 1)
    seen: set[int] = set()
    duplicates = disordered = highest = 0
    for number in received:
        duplicates += number in seen
        disordered += number < highest and number not in seen
        seen.add(number)
        highest = max(highest, number)
    missing = tuple(number for number in due if number not in seen)
    return Verdict(due=len(due), missing=missing, duplicates=duplicates, disordered=disordered)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The storm as a whole."""

    clients: Sequence[JitterClient]
    #: What the sender wrote: see `Sender`.
    sent: dict[str, Any]
    #: What was done to the servers, and how often.
    faults: Counter[str]
    #: How long after the storm the last client had everything.
    seconds_to_settle: float
    #: What each server logged.
    logs: dict[str, str] = field(default_factory=dict)

    def verdicts(self) -> Iterator[tuple[JitterClient, str, Verdict]]:
        """One for each client and room; a client that never got going has none."""
        for client in self.clients:
            if client.started_at is None:
                continue
            due_from = self._sent_before(client.started_at)
            for room in client.rooms:
                last = self.sent["numbers"][room]
                yield client, room, judge(client.received[room], due_from=due_from[room] + 1, last=last)

    def problems(self) -> list[str]:
        """A sentence for each thing that is not as it should be."""
        found = [f"{client.name} never got sys.resumed" for client in self.clients if client.started_at is None]
        for client, room, verdict in self.verdicts():
            if not verdict.is_right:
                examples = ", ".join(map(str, verdict.missing[:_EXAMPLES])) or "none"
                found.append(
                    f"{client.name} in {room}: {len(verdict.missing)} of {verdict.due} missing ({examples}), "
                    f"{verdict.duplicates} twice, {verdict.disordered} out of order"
                )
        for client in self.clients:
            odd = {name: count for name, count in client.counts.items() if _is_odd(name)}
            if odd:
                found.append(f"{client.name}: {odd}")
        if self.sent["failed"]:
            found.append(f"{self.sent['failed']} sends were not confirmed")
        found += [f"no {fault}: this was no storm" for fault, count in self.faults.items() if not count]
        return found

    def table(self) -> str:
        """What happened, for a terminal."""
        verdicts = list(self.verdicts())
        lines = ["room       sent  clients      due  delivered  missing  twice  disordered"]
        for name, last in {**self.sent["numbers"], "all": sum(self.sent["numbers"].values())}.items():
            of_room = [verdict for _, room, verdict in verdicts if name in (room, "all")]
            due, missing = (sum(each.due for each in of_room), sum(len(each.missing) for each in of_room))
            twice, disordered = sum(each.duplicates for each in of_room), sum(each.disordered for each in of_room)
            lines.append(
                f"{name:<8}{last:>7}{len(of_room):>9}{due:>9}"
                f"{f'{(due - missing) / due:.2%}' if due else '-':>11}{missing:>9}{twice:>7}{disordered:>12}"
            )
        counts = sum((client.counts for client in self.clients), start=Counter())
        lines.append(f"clients: {len(self.clients)}, {_listed(counts)}")
        lines.append(f"faults: {_listed(self.faults)}; settled {self.seconds_to_settle:.1f} s after the storm")
        for server, log in self.logs.items():
            lines.append(f"{server}: {log.count('Traceback')} tracebacks in its log")
        return "\n".join(lines)

    def _sent_before(self, moment: float) -> dict[str, int]:
        """The last number of each room before the first burst that began after this moment."""
        before: dict[str, int] = next((numbers for at, numbers in self.sent["bursts"] if at > moment), {})
        return before or self.sent["numbers"]


def _is_odd(name: str) -> bool:
    return name == "stopped" or name.startswith(("reset_", "unexpected "))


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
