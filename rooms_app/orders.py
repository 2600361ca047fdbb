"""What hubs are told by operators and by Django's sign-ins: whom to close, and what to report. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rooms_app.envelope import ROOM_CONTROL, new_uid
from rooms_app.rooms import EVERYONE

#: The channel-layer type of a hub's report.
REPORT = "room.report"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One of: close a user's connections, or take them out of a room; close a room; a session has ended; a user
    has changed; report a user's connections."""

    #: A user, by her room.
    user: str | None = None
    room: str | None = None
    #: A session, by the digest of its key.
    session: str | None = None
    #: Look whether the user is still signed in.
    recheck: bool = False
    #: The channel for a report on the user's connections.
    reply_to: str | None = None

    @property
    def is_kept(self) -> bool:
        """Whether a process that was cut off hears it afterwards.

        Not of sign-ins, of which there are many: the next look finds those. Nor a question that nobody asks any more.
        """
        return self.session is None and not self.recheck and self.reply_to is None

    def message(self) -> dict[str, Any]:
        """What crosses the channel layer: every hub with connections is in the room of everyone."""
        order = {"user": self.user, "room": self.room, "session": self.session, "recheck": self.recheck}
        return {
            "type": ROOM_CONTROL,
            "rooms": [EVERYONE],
            "uid": new_uid(),
            "history": self.is_kept,
            "order": {**order, "reply_to": self.reply_to},
        }

    @classmethod
    def parse(cls, event: Mapping[str, Any]) -> Order | None:
        """The order in a control message; None where it is another, or malformed: anyone may `group_send`."""
        order = event.get("order")
        if not isinstance(order, Mapping):
            return None
        texts = {name: order.get(name) for name in ("user", "room", "session", "reply_to")}
        if not all(isinstance(text, str | None) for text in texts.values()):
            return None
        return cls(recheck=order.get("recheck") is True, **texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionReport:
    """One connection, as the process that has it sees it."""

    id: str
    process: str
    rooms: Sequence[str]
    #: The path that it was opened at.
    path: str
    since: datetime

    def as_dict(self) -> dict[str, Any]:
        """With the time as ISO 8601 text."""
        return {
            "id": self.id,
            "process": self.process,
            "rooms": list(self.rooms),
            "path": self.path,
            "since": self.since.isoformat(),
        }

    @classmethod
    def parse(cls, value: Any) -> ConnectionReport | None:
        """The report in a hub's answer; None where it is malformed."""
        try:
            since = datetime.fromisoformat(value["since"])
            rooms = [str(room) for room in value["rooms"]]
            return cls(id=value["id"], process=value["process"], rooms=rooms, path=value["path"], since=since)
        except (TypeError, KeyError, ValueError):
            return None
