"""Random comings, goings and deaths against a simple model: what rooms are told always adds up to who is there."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from redis.exceptions import NoScriptError

from rooms_app.cursor import unstamp
from rooms_app.layers.scripts import DEPART, JOIN, Call, Calls
from rooms_app.members import Member
from rooms_app.rooms import group_name
from rooms_app.whereabouts import Exit, RedisWhereabouts, RoomMember
from tests.live import RedisServer

PROCESSES, ROOMS, MEMBERS = ("1-a/0", "2-b/0", "3-c/0"), ("a", "b"), ("x", "y", "z")
#: A grace that is only over when the model says so, and one that is over at once.
LONG, NONE = 60.0, 0.0

processes = st.sampled_from(PROCESSES)
places = st.lists(st.tuples(st.sampled_from(ROOMS), st.sampled_from(MEMBERS)), min_size=1, max_size=4, unique=True)
graces = st.sampled_from([LONG, NONE])
#: What another process does between two scripts of one call.
meanwhiles = st.none() | st.tuples(processes, places, st.sampled_from(["enter", "exit", "pass by", "settle", "die"]))

Place = tuple[str, str]


class Crash(Exception):  # noqa: N818 - reads as what it is
    """The process is killed, or its connection cut."""


class DirectShard:
    """A shard without a connection of its own: each command is answered at once, unless something happens."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        #: Done before the next script that sends, once.
        self.meanwhile: Callable[[], Awaitable[None]] | None = None
        #: How many scripts are run before the caller crashes; and whether the last one is still carried out.
        self.crash_after: int | None = None
        self.loses_reply = False

    async def call(self, call: Call) -> Any:
        if self.meanwhile is not None and call.script in (JOIN, DEPART):
            meanwhile, self.meanwhile = self.meanwhile, None
            await meanwhile()
        if self.crash_after is not None:
            self.crash_after -= 1
            if self.crash_after < 0:
                if self.loses_reply:
                    self._run(call)
                raise Crash
        return self._run(call)

    def _run(self, call: Call) -> Any:
        try:
            return self._client.execute_command(*call.by_sha)
        except NoScriptError:
            return self._client.execute_command(*call.by_text)


