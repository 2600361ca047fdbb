"""Random histories against a simple model: who comes back gets exactly what she missed, or is told to reload."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis.exceptions import NoScriptError

from rooms_app.cursor import Cursor, unstamp
from rooms_app.feeds.reading import HistoryReader
from rooms_app.layers.scripts import Call, Calls, Target
from tests.live import RedisServer

#: In µs: how long a last id is remembered, and how long a message is kept.
LIFETIME = 10_000_000
AGE = 23_000_000
#: How many messages each group keeps.
LENGTHS = {"short": 2, "long": 1000, "none": 0}
GROUPS = sorted(LENGTHS)

some_groups = st.lists(st.sampled_from(GROUPS), min_size=1, max_size=2, unique=True)
some_sends = st.lists(some_groups, min_size=1, max_size=5)


class DirectShard:
    """A shard without a connection of its own: each command is answered at once."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    async def command(self, *words: Any) -> Any:
        return self._client.execute_command(*words)

    async def call(self, call: Call) -> Any:
        try:
            return await self.command(*call.by_sha)
        except NoScriptError:
            return await self.command(*call.by_text)


@dataclass
class Sent:
    """A message, as the model has it."""

    number: int
    id: int
    #: For each group that keeps messages: the id before, as the script had it.
    previous: dict[str, int] = field(default_factory=dict)


