"""Who is still signed in: what a connection was admitted on, and which of it is over.

Sync, as Django's sessions and models are. The models are imported at use: importing `rooms_app` loads none.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from django.core.exceptions import ValidationError
from django.db import connections, router
from django.utils import timezone
from django.utils.crypto import constant_time_compare, salted_hmac

from rooms_app.asgi import Scope

logger = logging.getLogger(__name__)

#: How many sessions, or users, one query asks for.
_BATCH = 500


@dataclass(frozen=True, slots=True)
class SignIn:
    """How one connection is signed in; equal ones are checked once."""

    #: The user's primary key, as text.
    user: str
    #: None for who signed in without a session, by a token or a ticket.
    session_key: str | None
    #: What the session knew of the user's password at connect; None where there is none.
    auth_hash: str | None

    @classmethod
    def of(cls, scope: Scope) -> SignIn | None:
        """How the connection of an ASGI scope is signed in; touches no database and never raises.

        None for the anonymous, and for a user that is none of the project's user model: there is nothing to look up.
        """
        try:
            return cls._of(scope)
        except Exception as error:
            logger.debug("could not tell the sign-in error=%r", error)
            return None

    @classmethod
    def _of(cls, scope: Scope) -> SignIn | None:
        from django.contrib.auth import HASH_SESSION_KEY, get_user_model

        user = scope.get("user")
        if not isinstance(user, get_user_model()) or not user.is_authenticated or user.pk is None:
            return None
        session: Any = scope.get("session")
        # What was loaded, and not the session itself: that would load it, here in the event loop.
        data = None if session is None else getattr(session, "_session_cache", None)
        if data is None or not session.session_key or _user_of(data) != str(user.pk):
            return cls(str(user.pk), None, None)
        return cls(str(user.pk), session.session_key, data.get(HASH_SESSION_KEY) or None)


def session_digest(session_key: str) -> str:
    """What names a session on the channel layer: who reads along there can't sign in with it."""
    return salted_hmac("rooms_app.sign_ins", session_key, algorithm="sha256").hexdigest()


def ended(sign_ins: Collection[SignIn]) -> set[SignIn]:
    """Those that are over: the session is gone or expired, the user gone or inactive, her password another.

    One query per 500 sessions and one per 500 users, and both again for those found. Raises what the database or the
    cache raises; nobody is known to be signed out then.
    """
    if not sign_ins:
        return set()
    # For the thread of a loop that lives longer than any database connection.
    _close_old_connections()
    try:
        found = _look(set(sign_ins), again=False)
        return _look(found, again=True) if found else found
    finally:
        _close_old_connections()


def _close_old_connections() -> None:
    # Django's own of that name also closes one whose transaction is open, as a test's is.
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close_if_unusable_or_obsolete()


def _look(sign_ins: set[SignIn], *, again: bool) -> set[SignIn]:
    users = _users({sign_in.user for sign_in in sign_ins}, again=again)
    sessions = _sessions({sign_in.session_key for sign_in in sign_ins if sign_in.session_key is not None}, again=again)
    return {
        sign_in
        for sign_in in sign_ins
        if not _is_admitted(sign_in, users.get(sign_in.user)) or not _has_session(sign_in, sessions)
    }


def _is_admitted(sign_in: SignIn, user: Any) -> bool:
    """Whether Django would let this user in by that session."""
    if user is None or not _may_sign_in(user):
        return False
    if sign_in.auth_hash is None or not hasattr(user, "get_session_auth_hash"):
        return True
    if constant_time_compare(sign_in.auth_hash, user.get_session_auth_hash()):
        return True
    return any(constant_time_compare(sign_in.auth_hash, fallback) for fallback in user.get_session_auth_fallback_hash())


def _may_sign_in(user: Any) -> bool:
    if getattr(user, "is_active", True):
        return True
    from django.contrib.auth import get_backends

    # AllowAllUsersModelBackend lets the inactive in, and would do so again after each close.
    backends: list[Any] = get_backends()
    return any(backend.user_can_authenticate(user) for backend in backends if hasattr(backend, "user_can_authenticate"))


def _has_session(sign_in: SignIn, sessions: Mapping[str, Mapping[str, Any] | None]) -> bool:
    if sign_in.session_key is None:
        return True
    if sign_in.session_key not in sessions:
        return False
    data = sessions[sign_in.session_key]
    return data is None or _user_of(data) == sign_in.user


def _user_of(data: Mapping[str, Any]) -> str | None:
    """The primary key of the user whom a session's data signs in, as text."""
    from django.contrib.auth import SESSION_KEY, get_user_model

    try:
        return str(get_user_model()._meta.pk.to_python(data[SESSION_KEY]))
    except (KeyError, ValidationError):
        return None


def _users(keys: Collection[str], *, again: bool) -> dict[str, Any]:
    """The users there are, by primary key. Whole rows: a model's own `get_session_auth_hash` may read any field."""
    from django.contrib.auth import get_user_model

    users = _rows(get_user_model()._default_manager, again=again)
    return {str(user.pk): user for batch in _batches(keys) for user in users.filter(pk__in=batch)}


def _sessions(keys: Collection[str], *, again: bool) -> dict[str, Mapping[str, Any] | None]:
    """The sessions that live, by key, each with its data, or None where that would have to be read for it."""
    from django.contrib.sessions.backends import cache, file, signed_cookies

    if not keys:
        return {}
    engine = _engine()
    if hasattr(engine, "get_model_class"):
        # Also for cached_db, whose cache would go on for a row that was deleted.
        rows = _rows(engine.get_model_class()._default_manager, again=again).filter(expire_date__gt=timezone.now())
        found = (rows.filter(session_key__in=batch).values_list("session_key", flat=True) for batch in _batches(keys))
        return {key: None for batch in found for key in batch}
    if issubclass(engine, cache.SessionStore):
        return _cached(engine(), keys)
    if issubclass(engine, file.SessionStore):
        return {key: None for key in keys if _file_lives(engine, key)}
    if issubclass(engine, signed_cookies.SessionStore):
        # The cookie is the session: nobody can take it back, but it expires.
        return {key: data for key in keys if (data := engine(key).load())}
    store = engine()
    return {key: None for key in keys if store.exists(key)}


def _engine() -> Any:
    """The project's SessionStore, as Django's own middleware finds it."""
    from django.contrib.sessions.middleware import SessionMiddleware

    return SessionMiddleware(_no_response).SessionStore


def _no_response(request: Any) -> Any:
    raise NotImplementedError


def _cached(store: Any, keys: Collection[str]) -> dict[str, Mapping[str, Any] | None]:
    prefix = store.cache_key_prefix
    found: dict[str, Mapping[str, Any] | None] = {}
    for batch in _batches(keys):
        data = store._cache.get_many([prefix + key for key in batch])
        found.update((name.removeprefix(prefix), value) for name, value in data.items())
    return found


def _file_lives(engine: Any, key: str) -> bool:
    session = engine(key)
    # As in Django's clear_expired: loading removes a file that has expired, and would put an empty one in its place.
    session.create = _nothing
    session.load()
    # Not by what was loaded, which is nothing too when the process has no file descriptor left.
    return bool(session.exists(key))


def _nothing() -> None:
    pass


def _rows(manager: Any, *, again: bool) -> Any:
    # The second look is at the database that is written to: a replica may lag behind.
    return manager.using(router.db_for_write(manager.model)) if again else manager.all()


def _batches(keys: Collection[str]) -> Iterator[list[str]]:
    listed = list(keys)
    for start in range(0, len(listed), _BATCH):
        yield listed[start : start + _BATCH]
