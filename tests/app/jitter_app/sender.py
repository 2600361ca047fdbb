"""Sends numbered messages to rooms, in bursts, until SIGTERM: `python -m tests.app.jitter_app.sender --help`."""

import argparse
import asyncio
import json
import os
import random
import signal
import time
from pathlib import Path

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.app.jitter_app.settings")
django.setup()

from rooms_app import SendOutcome  # noqa: E402
from tests.app.jitter_app.messages import Numbered  # noqa: E402


class Sender:
    """Numbers the messages of each room from 1, and remembers when each burst began."""

    def __init__(self, rooms: list[str], rate: float) -> None:
        self._rate = rate
        #: The last number of each room.
        self.numbers = dict.fromkeys(rooms, 0)
        #: When each burst began, and the last number of each room before it.
        self.bursts: list[tuple[float, dict[str, int]]] = []
        #: How many sends were not confirmed.
        self.failed = 0
        self._sent = 0

    async def run(self, until: asyncio.Event) -> None:
        """Send at the given rate on average, a burst every 0.25 s on average; at the end one message to each room."""
        started = time.monotonic()
        while not until.is_set():
            due = int(self._rate * (time.monotonic() - started)) - self._sent
            await self._burst([self._some_rooms() for _ in range(due)])
            await asyncio.sleep(random.uniform(0, 0.5))
        await self._burst([[room] for room in self.numbers])

    async def _burst(self, addresses: list[list[str]]) -> None:
        self.bursts.append((time.monotonic(), dict(self.numbers)))
        self._sent += len(addresses)
        # A burst takes a moment: some of its messages meet what happens to the servers.
        pause = random.choice([0, 0.001, 0.004])
        # Both ways of sending, one after the other: the numbers are to arrive in order.
        if len(self.bursts) % 2:
            for rooms in addresses:
                self._note(await self._next(rooms).send(*rooms))
                await asyncio.sleep(pause)
        else:
            await asyncio.to_thread(self._burst_sync, addresses, pause)

    def _burst_sync(self, addresses: list[list[str]], pause: float) -> None:
        for rooms in addresses:
            self._note(self._next(rooms).send_sync(*rooms))
            time.sleep(pause)

    def _note(self, outcome: SendOutcome) -> None:
        self.failed += outcome is not SendOutcome.SENT

    def _some_rooms(self) -> list[str]:
        """Mostly one; now and then two, of which a client may be in both."""
        return random.sample(list(self.numbers), 2 if random.random() < 0.1 and len(self.numbers) > 1 else 1)

    def _next(self, rooms: list[str]) -> Numbered:
        for room in rooms:
            self.numbers[room] += 1
        return Numbered(numbers={room: self.numbers[room] for room in rooms})


async def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.app.jitter_app.sender", description=__doc__)
    parser.add_argument("rooms", nargs="+")
    parser.add_argument("--rate", type=float, required=True, help="messages per second")
    parser.add_argument("--report", type=Path, required=True, help="the file for what was sent, as JSON")
    options = parser.parse_args()
    is_told_to_end = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, is_told_to_end.set)
    sender = Sender(options.rooms, options.rate)
    await sender.run(is_told_to_end)
    report = {"bursts": sender.bursts, "numbers": sender.numbers, "failed": sender.failed}
    options.report.write_text(json.dumps(report))


if __name__ == "__main__":
    asyncio.run(main())
