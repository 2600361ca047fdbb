"""Whose connections a hub has, by user and by session; and who was told to go as hers may have been on the way in."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable

from rooms_app.closing import CloseCode, Refused
from rooms_app.connection import RoomSocket
from rooms_app.rooms import is_reserved
from rooms_app.sign_ins import SignIn, session_digest

#: How long a session that has ended is refused, in seconds: Django tells before it has deleted it, and whoever comes
#: back at once, or is on the way in, would find it still there.
_REFUSED = 60.0
#: Such sessions, by their digests, and until when. Of the process: its last connection may be the one that is closed.
_ended: dict[str, float] = {}


class Roster:
    """The signed-in connections of one hub."""

    def __init__(self) -> None:
        #: By the user's own room, whether they are in it or not.
        self._by_user: dict[str, dict[RoomSocket, None]] = {}
        #: By the digest of the session's key.
        self._by_session: dict[str, dict[RoomSocket, None]] = {}
        self._sign_ins: dict[RoomSocket, SignIn] = {}
        #: When a user was kicked, or taken out of a room, on the loop's clock; the oldest first.
        self._told_to_go: dict[tuple[str, str | None], float] = {}

    def check(self, connection: RoomSocket, rooms: Iterable[str] = ()) -> None:
        """Raises `Refused` where it was on its way in as its session ended, or as its user was told to go.

        What it was asked for may not be true any more: of a room, that is looked at again when it comes again.
        """
        if _ended:
            sign_in = SignIn.of(connection.scope)
            key = sign_in.session_key if sign_in is not None else None
            if key is not None and _ended.get(session_digest(key), 0.0) > time.monotonic():
                raise Refused(CloseCode.EXPIRED)
        if self._was_told_to_go(connection):
            raise Refused(CloseCode.KICKED)
        is_on_its_way = not connection.is_accepted or all(map(is_reserved, connection.rooms))
        if is_on_its_way and any(self._was_told_to_go(connection, room) for room in rooms):
            raise Refused(CloseCode.RECONNECT)

    def add(self, connection: RoomSocket) -> None:
        """Note who it is, if it is somebody."""
        room = connection.user_room
        if room is None:
            return
        self._by_user.setdefault(room, {})[connection] = None
        sign_in = SignIn.of(connection.scope)
        if sign_in is not None:
            self._sign_ins[connection] = sign_in
            if sign_in.session_key is not None:
                self._by_session.setdefault(session_digest(sign_in.session_key), {})[connection] = None

    def remove(self, connection: RoomSocket) -> None:
        """Forget it; no error where it is not known."""
        sign_in = self._sign_ins.pop(connection, None)
        if sign_in is not None and sign_in.session_key is not None:
            _drop(self._by_session, session_digest(sign_in.session_key), connection)
        if connection.user_room is not None:
            _drop(self._by_user, connection.user_room, connection)

    def of_user(self, room: str) -> list[RoomSocket]:
        """The connections of the user with this room."""
        return list(self._by_user.get(room, ()))

    def end_session(self, digest: str) -> list[RoomSocket]:
        """Admit the session of this digest no more; the connections that are signed in with it."""
        now = time.monotonic()
        for other in [other for other, until in _ended.items() if until < now]:
            _ended.pop(other, None)
        _ended[digest] = now + _REFUSED
        return list(self._by_session.get(digest, ()))

    def tell_to_go(self, user: str, room: str | None, *, given_at: float) -> list[RoomSocket]:
        """Note that the user with this own room is to leave a room, or altogether; her connections from before that."""
        key = (user, room)
        self._told_to_go[key] = max(given_at, self._told_to_go.pop(key, given_at))
        while (oldest := next(iter(self._told_to_go))) != key and self._told_to_go[oldest] < given_at - _REFUSED:
            del self._told_to_go[oldest]
        return [connection for connection in self.of_user(user) if connection.began_at < given_at]

    def _was_told_to_go(self, connection: RoomSocket, room: str | None = None) -> bool:
        """Whether its user was, after it began."""
        if not self._told_to_go or connection.user_room is None:
            return False
        given_at = self._told_to_go.get((connection.user_room, room))
        # An older one concerns nobody who is on her way in: she may have been let in again.
        return given_at is not None and max(connection.began_at, connection.loop.time() - _REFUSED) < given_at

    def sign_ins(self, connections: Collection[RoomSocket] | None = None) -> dict[SignIn, list[RoomSocket]]:
        """How these connections, or all, are signed in."""
        found: dict[SignIn, list[RoomSocket]] = {}
        for connection in tuple(self._sign_ins) if connections is None else connections:
            if connection in self._sign_ins:
                found.setdefault(self._sign_ins[connection], []).append(connection)
        return found


def _drop(index: dict[str, dict[RoomSocket, None]], key: str, connection: RoomSocket) -> None:
    connections = index.get(key, {})
    connections.pop(connection, None)
    if not connections:
        index.pop(key, None)
