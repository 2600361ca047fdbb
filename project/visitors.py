"""Who is speaking: a signed-in user, or a guest whose name is in a signed cookie and so needs no database."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from rest_framework.request import Request

COOKIE = "guest"
_SALT = "project.visitors"
_MAX_AGE = 30 * 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """A speaker as the others see one."""

    user_id: str
    username: str
    is_guest: bool


def visitor(request: HttpRequest | Request) -> Visitor:
    """The signed-in user, else the guest of the cookie, else a new guest: `remember` that one."""
    user = request.user
    if user.is_authenticated:
        return Visitor(user_id=str(user.pk), username=user.get_username(), is_guest=False)
    # A cookie that was tampered with, or signed with an older key, is the same as none.
    name = request.get_signed_cookie(COOKIE, default=None, salt=_SALT) or _new_name()
    return Visitor(user_id=name, username=name, is_guest=True)


def remember(response: HttpResponseBase, speaker: Visitor, *, secure: bool) -> None:
    """Keep a guest's name for the next request, readable by no script."""
    if speaker.is_guest:
        response.set_signed_cookie(
            COOKIE,
            speaker.username,
            salt=_SALT,
            max_age=_MAX_AGE,
            httponly=True,
            samesite="Lax",
            secure=secure,
        )


def _new_name() -> str:
    return f"guest-{1000 + secrets.randbelow(9000)}"
