"""What the pages of live rooms show: a list of rooms, one room, one user's connections; read anew for their socket."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from channels.db import database_sync_to_async
from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.http import QueryDict
from django.utils import timezone
from pydantic import BaseModel

from rooms_app import presence
from rooms_app.background import background
from rooms_app.cancelling import within
from rooms_app.conf import rooms_settings
from rooms_app.counts import Listing, count_connections, list_rooms
from rooms_app.members import Member
from rooms_app.registry import WebSocketMessageBase
from rooms_app.reports import ConnectionReport, connections_of
from rooms_app.rooms import MAX_LENGTH

#: How many rooms are on one page.
PER_PAGE = 50
#: Up to how many members of a room are named.
_MAX_MEMBERS = 500


# Abstract: no client of a team's gets these, so they are among no message types and in no schema.


class RoomsShown(WebSocketMessageBase, abstract=True):
    """A list of rooms."""

    MESSAGE_ID = "rooms.live"
    HISTORY = False
    #: None while the counts can't be read.
    listing: Listing | None
    has_more: bool


class RoomShown(WebSocketMessageBase, abstract=True):
    """One room."""

    MESSAGE_ID = "rooms.live.room"
    HISTORY = False
    #: None while it can't be read.
    connections: int | None
    member_count: int
    #: Nobody where there are too many to name.
    members: Sequence[Member]


class ConnectionShown(BaseModel):
    """A connection, as texts."""

    id: str
    since: str
    process: str
    path: str
    rooms: str

    @classmethod
    def of(cls, report: ConnectionReport) -> ConnectionShown:
        """What is shown of a report."""
        # The same for the page, in whose request there may be a zone of its user's, and for its socket.
        since = f"{report.since.astimezone(timezone.get_default_timezone()):%Y-%m-%d %H:%M:%S}"
        rooms = ", ".join(report.rooms)
        return cls(id=report.id, since=since, process=report.process, path=report.path, rooms=rooms)


class UserShown(WebSocketMessageBase, abstract=True):
    """A user's connections."""

    MESSAGE_ID = "rooms.live.user"
    HISTORY = False
    #: None while they can't be read.
    connections: Sequence[ConnectionShown] | None


class View(Protocol):
    """What one part of a page shows; two that are equal show the same."""

    @property
    def respite(self) -> int:
        """How many times as long as a read took nothing is read after it: Redis may have had work with it."""

    async def read(self) -> WebSocketMessageBase:
        """What there is to show now. Raises `RoomsError`, and the database's errors."""

    @property
    def unread(self) -> WebSocketMessageBase:
        """What is told while it can't be read."""

    def __hash__(self) -> int:
        """Views are keys."""


@dataclass(frozen=True, slots=True)
class ListView:
    """One page of the list of rooms: of all, or of those whose name fits a pattern."""

    match: str
    page: int

    @classmethod
    def of(cls, query: QueryDict) -> ListView:
        """The view that a URL asks for; what it can't mean is left out."""
        page = str(query.get("page", ""))
        is_number = page.isascii() and page.isdigit() and len(page) < 9
        return cls(str(query.get("match", "")).strip()[:MAX_LENGTH], max(int(page), 1) if is_number else 1)

    @property
    def window(self) -> dict[str, Any]:
        """What `list_rooms` is asked for."""
        return {"match": self.match or None, "limit": PER_PAGE, "offset": (self.page - 1) * PER_PAGE}

    def has_more(self, listing: Listing) -> bool:
        """Whether there are rooms after this page."""
        return listing.total_rooms > self.page * PER_PAGE

    @property
    def respite(self) -> int:
        """A pattern has Redis look through all rooms' names."""
        return 20 if self.match else 0

    async def read(self) -> RoomsShown:
        """See `View.read`."""
        listing = await list_rooms(**self.window)
        return RoomsShown(listing=listing, has_more=self.has_more(listing))

    @property
    def unread(self) -> RoomsShown:
        """See `View.unread`."""
        return RoomsShown(listing=None, has_more=False)


@dataclass(frozen=True, slots=True)
class RoomView:
    """How many connections a room has, and who is in it, where its presence is tracked."""

    room: str

    @property
    def respite(self) -> int:
        """See `View.respite`."""
        return 0

    async def read(self) -> RoomShown:
        """See `View.read`."""
        connections = (await count_connections([self.room]))[self.room]
        count = await presence.count(self.room)
        # Two commands, however many they are: more than these would take more.
        members = await presence.members(self.room) if 0 < count <= _MAX_MEMBERS else []
        return RoomShown(connections=connections, member_count=count, members=members)

    def read_sync(self) -> RoomShown:
        """`read` for sync code."""
        return background.run(self.read)

    @property
    def unread(self) -> RoomShown:
        """See `View.unread`."""
        return RoomShown(connections=None, member_count=0, members=[])


@dataclass(frozen=True, slots=True)
class UserView:
    """Where the user of this name is connected."""

    name: str

    @property
    def respite(self) -> int:
        """See `View.respite`."""
        return 0

    async def read(self) -> UserShown:
        """See `View.read`."""
        async with within(rooms_settings().send_timeout):
            user = await database_sync_to_async(find_user)(self.name)
        reports = [] if user is None else await connections_of(user)
        return UserShown(connections=[ConnectionShown.of(report) for report in reports])

    @property
    def unread(self) -> UserShown:
        """See `View.unread`."""
        return UserShown(connections=None)


def views_of(query: QueryDict) -> list[View]:
    """What the page of a URL shows: one room, or a list of rooms and perhaps a user."""
    if room := query.get("room"):
        return [RoomView(str(room))]
    name = name_in(query)
    return [ListView.of(query), *([UserView(name)] if name else [])]


def name_in(query: QueryDict) -> str:
    """The user name that a URL asks for; "" for none."""
    return str(query.get("user", "")).strip()[:MAX_LENGTH]


def find_user(name: str) -> Any:
    """The user of this name, or None."""
    model = get_user_model()
    if "\0" in name:
        # PostgreSQL takes none, not even to look for it.
        return None
    try:
        return model._default_manager.filter(**{model.USERNAME_FIELD: name}).first()
    except (ValueError, OverflowError, ValidationError):
        # No such name could be: a number, say, is what names are in this project.
        return None
