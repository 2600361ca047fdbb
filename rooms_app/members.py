"""A room's members, and what rooms are told of them."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from rooms_app.registry import WebSocketMessageBase

#: Longest id and name of a member, in characters.
_MAX_LENGTH = 255


class Member(BaseModel):
    """Who is in a room: a user, however many connections she has."""

    model_config = ConfigDict(frozen=True)

    id: str = Field(min_length=1, max_length=_MAX_LENGTH)
    name: str = Field(max_length=_MAX_LENGTH)


class PresenceMessage(WebSocketMessageBase, abstract=True):
    """What only rooms_app itself sends."""

    #: In the order of their names.
    members: list[Member]

    @classmethod
    def may_broadcast(cls, user: Any) -> bool:
        """Nobody may: it would tell of members who are not there."""
        return False


class PresenceJoined(PresenceMessage):
    """These are in the room now."""

    MESSAGE_ID: ClassVar[str] = "presence.joined"


class PresenceLeft(PresenceMessage):
    """These are in the room no more."""

    MESSAGE_ID: ClassVar[str] = "presence.left"


class PresenceState(PresenceMessage):
    """Who is in the room: for one connection, when it comes and after a reset. Of a big room, only some are named."""

    MESSAGE_ID: ClassVar[str] = "presence.state"
    HISTORY: ClassVar[bool] = False

    #: How many there are.
    count: int


def member_of(user: Any) -> Member | None:
    """A signed-in user as a member; None for the anonymous."""
    if user is None or not user.is_authenticated:
        return None
    return Member(id=str(user.pk), name=str(user.get_username())[:_MAX_LENGTH])
