"""What a feed is, and what it needs of its hub."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rooms_app.cursor import Cursor, Entry

#: What a hub's inbox holds: an event of a stock layer, an entry of history, or something to do in its turn.
Item = dict[str, Any] | Entry | Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What a client missed, or why that can't be told."""

    #: Everything up to here is covered.
    cursor: Cursor
    entries: Sequence[Entry] = ()
    #: Why the client has to reload: epoch, trimmed, limit, no_history; None where the entries are all that it missed.
    reason: str | None = None


class Sink(Protocol):
    """The hub, as a feed sees it."""

    def take(self, item: Item) -> None:
        """Deliver an item, after all that was taken before."""

    def expect_more(self) -> None:
        """More is about to be taken: what is delivered together is cheaper."""

    def reached(self, position: Cursor) -> None:
        """Everything up to this place in history has been delivered."""

    def lose(self, groups: Collection[str] | None, reason: str, cursor: Cursor) -> None:
        """Tell the connections in these groups, or all, that something is missing."""

    def count(self, name: str) -> None:
        """Count an occurrence."""

    async def retry(self) -> None:
        """Settle the rooms whose last call failed. Raises `RoomsUnavailable`."""

    async def rejoin(self) -> None:
        """Join all groups once more. Raises `RoomsUnavailable`."""


class Feed(Protocol):
    """One hub's source of messages, and its way to join groups."""

    #: The hub's channel in groups.
    channel: str

    @property
    def epoch(self) -> str | None:
        """The epoch of history; None where there is none."""

    async def group_add(self, group: str, channel: str) -> None:
        """Have a group's messages told. Raises what the layer raises."""

    async def group_discard(self, group: str, channel: str) -> None:
        """Have a group's messages told no more."""

    def event(self, item: dict[str, Any] | Entry) -> Mapping[str, Any] | None:
        """The channel-layer event of an item; None for what only the feed itself is meant to hear, or is malformed."""

    def age(self, cursor: Cursor) -> float:
        """How many seconds ago that place in history was written, where it is not live; 0 where it is."""

    async def sync(self, groups: Collection[str]) -> None:
        """Return when a fresh position is due to be reached that covers these groups. Raises `RoomsUnavailable`."""

    async def replay(self, groups: Collection[str], since: str) -> Replay | None:
        """What these groups were sent after a client's cursor; None where there is no history."""

    def retained(self, group: str) -> Mapping[str, Entry]:
        """The messages that are kept for those who join a group."""

    def keep(self, group: str, name: str, entry: Entry) -> None:
        """Keep a message for those who join a group."""

    async def stop(self) -> None:
        """End it, when the hub's rooms are left."""