class Histories(RuleBasedStateMachine):
    """What the scripts are asked for, what time and Redis do to what they keep, and clients that come and go."""

    client: redis.Redis
    prefixes = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        self.prefix = f"model-{next(self.prefixes)}"
        self.calls = Calls(self.prefix, lifetime=LIFETIME)
        self.shard = DirectShard(self.client)
        self.reader = HistoryReader(self.shard, self.calls)  # type: ignore[arg-type]
        self.numbers = itertools.count()
        #: The epochs that have been, and the ids that each gave out last.
        self.greatest: dict[str, int] = {}
        self.epoch = ""
        #: What was sent in this epoch, what is kept of it, and the last ids that are remembered.
        self.sent: list[Sent] = []
        self.kept: dict[str, list[int]] = {}
        self.lasts: dict[str, int] = {}
        #: Clients that are away: the cursor, and the groups.
        self.away: list[tuple[Cursor, list[str]]] = []

    def teardown(self) -> None:
        self._delete(f"{self.prefix}:*")

    # What senders and clients do

    @initialize()
    def begin(self) -> None:
        self._told(self._tick())

    @rule(sends=some_sends)
    def send(self, sends: list[list[str]]) -> None:
        for groups in sends:
            self._send(groups)

    @rule(groups=some_groups)
    def leave(self, groups: list[str]) -> None:
        """A client goes away that has got everything."""
        cursor = self._tick()
        self._told(cursor)
        self.away.append((cursor, groups))

    @precondition(lambda self: self.sent)
    @rule(groups=some_groups, data=st.data())
    def leave_with_the_id_of_a_message(self, groups: list[str], data: st.DataObject) -> None:
        """A client goes away in the midst of what was sent."""
        message = data.draw(st.sampled_from(self.sent[-5:]))
        self.away.append((Cursor(self.epoch, message.id), groups))

    @precondition(lambda self: self.away)
    @rule(data=st.data(), sends=st.lists(some_groups, max_size=1))
    def come_back(self, data: st.DataObject, sends: list[list[str]]) -> None:
        """While something is sent, perhaps, which is after the position."""
        since, groups = self.away.pop(data.draw(st.integers(0, len(self.away) - 1)))
        now = self._tick()
        self._told(now)
        if since.epoch == self.epoch:
            expected = [(each.number, each.id) for each in self._missed(since, groups)]
        for meanwhile in sends:
            self._send(meanwhile)
        is_provable = all(self._is_provable(group, since, now) for group in groups)
        replay = self._run(self.reader.missed(now, groups, since))
        assert replay.cursor == now
        if since.epoch != self.epoch:
            assert replay.reason == "epoch"
        else:
            # Nor is anybody told to reload for nothing.
            assert replay.reason == (None if is_provable else "trimmed")
        if replay.reason is None:
            assert [(int(entry.payload), entry.cursor.id) for entry in replay.entries] == expected
        else:
            assert not replay.entries

    # What time and Redis do

    @rule(share=st.sampled_from([0.3, 0.7, 1.3]))
    def time_passes(self, share: float) -> None:
        """For Redis's clock; as its time is behind it then, this is also a time that was set back."""
        clock = int(self.client.hget(f"{self.prefix}:rooms:clock", "id"))
        self.client.hset(f"{self.prefix}:rooms:clock", "id", str(clock + int(LIFETIME * share)))

    @precondition(lambda self: len(self.sent) > 3)
    @rule(group=st.sampled_from(GROUPS))
    def stream_expires(self, group: str) -> None:
        self._delete(f"{self.prefix}:rooms:stream:{group}")
        self.kept.pop(group, None)

    @precondition(lambda self: len(self.sent) > 5)
    @rule(
        pattern=st.sampled_from(["*", ":rooms:clock", ":rooms:lasts"]), how=st.sampled_from(["tick", "settle", "send"])
    )
    def data_vanish(self, pattern: str, how: str) -> None:
        """All, or the half that must not be trusted without the other."""
        self._delete(self.prefix + pattern)
        if how == "send":
            self._send(["long", "short"], is_new=True)
        elif how == "tick":
            self._told(self._tick(), is_new=True)
        else:
            self._told(self._run(self.reader.settle(known=None, received=[])), is_new=True, is_tick=False)

    # A hub, and a Redis that goes back in time

    @rule()
    def hub_connects_again(self) -> None:
        """To a Redis that has all it had: no new epoch."""
        known = self._tick()
        self._told(known)
        now = self._run(self.reader.settle(known=known, received=self._received()))
        self._told(now, is_tick=False)

    @precondition(lambda self: len(self.sent) > 5)
    @rule(
        lost=st.lists(some_groups, max_size=3), since=st.lists(some_groups, max_size=2), is_told_position=st.booleans()
    )
    def goes_back(self, lost: list[list[str]], since: list[list[str]], is_told_position: bool) -> None:
        """What was sent last is gone; a hub that got some of it knows, also where others send before it is back."""
        saved = {key: self.client.dump(key) for key in self.client.keys(f"{self.prefix}:*")}
        before = dict(self._received())
        for groups in lost:
            self._send(groups)
        known = self._tick() if is_told_position else Cursor(self.epoch, 0)
        received = dict(self._received())
        self._delete(f"{self.prefix}:*")
        for key, value in saved.items():
            self.client.restore(key, 0, value)
        if since:
            # It took a while, so that no id is given out again.
            self.client.hset(f"{self.prefix}:rooms:clock", "id", str(self.greatest[self.epoch] + 1000))
        for groups in since:
            self._run(self.shard.call(self._call(groups, next(self.numbers))))
        now = self._run(self.reader.settle(known=known, received=sorted(received.items())))
        gone = [group for group, number in received.items() if number != before.get(group)]
        # What was sent since may be all that is left of a short history.
        if "long" in gone or ((gone or is_told_position) and not since):
            assert now.epoch != known.epoch
        # How that history goes on is of no interest: the model begins again.
        self._delete(f"{self.prefix}:*")
        self._told(self._tick(), is_new=True)

    @invariant()
    def streams_are_as_modelled(self) -> None:
        for group in GROUPS:
            rows = self.client.xrange(f"{self.prefix}:rooms:stream:{group}")
            entries = [unstamp(row[b"m"]) for _, row in rows]
            ids = [entry.cursor.id for entry in entries if entry.cursor.epoch == self.epoch]
            assert ids == self.kept.get(group, [])

    # The model

    def _call(self, groups: list[str], number: int) -> Call:
        targets = [Target(group=group, messages=LENGTHS[group], seconds=AGE / 1_000_000) for group in groups]
        return self.calls.send(targets, b"%d" % number, once=str(number), once_seconds=60)

    def _send(self, groups: list[str], *, is_new: bool = False) -> None:
        number = next(self.numbers)
        call = self._call(groups, number)
        text = self._run(self.shard.call(call)).decode()
        assert self._run(self.shard.call(call)).decode() == text, "sent again, with its key"
        cursor = Cursor.parse(text)
        if cursor is None:
            assert groups == ["none"]
            # It took an id all the same, and old last ids may be forgotten at any.
            self._told(self._clock(), is_tick=False)
            return
        self._told(cursor, is_tick=False, is_new=is_new)
        message = Sent(number, cursor.id)
        for group in groups:
            if LENGTHS[group]:
                if group not in self.lasts:
                    self.kept[group] = []
                message.previous[group] = self.lasts.get(group, cursor.id - LIFETIME)
                kept = [*self.kept.get(group, []), cursor.id][-LENGTHS[group] :]
                self.kept[group] = [each for each in kept if each >= cursor.id - AGE]
                self.lasts[group] = cursor.id
        self.sent.append(message)

    def _received(self) -> list[tuple[str, int]]:
        return sorted({group: message.id for message in self.sent for group in message.previous}.items())

    def _told(self, cursor: Cursor, *, is_tick: bool = True, is_new: bool = False) -> None:
        """An id was given out: ids grow within an epoch, and an epoch never comes back."""
        if is_new:
            assert cursor.epoch not in self.greatest
        if cursor.epoch != self.epoch:
            assert cursor.epoch not in self.greatest
            assert is_new or not self.epoch
            self.epoch, self.sent, self.kept, self.lasts = cursor.epoch, [], {}, {}
        assert cursor.id > self.greatest.get(cursor.epoch, 0)
        self.greatest[cursor.epoch] = cursor.id
        if is_tick or cursor.id % 256 == 0:
            self.lasts = {group: last for group, last in self.lasts.items() if last >= cursor.id - LIFETIME}

    def _missed(self, since: Cursor, groups: list[str]) -> list[Sent]:
        return [each for each in self.sent if each.id > since.id and any(group in each.previous for group in groups)]

    def _is_provable(self, group: str, since: Cursor, now: Cursor) -> bool:
        missed = self._missed(since, [group])
        if group not in self.lasts:
            return since.id >= now.id - LIFETIME
        if not missed:
            return True
        return missed[0].id in self.kept.get(group, []) and missed[0].previous[group] <= since.id

    def _clock(self) -> Cursor:
        epoch, number = self.client.hmget(f"{self.prefix}:rooms:clock", "epoch", "id")
        return Cursor(epoch.decode(), int(number))

    def _tick(self) -> Cursor:
        return self._run(self.reader.tick())

    def _delete(self, pattern: str) -> None:
        if keys := self.client.keys(pattern):
            self.client.delete(*keys)

    @staticmethod
    def _run(call: Any) -> Any:
        # Nothing in it waits.
        try:
            call.send(None)
        except StopIteration as done:
            return done.value
        raise AssertionError("a call waited")


@pytest.mark.slow
def test_random_histories(redis_server: RedisServer) -> None:
    """Exactly what was missed, once and in order, or one reset; and no reset for nothing."""
    Histories.client = redis_server.client
    run_state_machine_as_test(
        Histories,
        settings=settings(
            max_examples=150, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
