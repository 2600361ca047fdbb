"""What Django tells of those who sign out, handed on to the processes that hold their connections."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Collection, Iterator
from typing import Any

from django.apps import apps
from django.contrib.auth import get_user_model
from django.contrib.auth.signals import user_logged_out
from django.db import DEFAULT_DB_ALIAS, router, transaction
from django.db.models.signals import ModelSignal, post_delete, post_save
from django.db.transaction import TransactionManagementError

from rooms_app.revocation import announce_session_ended_sync, announce_user_changed_sync
from rooms_app.sender import is_in_transaction
from rooms_app.sign_ins import session_digest

logger = logging.getLogger(__name__)

#: The fields of Django's own user models that decide whether a sign-in stands.
_DECISIVE = frozenset({"is_active", "password"})
#: What signing in writes.
_BY_LOGIN = frozenset({"last_login"})


def connect() -> None:
    """Tell all processes of each logout, and of each user saved or deleted; once, however often it is called."""
    Receivers(announce_session_ended_sync, announce_user_changed_sync).connect()


class Receivers:
    """The receivers of Django's signals. They call after the commit, never raise, and never wait in an event loop.

    Plain functions: Django calls them from a thread where the signal is sent by async code, as in `alogout`. A logout
    without a request, as Channels' own, names no session and is left to the re-check.
    """

    def __init__(
        self,
        session_ended: Callable[[str], object],
        user_changed: Callable[[str], object],
        *,
        name: str = "rooms_app.signals",
    ) -> None:
        self._session_ended = session_ended
        self._user_changed = user_changed
        self._name = name

    def connect(self) -> None:
        """Connect them, once under this name."""
        user_logged_out.connect(self.logged_out, weak=False, dispatch_uid=self._name)
        for signal, receiver, model in self._model_signals():
            signal.connect(receiver, sender=model, weak=False, dispatch_uid=self._name)

    def disconnect(self) -> None:
        """Disconnect those of this name."""
        user_logged_out.disconnect(dispatch_uid=self._name)
        for signal, _, model in self._model_signals():
            signal.disconnect(sender=model, dispatch_uid=self._name)

    def logged_out(self, request: Any = None, **kwargs: Any) -> None:
        """Receives `user_logged_out`."""
        try:
            session = getattr(request, "session", None)
            if session is not None and session.session_key:
                _after_commit(self._session_ended, session_digest(session.session_key), _database_of(session))
        except Exception:
            logger.exception("could not tell of a logout")

    def user_saved(
        self,
        sender: type,
        instance: Any,
        created: bool = False,
        raw: bool = False,
        update_fields: Collection[str] | None = None,
        using: str = DEFAULT_DB_ALIAS,
        **kwargs: Any,
    ) -> None:
        """Receives `post_save` of a user."""
        if not created and not raw and (update_fields is None or _is_decisive(sender, update_fields)):
            self._announce(instance, using)

    def user_deleted(self, instance: Any, using: str = DEFAULT_DB_ALIAS, **kwargs: Any) -> None:
        """Receives `post_delete` of a user."""
        self._announce(instance, using)

    def _announce(self, user: Any, using: str) -> None:
        try:
            # The key now: a deleted user loses it.
            _after_commit(self._user_changed, str(user.pk), using)
        except Exception:
            logger.exception("could not tell of a changed user")

    def _model_signals(self) -> Iterator[tuple[ModelSignal, Callable[..., None], type]]:
        # By sender: a `post_delete` for all models would make each bulk delete of the project read its rows first.
        # Proxies and child models have signals of their own.
        user_model = get_user_model()
        for model in apps.get_models():
            if issubclass(model, user_model):
                yield post_save, self.user_saved, model
                yield post_delete, self.user_deleted, model


def _is_decisive(model: Any, fields: Collection[str]) -> bool:
    """Whether a save of these fields alone may end a sign-in."""
    if not _DECISIVE.isdisjoint(fields):
        return True
    return _decides_itself(model) and not _BY_LOGIN.issuperset(fields)


@functools.cache
def _decides_itself(model: Any) -> bool:
    """Whether the model reckons in ways of its own whom a session belongs to, or who is active: any field may count."""
    from django.contrib.auth.base_user import AbstractBaseUser

    hashes = ("get_session_auth_hash", "_get_session_auth_hash")
    if any(getattr(model, name, None) is not getattr(AbstractBaseUser, name, None) for name in hashes):
        return True
    return isinstance(getattr(model, "is_active", None), property)


def _database_of(session: Any) -> str | None:
    """The database that the session is deleted from; None where it is kept elsewhere, and gone at once."""
    return router.db_for_write(session.model) if hasattr(session, "get_model_class") else None


def _after_commit(announce: Callable[[str], object], name: str, using: str | None) -> None:
    def tell() -> None:
        # Not by `robust=True` of on_commit: it fails on a function without a name, and knows nothing of the other ways.
        try:
            announce(name)
        except Exception:
            logger.exception("could not tell of a sign-out")

    if using is not None and _is_in_transaction(using):
        transaction.on_commit(tell, using=using)
    elif (loop := _running_loop()) is not None:
        # A sync `logout` in an async view: the loop can't wait for Redis.
        loop.run_in_executor(None, tell)
    else:
        tell()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _is_in_transaction(using: str) -> bool:
    try:
        return is_in_transaction(using)
    except TransactionManagementError:
        # Autocommit is off, and nobody tells when that ends. Too early is mended by the re-check.
        return False