class Presence(RuleBasedStateMachine):
    """Three processes, two rooms, three members, and a reader who hears what the rooms are told."""

    client: redis.Redis
    prefixes = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        self.prefix = f"presence-{next(self.prefixes)}"
        self.calls = Calls(self.prefix)
        self.shard, self.other_shard = DirectShard(self.client), DirectShard(self.client)
        self.store, self.other_store = self._store(self.shard), self._store(self.other_shard)
        #: The model: who has whom, who is about to leave, and whose time is over.
        self.held: dict[str, set[Place]] = {}
        self.leaving: set[Place] = set()
        self.over: set[Place] = set()
        #: The reader.
        self.heard: set[Place] = set()
        self.position: dict[str, str] = {}
        self.runner = asyncio.Runner()

    def teardown(self) -> None:
        self._delete()
        self.runner.close()

    # What processes do

    @precondition(lambda self: len(self.held) < len(PROCESSES))
    @rule(data=st.data(), places=places)
    def begin(self, data: st.DataObject, places: list[Place]) -> None:
        """A process begins, or comes to life again, and tells all that it has."""
        process = data.draw(st.sampled_from([each for each in PROCESSES if each not in self.held]))
        self._begin(process, places)

    @precondition(lambda self: self.held)
    @rule(process=processes, places=places, grace=graces)
    def tell_everything(self, process: str, places: list[Place], grace: float) -> None:
        """What it does not name is due."""
        known = process in self.held
        assert self._run(self.store.enter(process, _entries(places), before_due=grace)) is known
        if known:
            self._release(process, grace)
            self._enter(process, places)

    @rule(process=processes, places=places, meanwhile=meanwhiles)
    def enter(self, process: str, places: list[Place], meanwhile: Any) -> None:
        known = self._meet(meanwhile, first=process)
        entered = self._run(self.store.enter(process, _entries(places)))
        if entered:
            self._enter(process, places)
        else:
            assert process not in known
        self.shard.meanwhile = None

    @rule(process=processes, places=places, after=st.integers(0, 3), loses_reply=st.booleans(), is_killed=st.booleans())
    def crash_while_entering(
        self, process: str, places: list[Place], after: int, loses_reply: bool, is_killed: bool
    ) -> None:
        """It is killed, or tries again, as it does not know what became of it."""
        self.shard.crash_after, self.shard.loses_reply = after, loses_reply
        is_known = process in self.held
        try:
            self._run(self.store.enter(process, _entries(places)))
        except Crash:
            if is_killed:
                self._kill(process)
        self.shard.crash_after = None
        if is_known and process not in self.held:
            for place in places:
                self._learn(place)
        elif is_known:
            assert self._run(self.store.enter(process, _entries(places)))
            self._enter(process, places)

    @rule(process=processes, places=places, grace=graces)
    def exit(self, process: str, places: list[Place], grace: float) -> None:
        self._run(self.store.exit(process, _exits(places, grace)))
        self._exit(process, places, grace)

    @rule(process=processes, meanwhile=meanwhiles)
    def settle(self, process: str, meanwhile: Any) -> None:
        """Everybody whose time is over is told of; nobody else."""
        before = set(self.over)
        self._meet(meanwhile, first=process)
        settled = self._run(self.store.settle(process))
        self.shard.meanwhile = None
        if settled.on_record is not None:
            self._hear()
            assert not self.over & before

    @rule(process=processes, grace=graces, heir=st.none() | processes, places=places)
    def end(self, process: str, grace: float, heir: str | None, places: list[Place]) -> None:
        """An orderly end; somebody else may take some members over at once, and let them go a while later."""
        self._run(self.store.forget(process, grace=grace))
        self._run(self.shard.call(self.calls.lease(process, {}, seconds=0)))
        self._release(process, grace)
        self.held.pop(process, None)
        if heir in self.held:
            assert self._run(self.store.enter(heir, _entries(places)))
            self._enter(heir, places)
            self._run(self.store.exit(heir, _exits(places, LONG)))
            self._exit(heir, places, LONG)

    # What befalls them

    @rule(process=processes)
    def die(self, process: str) -> None:
        self._kill(process)

    @rule()
    def time_passes(self) -> None:
        """Until every grace is over."""
        for name in ("leaving", "leaving:a", "leaving:b", "ended"):
            key = f"{self.prefix}:rooms:{name}"
            for member in self.client.zrange(key, 0, -1):
                self.client.zadd(key, {member: 1})
        self.over |= self.leaving
        self.leaving.clear()

    @precondition(lambda self: self.held)
    @rule()
    def redis_forgets(self) -> None:
        """All of it: each process is asked to tell everything, and the reader, who is reset, reads who is there."""
        self._delete()
        self.held.clear()
        self.leaving.clear()
        self.over.clear()
        self.heard.clear()
        self.position.clear()

    @precondition(lambda self: self.held)
    @rule()
    def redis_forgets_the_counts(self) -> None:
        """Then nobody is known, and those who were are given a while."""
        self.client.delete(f"{self.prefix}:rooms:totals")
        for process in list(self.held):
            self._release(process, LONG)
        self.held.clear()

    # What holds at any time

    @invariant()
    def readers_see_who_is_there(self) -> None:
        there = set()
        for room in ROOMS:
            roll = self._run(self.store.read(room))
            assert roll.count == len(roll.members)
            there |= {(room, member.id) for member in roll.members}
        assert there == self._there()

    @invariant()
    def what_is_told_adds_up(self) -> None:
        """Who was told of is there, but for those of whose leaving the room is yet to be told."""
        self._hear()
        assert self.heard == self._there() | self.over

    # The model

    def _there(self) -> set[Place]:
        return set().union(*self.held.values(), self.leaving)

    def _is_held(self, place: Place) -> bool:
        return any(place in held for held in self.held.values())

    def _learn(self, place: Place) -> None:
        """What became of one whom a process was telling of when it was killed: either will do, if it adds up."""
        self.leaving.discard(place)
        self.over.discard(place)
        room, id = place
        self._run(self.store.read(room))
        due = self.client.zscore(f"{self.prefix}:rooms:leaving:{room}", id)
        if due is not None:
            (self.leaving if due > time.time() * 1000 else self.over).add(place)

    def _enter(self, process: str, places: list[Place]) -> None:
        self.held[process] |= set(places)
        self.leaving -= set(places)
        self.over -= set(places)

    def _exit(self, process: str, places: list[Place], grace: float) -> None:
        there = self._there()
        self.held.get(process, set()).difference_update(places)
        self._go({place for place in places if place in there}, grace)

    def _release(self, process: str, grace: float) -> None:
        released = self.held.get(process, set())
        if process in self.held:
            self.held[process] = set()
        self._go(released, grace)

    def _go(self, places: set[Place], grace: float) -> None:
        gone = {place for place in places if not self._is_held(place)}
        if grace == NONE:
            self.over |= gone
            self.leaving -= gone
        else:
            self.leaving |= gone - self.over

    def _kill(self, process: str) -> None:
        """Its lease is over."""
        self.client.zadd(f"{self.prefix}:rooms:processes", {process: 1}, xx=True)
        self._release(process, NONE)
        self.held.pop(process, None)

    def _begin(self, process: str, places: list[Place]) -> None:
        self._run(self.shard.call(self.calls.lease(process, {"*": 1}, seconds=3600, is_new=True)))
        assert not self._run(self.store.enter(process, _entries(places))), "it has told nothing yet"
        assert self._run(self.store.enter(process, _entries(places), before_due=LONG))
        self.held[process] = set()
        self._enter(process, places)

    def _meet(self, meanwhile: Any, *, first: str) -> set[str]:
        """Have another process do something between two scripts of the next call; who may be known then."""
        if meanwhile is None or meanwhile[0] == first:
            return set(self.held)
        process, places, what = meanwhile

        async def do() -> None:
            if what in ("enter", "pass by") and await self.other_store.enter(process, _entries(places)):
                self._enter(process, places)
            if what == "pass by":
                await self.other_store.exit(process, _exits(places, LONG))
                self._exit(process, places, LONG)
            elif what == "exit":
                await self.other_store.exit(process, _exits(places, NONE))
                self._exit(process, places, NONE)
            elif what == "settle":
                await self.other_store.settle(process)
            elif what == "die":
                self._kill(process)

        self.shard.meanwhile = do
        return set(self.held)

    def _hear(self) -> None:
        for room in ROOMS:
            stream = f"{self.prefix}:rooms:stream:{group_name(room)}"
            for id, row in self.client.xrange(stream, min=f"({self.position.get(room, '0')}"):
                self.position[room] = id.decode()
                message = json.loads(json.loads(unstamp(row[b"m"]).payload)["text"])
                places = {(room, member["id"]) for member in message["message"]["members"]}
                if message["MESSAGE_ID"] == "presence.joined":
                    self.heard |= places
                else:
                    assert places <= self.heard, "nobody leaves twice"
                    self.heard -= places
                    self.over -= places

    def _store(self, shard: DirectShard) -> RedisWhereabouts:
        layer: Any = SimpleNamespace(calls=self.calls, serialize=json.dumps, here=lambda: SimpleNamespace(shard=shard))
        return RedisWhereabouts(layer)

    def _delete(self) -> None:
        if keys := self.client.keys(f"{self.prefix}:*"):
            self.client.delete(*keys)

    def _run(self, call: Any) -> Any:
        return self.runner.run(call)


def _entries(places: list[Place]) -> list[RoomMember]:
    return [RoomMember(room=room, member=Member(id=id, name=id.upper())) for room, id in places]


def _exits(places: list[Place], grace: float) -> list[Exit]:
    return [Exit(room=room, id=id, grace=grace) for room, id in places]


@pytest.mark.slow
def test_random_comings_and_goings(redis_server: RedisServer) -> None:
    """Over processes that die, calls that cross, and a Redis that forgets."""
    Presence.client = redis_server.client
    run_state_machine_as_test(
        Presence,
        settings=settings(
            max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
