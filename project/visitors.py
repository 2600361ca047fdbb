"""Who is speaking: a signed-in user, or a guest whose name is in a signed cookie and so needs no database."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass

from django.http import HttpRequest, parse_cookie
from django.http.response import HttpResponseBase
from rest_framework.request import Request

from rooms_app import RoomSocket, user_room

COOKIE = "guest"
_SALT = "project.visitors"
_MAX_AGE = 30 * 24 * 3600
#: What the cookie holds: the guest's name, which all may see, and a key, which nobody else gets to know.
_GUEST = re.compile(r"(?P<name>guest-[0-9]{4})\.(?P<key>[\w-]{22})", re.ASCII)
_GUEST_ROOM = "visitor-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """A speaker as the others see one, and the room that nobody else is in."""

    user_id: str
    username: str
    room: str
    #: What a guest's cookie holds; None for a signed-in user.
    cookie: str | None = None

    @property
    def is_guest(self) -> bool:
        """Whether nobody is signed in."""
        return self.cookie is not None


def visitor(request: HttpRequest | Request) -> Visitor:
    """The signed-in user, else the guest of the cookie, else a new guest: `remember` that one."""
    user = request.user
    if user.is_authenticated:
        return Visitor(user_id=str(user.pk), username=user.get_username(), room=user_room(user))
    new_name = f"guest-{1000 + secrets.randbelow(9000)}"
    return _known_guest(request) or _guest(new_name, secrets.token_urlsafe(16))


def remember(response: HttpResponseBase, speaker: Visitor, *, secure: bool) -> None:
    """Keep a guest's name for the next request, readable by no script."""
    if speaker.cookie is not None:
        response.set_signed_cookie(
            COOKIE,
            speaker.cookie,
            salt=_SALT,
            max_age=_MAX_AGE,
            httponly=True,
            samesite="Lax",
            secure=secure,
        )


def guest_room(websocket: RoomSocket) -> str | None:
    """The room of the guest whose cookie the WebSocket came with; a user who is signed in is in hers already."""
    if websocket.user.is_authenticated:
        return None
    # Django reads signed cookies of requests only, and Channels no cookies of those without a session.
    request = HttpRequest()
    headers = websocket.scope["headers"]
    request.COOKIES = parse_cookie("; ".join(value.decode("latin1") for name, value in headers if name == b"cookie"))
    guest = _known_guest(request)
    return None if guest is None else guest.room


def is_guest_room(room: str) -> bool:
    """Whether it is some guest's: entered by the cookie, never by its name."""
    return room.startswith(_GUEST_ROOM)


def _known_guest(request: HttpRequest | Request) -> Visitor | None:
    # A cookie that was tampered with, or signed with an older key, is the same as none.
    cookie = request.get_signed_cookie(COOKIE, default=None, salt=_SALT)
    found = _GUEST.fullmatch(cookie or "")
    return None if found is None else _guest(found["name"], found["key"])


def _guest(name: str, key: str) -> Visitor:
    return Visitor(user_id=name, username=name, room=f"{_GUEST_ROOM}{key}", cookie=f"{name}.{key}")
