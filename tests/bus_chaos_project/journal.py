"""What handlers do, noted so that it outlives them: lines in a file that all processes append to."""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

BEGIN, END = "begin", "end"


def note(file: str, step: str, number: int, delivery_count: int) -> None:
    """Append a line, which is never mixed with another's; only of one who is killed just then a part may be left."""
    line = f"\n{step} {number} {os.getpgrp()} {os.getpid()} {delivery_count} {time.time():.3f} .\n"
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One line: `worker` is the process group of a worker, `process` the child of its pool."""

    name: str
    number: int
    worker: int
    process: int
    delivery_count: int
    #: Seconds since 1970.
    at: float


class Journal:
    """Reads what was noted since it last looked."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.steps: list[Step] = []
        #: How often each number was begun, and done.
        self.begun: Counter[int] = Counter()
        self.done: Counter[int] = Counter()
        #: What each worker's processes are at.
        self._open: dict[int, dict[int, int]] = {}
        self._offset = 0

    def read(self) -> None:
        if not self.file.exists():
            return
        with self.file.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        # What is being written may be there in part.
        data = data[: data.rfind(b"\n") + 1]
        self._offset += len(data)
        for line in data.decode().splitlines():
            if not line.endswith(" ."):
                continue
            name, number, worker, process, delivery_count, at, _ = line.split()
            self._add(
                Step(
                    name=name,
                    number=int(number),
                    worker=int(worker),
                    process=int(process),
                    delivery_count=int(delivery_count),
                    at=float(at),
                )
            )

    def in_flight(self, worker: int) -> list[int]:
        """The numbers that this worker has begun and not done; those of a killed one stay."""
        return sorted(self._open.get(worker, {}).values())

    def of(self, number: int, step: str = BEGIN) -> list[Step]:
        """When this number was begun, in order."""
        return [each for each in self.steps if each.number == number and each.name == step]

    def _add(self, step: Step) -> None:
        self.steps.append(step)
        processes = self._open.setdefault(step.worker, {})
        if step.name == BEGIN:
            self.begun[step.number] += 1
            processes[step.process] = step.number
        else:
            self.done[step.number] += 1
            processes.pop(step.process, None)
