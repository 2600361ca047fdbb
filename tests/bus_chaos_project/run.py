"""Many messages, and workers killed in the middle of them: what came of it."""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from rooms_app.models import DeadLetter, OutboxEntry
from tests.bus_chaos_project.messages import ROOM, AsyncWork, Done, SafeWork, Work
from tests.bus_chaos_project.models import Effect, Total
from tests.bus_chaos_project.reader import Reader
from tests.bus_chaos_project.stage import Stage, Worker
from tests.waiting import wait_until

#: By turns: a handler that blocks, an async one, and one whose messages go through the outbox.
KINDS = (Work, AsyncWork, SafeWork)
#: Between these many seconds the work for a message takes.
SECONDS = (0.01, 0.06)
#: When none has been handled for so many seconds, those that are missing are lost.
_PATIENCE = 30.0
#: Sent when all is over: whoever has read it has read everything.
_FENCE = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Something that must hold at the end; `wrong` says how it does not."""

    name: str
    wrong: str = ""


class Run:
    """Publishes messages, and kills and replaces workers until all have been handled."""

    def __init__(
        self,
        stage: Stage,
        *,
        messages: int,
        kills: int,
        ends: int,
        workers: int,
        anytime: bool,
        rng: random.Random,
        say: Callable[[str], None],
    ) -> None:
        self._stage = stage
        self._journal = stage.journal
        self._numbers = range(messages)
        self._kills = kills
        #: Whose workers die when they have nothing left to do but to tell the broker.
        self._last = set(rng.sample(self._numbers, ends))
        self._anytime = anytime
        self._rng = rng
        self._say = say
        self._said_at = 0.0
        self._workers = [self._new_worker() for _ in range(workers)]
        #: What was in flight at each kill.
        self.in_flight: list[list[int]] = []
        #: From the end of publishing until all had been handled.
        self.seconds = 0.0

    @property
    def begun_again(self) -> int:
        """How often a message was begun once more."""
        return self._journal.begun.total() - len(self._journal.begun)

    @property
    def done_again(self) -> int:
        """How often a message was done once more: its worker died when it had no more to do than to say so."""
        return self._journal.done.total() - len(self._journal.done)

    @property
    def put_back(self) -> int:
        """How many messages a worker took along when it was killed, and others put back."""
        return sum(worker.logged().count("a message was put back") for worker in self._stage.workers)

    def go(self) -> list[Check]:
        """Do all of it; what must hold, and whether it does."""
        Total.objects.create()
        with Reader() as reader:
            self._publish()
            began = time.monotonic()
            for share in sorted(self._rng.uniform(0.02, 0.7) for _ in range(self._kills)):
                self._wait_for(int(share * len(self._numbers)))
                self._kill_one()
            self._wait_for(len(self._numbers))
            self.seconds = time.monotonic() - began
            self._settle(reader)
            return list(self._checks(reader))

    def _publish(self) -> None:
        outcomes: Counter[str] = Counter()
        for number in self._numbers:
            work = KINDS[number % len(KINDS)](
                number=number, seconds=self._rng.uniform(*SECONDS), ends_worker=number in self._last
            )
            outcomes[work.publish_sync()] += 1
            self._progress(f"{number + 1:,} of {len(self._numbers):,} published")
        self._say(f"published: {', '.join(f'{count:,} {outcome}' for outcome, count in outcomes.items())}")

    def _new_worker(self) -> Worker:
        return self._stage.start_worker(f"worker-{len(self._stage.workers) + 1}")

    def _replace_dead(self) -> None:
        """Put a worker in the place of each that has died, as a supervisor would."""
        for place, worker in enumerate(self._workers):
            if not worker.is_running:
                # One that can't even start would be replaced for ever.
                assert worker.has_been_up, worker.logged()
                self._workers[place] = self._new_worker()

    def _kill_one(self) -> None:
        """Kill a worker, all of it, while every process of its pool is at work; or at any time, if that is asked."""
        while True:
            wait_until(self._candidates, what="a worker that is at work", timeout=60)
            victim = self._rng.choice(self._candidates() or self._workers)
            if self._anytime:
                time.sleep(self._rng.uniform(0, 0.1))
            was_running = victim.is_running
            victim.kill()
            self._replace_dead()
            self._journal.read()
            cut_off = self._journal.in_flight(victim.pid)
            # It may have died by itself, or done its work, between our look and the kill: then another one has to die.
            if was_running and (cut_off or self._anytime):
                self.in_flight.append(cut_off)
                self._say(f"killed {victim.name} in the middle of {cut_off}")
                return

    def _candidates(self) -> list[Worker]:
        """Those that may be killed now."""
        self._replace_dead()
        self._journal.read()
        up = [worker for worker in self._workers if worker.has_been_up]
        if self._anytime:
            return up
        return [worker for worker in up if len(self._journal.in_flight(worker.pid)) == worker.concurrency]

    def _wait_for(self, count: int) -> None:
        """Wait until so many messages have been handled, or none has for a long while."""
        done, changed_at = -1, time.monotonic()
        while done < count and time.monotonic() < changed_at + _PATIENCE:
            time.sleep(0.01)
            self._replace_dead()
            self._journal.read()
            if len(self._journal.done) != done:
                done, changed_at = len(self._journal.done), time.monotonic()
            self._progress(
                f"{done:,} of {len(self._numbers):,} handled, {len(self.in_flight)} of {self._kills} kills, "
                f"{self.begun_again} begun again"
            )

    def _settle(self, reader: Reader) -> None:
        """Wait for what is still on its way, end the workers, and read what they have sent."""
        deadline = time.monotonic() + _PATIENCE
        while (self._stage.pending() or _outbox_left()) and time.monotonic() < deadline:
            self._progress("waiting for the broker and the outbox to become empty")
            time.sleep(0.1)
        self._stage.stop()
        Done(number=_FENCE).send_sync(ROOM)
        wait_until(lambda: reader.numbers[_FENCE], what="the last message in the room")

    def _checks(self, reader: Reader) -> Iterator[Check]:
        self._journal.read()
        expected = set(self._numbers)
        effects = set(Effect.objects.values_list("number", flat=True))
        total = Total.objects.get().count
        read = {number: count for number, count in reader.numbers.items() if number != _FENCE}
        doubled = [number for number, count in read.items() if count > 1]
        yield Check(name="each message is handled", wrong=_some("never", expected - self._journal.done.keys()))
        yield Check(name="each has its effect", wrong=_some("without", expected - effects))
        yield Check(name="and has it once", wrong="" if total == len(expected) else f"{total:,} effects")
        yield Check(name="each is announced in the room", wrong=_some("not read", expected - read.keys()))
        yield Check(name="and is so once", wrong=_some("read again", doubled))
        others = reader.others - Counter({"sys.resumed": 1})
        yield Check(name="nothing else comes to the room", wrong=str(dict(others)) if others else "")
        dead = [f"{each.topic} ({each.reason})" for each in DeadLetter.objects.all()[:5]]
        yield Check(name="no message is given up", wrong=", ".join(dead))
        yield Check(name="the outbox is empty", wrong=f"{left} left" if (left := _outbox_left()) else "")
        yield Check(name="the broker has nothing left", wrong=f"{left} left" if (left := self._stage.pending()) else "")
        kills = f"{len(self.in_flight)} of {self._kills}" if len(self.in_flight) != self._kills else ""
        idle = self.in_flight.count([]) if not self._anytime else 0
        yield Check(name="workers died in the middle of messages", wrong=kills or (f"{idle} did not" if idle else ""))
        again = {number for number, count in self._journal.done.items() if count > 1}
        # One that was killed after its effect, before its end, had no second run to die at.
        missing = self._last - again - set(itertools.chain(*self.in_flight))
        yield Check(name="and at the end of messages, which were done again", wrong=_some("not", missing))

    def _progress(self, text: str) -> None:
        if time.monotonic() > self._said_at + 5:
            self._said_at = time.monotonic()
            self._say(text)


def _outbox_left() -> int:
    return OutboxEntry.objects.exclude(state=OutboxEntry.State.DONE).count()


def _some(what: str, numbers: Collection[int]) -> str:
    """How many these are, and the first of them; empty for none."""
    if not numbers:
        return ""
    first = ", ".join(map(str, sorted(numbers)[:10]))
    return f"{len(numbers):,} {what}: {first}{' …' if len(numbers) > 10 else ''}"
