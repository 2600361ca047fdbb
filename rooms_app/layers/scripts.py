"""The Lua scripts in `rooms_app/lua`, their keys and their arguments; the same for sync and async callers. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import chain
from typing import NamedTuple

from rooms_app.cursor import Cursor, new_epoch

#: How long a room's last id is remembered after its last message, in µs: a quiet room is no reason for a reset.
LIFETIME = 24 * 3600 * 1_000_000

Argument = str | bytes | int


class Script(NamedTuple):
    """A script, and the digest by which Redis knows it."""

    text: str
    sha: str


def _load(*names: str, sends: bool = False) -> Script:
    """The script in these files, one after the other; it may call send.lua as the function `send`."""
    texts = [files("rooms_app").joinpath("lua", f"{name}.lua").read_text() for name in names]
    if sends:
        # Within one script, so that what is written and the message that tells of it are there both or neither.
        texts.insert(0, f"local function send(KEYS, ARGV)\n{SEND.text}\nend")
    text = "\n".join(texts)
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


SEND = _load("send")
TICK = _load("takeover", "tick")
SETTLE = _load("takeover", "settle")
REPLAY = _load("replay")
LEASE = _load("reap", "lease")
COUNTS = _load("reap", "counts")
ENTER = _load("reap", "presence", "enter")
JOIN = _load("reap", "presence", "join", sends=True)
EXIT = _load("reap", "presence", "exit")
DUE = _load("reap", "presence", "due")
DEPART = _load("reap", "presence", "depart", sends=True)
MEMBERS = _load("reap", "presence", "members")

#: How long counts and members are kept when no process comes any more, in ms.
_KEPT = 24 * 3600 * 1000


class Call(NamedTuple):
    """One call of a script: its keys come first, then its arguments."""

    script: Script
    keys: Sequence[str]
    arguments: Sequence[Argument]

    @property
    def by_sha(self) -> tuple[Argument, ...]:
        """As a command that fails with NOSCRIPT where Redis does not know the script yet."""
        return ("EVALSHA", self.script.sha, len(self.keys), *self.keys, *self.arguments)

    @property
    def by_text(self) -> tuple[Argument, ...]:
        """As a command that also makes it known."""
        return ("EVAL", self.script.text, len(self.keys), *self.keys, *self.arguments)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A group that a message goes to, and how much of its history is kept: `messages` 0 for none."""

    group: str
    messages: int
    seconds: float


