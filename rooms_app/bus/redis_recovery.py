"""Puts back what a worker took along when it was killed: on record, in no queue, and noted by nobody else."""

from __future__ import annotations

import itertools
import json
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from redis import Redis

from rooms_app.bus.redis_records import AHEAD, list_name

logger = logging.getLogger(__name__)

#: How old a note is before anybody looks for its message, in seconds: while workers keep up, there are none.
_AGE = 5.0
#: How many of the oldest notes one look takes; and as many further on, in turn, as the oldest may wait for long.
_BATCH = 100
#: How many of the oldest messages of a queue tell how far it has got.
_OLDEST = 50
#: How many messages a queue may hold, where the oldest ones don't tell, for ours to be searched among them.
_SEARCHED = 1000
#: How many missing messages are watched at a time.
_WATCHED = 10_000

_PUT_BACK = files("rooms_app").joinpath("lua", "put_back.lua").read_text()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Note:
    """What was noted of a message ahead, and the message."""

    tag: str
    score: float
    queue: str
    #: The message as it is in its queue.
    item: str
    message: dict[str, Any]


class Recovery:
    """Finds messages that workers took and never noted, and puts them back into their queues."""

    def __init__(self) -> None:
        #: By tag, in the order in which they were missed: the score then, and when that was, by the monotonic clock.
        self._missing: dict[str, tuple[float, float]] = {}
        #: Where the batch further on begins.
        self._offset = _BATCH

    def look(self, channel: Any, *, patience: float) -> int:
        """Put back what has been missing for so many seconds, and look for more; how many were put back.

        A worker at work may take long to note what Redis has given it: while all its processes are busy, it does not
        read on.
        """
        ledger = _Ledger(channel)
        put_back = sum(ledger.put_back(note) for note in ledger.read(self._due(patience)))
        oldest, further = ledger.overdue(0), ledger.overdue(self._offset)
        self._offset = self._offset + _BATCH if len(further) == _BATCH else _BATCH
        for note in ledger.not_queued(list(ledger.read(dict(oldest + further)))):
            if len(self._missing) < _WATCHED:
                self._missing.setdefault(note.tag, (note.score, time.monotonic()))
        return put_back

    def _due(self, patience: float) -> dict[str, float]:
        until = time.monotonic() - patience
        waited = itertools.takewhile(lambda tag: self._missing[tag][1] <= until, self._missing)
        return {tag: self._missing.pop(tag)[0] for tag in list(itertools.islice(waited, _BATCH))}


class _Ledger:
    """The notes in a channel's Redis."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        # Not the transport's own client: with a key prefix that knows too few commands.
        self._redis: Any = Redis(connection_pool=channel.pool)
        self._notes, self._index = self._key(channel.unacked_key), self._key(channel.unacked_index_key)

    def overdue(self, offset: int) -> list[tuple[str, float]]:
        """Tags and scores of notes written ahead that are no longer new: a batch, the oldest first."""
        now = time.time() + AHEAD
        found = self._redis.zrange(
            self._index, now - AHEAD / 2, now - _AGE, byscore=True, offset=offset, num=_BATCH, withscores=True
        )
        return [(tag.decode(), score) for tag, score in found]

    def read(self, scores: dict[str, float]) -> Iterator[_Note]:
        """The notes of these tags that are still there."""
        texts = self._redis.hmget(self._notes, list(scores)) if scores else []
        for (tag, score), text in zip(scores.items(), texts, strict=True):
            if text is not None:
                message, end = json.JSONDecoder().raw_decode(text.decode(), 1)
                item, rest = text.decode()[1:end], text.decode()[end + 2 :]
                yield _Note(tag=tag, score=score, queue=json.loads(f"[{rest}")[1], item=item, message=message)

    def not_queued(self, notes: list[_Note]) -> Iterator[_Note]:
        """Those whose messages are not in their queues, or may not be: of the few that can't be told."""
        heads = {key: self._head(key) for key in {self._list(note) for note in notes}}
        for note in notes:
            if note.score < heads[self._list(note)]:
                yield note

    def put_back(self, note: _Note) -> bool:
        """Have a message wait again, if it is in no queue and nobody has noted it meanwhile; whether that was so."""
        keys, now = [self._index, self._list(note)], time.time() + AHEAD
        done = bool(self._redis.eval(_PUT_BACK, len(keys), *keys, note.tag, repr(note.score), note.item, repr(now)))
        if done:
            logger.warning(
                "a message was put back, the worker that took it must have been killed queue=%s id=%s",
                *(note.queue, note.message.get("headers", {}).get("id")),
            )
        return done

    def _head(self, key: str) -> float:
        """How far a queue has got: what was published earlier than that is not in it.

        Messages are taken in the order in which they came. So the oldest ones tell, but for those that others publish,
        which are not on record, and those that a worker gave back, whose notes are newer.
        """
        size, items = self._redis.pipeline().llen(key).lrange(key, -_OLDEST, -1).execute()
        tags = [json.loads(item)["properties"]["delivery_tag"] for item in items]
        scores = self._redis.zmscore(self._index, tags) if tags else []
        told = [score for score in scores if score is not None and score > AHEAD]
        # If none tells: in a short queue each is searched for.
        return min(told, default=math.inf if size <= _SEARCHED else 0)

    def _list(self, note: _Note) -> str:
        return self._key(list_name(self._channel, note.queue, note.message))

    def _key(self, name: str) -> str:
        return f"{self._channel.global_keyprefix}{name}"
