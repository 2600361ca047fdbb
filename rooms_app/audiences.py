"""Whom a broadcast goes to: its rooms, in parts that are sent one by one, and how many connections those have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from django.contrib import admin
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import FieldDoesNotExist
from django.db import router
from django.db.models import Q, QuerySet
from django.http import HttpRequest

from rooms_app.counts import count_connections_sync
from rooms_app.exceptions import RoomsError
from rooms_app.models import Broadcast
from rooms_app.rooms import EVERYONE, user_room

#: How many users' rooms go into one send …
USERS_PER_SEND = 200
#: … and how many at most into one that is tried again, should more of them match by now.
_USERS_PER_RETRY = 1000
#: How many one query finds: a whole number of either.
_USERS_AT_ONCE = 5000

#: How many such parts a preview counts.
PARTS_PER_PREVIEW = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The rooms of one send."""

    rooms: list[str]
    #: The primary key of its last user, as text; "" where a broadcast has this one part.
    up_to: str = ""


def parts_of(broadcast: Broadcast, operator: Any) -> Iterator[Part]:
    """The parts of a broadcast that are still to be sent; users are searched as this operator would.

    Users go by primary key, from where an earlier attempt had come to, and the part that it was sending ends where it
    ended then: whoever begins or ceases to match meanwhile moves nobody else into another part, or out of it.
    """
    match broadcast.audience:
        case Broadcast.Audience.EVERYONE:
            yield Part(rooms=[EVERYONE])
        case Broadcast.Audience.ROOMS:
            yield Part(rooms=list(broadcast.rooms))
        case _:
            users = users_of(broadcast, operator)
            if broadcast.sent_up_to:
                users = users.filter(pk__gt=broadcast.sent_up_to)
            if broadcast.sending_up_to:
                again = users.filter(pk__lte=broadcast.sending_up_to)
                yield from _parts(again, _USERS_PER_RETRY, last=broadcast.sending_up_to)
                users = users.filter(pk__gt=broadcast.sending_up_to)
            yield from _parts(users, USERS_PER_SEND)


def _parts(users: QuerySet[Any], size: int, *, last: str = "") -> Iterator[Part]:
    """Users in parts of a size; the last one is said to end there, if anywhere.

    No query is open between two parts: SQLite would refuse the write of how far it has come, once somebody else wrote.
    """
    left = users
    while found := list(left.only("pk")[:_USERS_AT_ONCE]):
        for start in range(0, len(found), size):
            part = found[start : start + size]
            is_last = bool(last) and len(part) < size
            yield Part(rooms=[user_room(user) for user in part], up_to=last if is_last else str(part[-1].pk))
        left = users.filter(pk__gt=found[-1].pk)


def users_of(broadcast: Broadcast, operator: Any) -> QuerySet[Any]:
    """The active users of a broadcast, by choice and by query, ordered by primary key."""
    model = get_user_model()
    # What was just saved may not be on a replica yet.
    database = router.db_for_write(model)
    wanted = Q(pk__in=broadcast.users.using(database).values("pk"))
    if broadcast.user_query.strip():
        found = _search(broadcast.user_query, operator or AnonymousUser())
        wanted |= Q(pk__in=found.using(database).order_by().values("pk"))
    users = model._default_manager.using(database).filter(wanted)
    try:
        model._meta.get_field("is_active")
    except FieldDoesNotExist:
        # A user model may do without: then it is a plain attribute, and always true.
        return users.order_by("pk")
    return users.filter(is_active=True).order_by("pk")


def _search(text: str, operator: Any) -> QuerySet[Any]:
    """Whom the project's own user admin finds; without one, or without search fields, by part of the name."""
    model = get_user_model()
    request = HttpRequest()
    request.user = operator
    if admin.site.is_registered(model):
        user_admin = admin.site.get_model_admin(model)
        if user_admin.get_search_fields(request):
            found, _ = user_admin.get_search_results(request, user_admin.get_queryset(request), text)
            return found
    return model._default_manager.filter(**{f"{model.USERNAME_FIELD}__icontains": text.strip()})


def reach_of(parts: Iterable[Part]) -> int | None:
    """How many connections are in their rooms now, one in two rooms counted twice; None where Redis does not say."""
    try:
        return sum(sum(count_connections_sync(part.rooms).values()) for part in parts)
    except RoomsError:
        return None