class Calls:
    """Makes the calls of one layer, whose prefix its keys begin with."""

    def __init__(self, prefix: str, *, lifetime: int = LIFETIME) -> None:
        self._prefix = prefix
        self._lifetime = lifetime
        self._clock = f"{prefix}:rooms:clock"
        self._lasts = f"{prefix}:rooms:lasts"
        self.totals = f"{prefix}:rooms:totals"
        self._whose = [f"{prefix}:rooms:processes", self.totals]
        #: What the keys begin with that scripts make themselves.
        self._base = f"{prefix}:rooms:"

    def channel(self, group: str) -> str:
        """The Redis channel of a group: the same as on channels_redis's pub/sub layer."""
        return f"{self._prefix}__group__{group}"

    def send(
        self, targets: Sequence[Target], payload: bytes, *, once: str, once_seconds: float, retain_as: str = ""
    ) -> Call:
        """One message to groups; sent once for each key `once`."""
        keys = [self._clock, self._lasts, f"{self._prefix}:rooms:once:{once}"]
        arguments: list[Argument] = [new_epoch(), self._lifetime, payload, int(once_seconds * 1000), retain_as]
        for target in targets:
            keys += [self._stream(target.group), self.retained(target.group)]
            arguments += [target.group, self.channel(target.group), target.messages, int(target.seconds * 1000)]
        return Call(SEND, keys, arguments)

    def tick(self) -> Call:
        """The position that everything sent before is not greater than."""
        return Call(TICK, [self._clock, self._lasts], [new_epoch(), self._lifetime])

    def settle(self, *, known: Cursor | None, received: Sequence[tuple[str, int]]) -> Call:
        """`tick`, with what a hub knows: its position, and the greatest id that it received in each group."""
        arguments: list[Argument] = [new_epoch(), self._lifetime]
        arguments += [known.epoch, known.id] if known is not None else ["", 0]
        for group, number in received:
            arguments += [group, number]
        return Call(SETTLE, [self._clock, self._lasts, *(self._stream(group) for group, _ in received)], arguments)

    def replay(self, epoch: str, rooms: Sequence[tuple[str, int]]) -> Call:
        """What each group was sent after an id."""
        keys = [self._clock, self._lasts, *(self._stream(group) for group, _ in rooms)]
        arguments: list[Argument] = [epoch, self._lifetime]
        for group, after in rooms:
            arguments += [group, after]
        return Call(REPLAY, keys, arguments)

    def last_id(self, group: str) -> tuple[Argument, ...]:
        """The command for the id of the last message of a group's history."""
        return ("ZSCORE", self._lasts, group)

    def lease(self, process: str, counts: Mapping[str, int], *, seconds: float, is_new: bool = False) -> Call:
        """Renew a process's lease, and write the connections of these rooms; `is_new` forgets what was there."""
        arguments: list[Argument] = [self._base, process, int(seconds * 1000), _KEPT, int(is_new)]
        for room, connections in counts.items():
            arguments += [room, connections]
        return Call(LEASE, self._whose, arguments)

    def counts(self, rooms: Sequence[str], *, offset: int, limit: int) -> Call:
        """How many connections these rooms have, and which rooms have most."""
        return Call(COUNTS, self._whose, [self._base, offset, limit, *rooms])

    def enter(self, process: str, entries: Sequence[tuple[str, str, str]], *, before_due: float | None) -> Call:
        """Put on record who is in already: room, id and name.

        With a number of seconds, what the process had before is due after them, unless it comes again.
        """
        arguments: list[Argument] = [self._base, _KEPT, process, "" if before_due is None else int(before_due * 1000)]
        return Call(ENTER, self._whose, [*arguments, *chain.from_iterable(entries)])

    def join(self, process: str, room: str, members: Sequence[tuple[str, str]], *, message: Call) -> Call:
        """Put new members of a room on record, id and name, and make the `send` that tells of them."""
        arguments = [self._base, _KEPT, process, room, *message.arguments, *chain.from_iterable(members)]
        return Call(JOIN, [*self._whose, *message.keys], arguments)

    def exit(self, process: str, entries: Sequence[tuple[str, str, float]], *, all_due: float | None = None) -> Call:
        """Take members off record: room, id, and after how many seconds they leave; or all that the process has."""
        arguments: list[Argument] = [self._base, _KEPT, process, "" if all_due is None else int(all_due * 1000)]
        for room, member, due in entries:
            arguments += [room, member, int(due * 1000)]
        return Call(EXIT, self._whose, arguments)

    def due(self, process: str, *, limit: int) -> Call:
        """Which members' time to leave has come."""
        return Call(DUE, self._whose, [self._base, _KEPT, process, limit])

    def depart(self, room: str, members: Sequence[tuple[str, bytes]], *, message: Call) -> Call:
        """Take members out of a room, id and the time told by `due`, and make the `send` that tells of them."""
        rows: Iterator[Argument] = chain.from_iterable(members)
        arguments = [self._base, _KEPT, room, *message.arguments, *rows]
        return Call(DEPART, [*self._whose, *message.keys], arguments)

    def members(self, room: str, cursor: Argument, *, limit: int, drained: int) -> Call:
        """A page of a room's members, and how many there are."""
        return Call(MEMBERS, self._whose, [self._base, _KEPT, room, cursor, limit, drained])

    def retained(self, group: str) -> str:
        """The hash of a group's retained messages."""
        return f"{self._prefix}:rooms:retained:{group}"

    def _stream(self, group: str) -> str:
        return f"{self._prefix}:rooms:stream:{group}"
