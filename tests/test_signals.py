"""Who signs out, or is changed, is told of after the commit; and a request goes on whatever becomes of that."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings as django_settings
from django.contrib.auth import alogin, alogout, login, logout
from django.contrib.auth.models import Permission, User
from django.contrib.auth.signals import user_logged_out
from django.db import transaction
from django.db.models.signals import post_delete, post_save
from django.http import HttpRequest

from rooms_app import signals
from rooms_app.layers import channel_layer
from rooms_app.sign_ins import session_digest
from rooms_app.signals import Receivers
from tests.live import ROOT, free_port

pytestmark = pytest.mark.django_db(transaction=True)


class Record:
    """What was told, and in which threads."""

    def __init__(self) -> None:
        self.sessions: list[str] = []
        self.users: list[str] = []
        self.threads: list[int] = []
        self.was_told = threading.Event()
        self.fails = False

    def session_ended(self, digest: str) -> None:
        self.sessions.append(digest)
        self._told()

    def user_changed(self, user: str) -> None:
        self.users.append(user)
        self._told()

    def _told(self) -> None:
        self.threads.append(threading.get_ident())
        self.was_told.set()
        if self.fails:
            raise ConnectionError


@pytest.fixture
def told() -> Iterator[Record]:
    """What is told from now on; connected twice, as by two `ready`."""
    record = Record()
    receivers = [Receivers(record.session_ended, record.user_changed, name="tests.signals") for _ in range(2)]
    for each in receivers:
        each.connect()
    try:
        yield record
    finally:
        receivers[0].disconnect()


@pytest.fixture
def ada() -> User:
    return User.objects.create_user("ada", password="first")


def request_of(user: User | None = None) -> HttpRequest:
    """A request with a session that is saved; of who is signed in by it."""
    request = HttpRequest()
    request.session = import_module(django_settings.SESSION_ENGINE).SessionStore()
    if user is not None:
        login(request, user)
    request.session.save()
    return request


def digest_of(request: HttpRequest) -> str:
    assert request.session.session_key is not None
    return session_digest(request.session.session_key)


class RollBackError(Exception):
    """Ends a transaction."""


class TestLogout:
    """Tells of the session, by its digest."""

    def test_it_is_told_once(self, ada: User, told: Record) -> None:
        """And signing in is not told at all."""
        request = request_of(ada)
        assert (told.sessions, told.users) == ([], [])
        digest = digest_of(request)
        logout(request)
        assert (told.sessions, told.users) == ([digest], [])

    def test_it_waits_for_the_commit(self, ada: User, told: Record) -> None:
        """A rolled back logout leaves the session as it was."""
        request = request_of(ada)
        digest = digest_of(request)
        with transaction.atomic():
            logout(request)
            assert told.sessions == []
        assert told.sessions == [digest]
        request = request_of(ada)
        with pytest.raises(RollBackError), transaction.atomic():
            logout(request)
            raise RollBackError
        assert told.sessions == [digest]

    def test_a_session_outside_the_database_does_not_wait(self, ada: User, told: Record, settings: Any) -> None:
        """No rollback brings it back."""
        settings.SESSION_ENGINE = "django.contrib.sessions.backends.cache"
        request = request_of(ada)
        digest = digest_of(request)
        with pytest.raises(RollBackError), transaction.atomic():
            logout(request)
            raise RollBackError
        assert told.sessions == [digest]

    async def test_an_async_logout_is_told_outside_the_event_loop(self, ada: User, told: Record) -> None:
        """Telling may wait for Redis."""
        request = await sync_to_async(request_of)()
        await alogin(request, ada)
        await request.session.asave()
        digest = digest_of(request)
        await alogout(request)
        assert told.sessions == [digest]
        assert threading.get_ident() not in told.threads

    async def test_a_sync_logout_in_the_event_loop_does_not_wait(self, ada: User, told: Record, settings: Any) -> None:
        """It works there with sessions outside the database."""
        settings.SESSION_ENGINE = "django.contrib.sessions.backends.cache"
        request = await sync_to_async(request_of)(ada)
        digest = digest_of(request)
        logout(request)
        assert await sync_to_async(told.was_told.wait)(5)
        assert told.sessions == [digest]
        assert threading.get_ident() not in told.threads

    def test_a_logout_without_a_session_tells_nothing(self, ada: User, told: Record) -> None:
        """Channels' own has no request; a session may never have been saved."""
        for request in (None, HttpRequest()):
            user_logged_out.send(sender=User, request=request, user=ada)
        request = HttpRequest()
        request.session = import_module(django_settings.SESSION_ENGINE).SessionStore()
        user_logged_out.send(sender=User, request=request, user=ada)
        assert told.sessions == []


class TestUsers:
    """Tells whose sign-ins to look at again."""

    def test_a_saved_user_is_told_of(self, ada: User, told: Record) -> None:
        """Whole, or in what decides about her sign-ins."""
        ada.is_active = False
        ada.save()
        ada.save(update_fields=["is_active", "email"])
        ada.set_password("second")
        ada.save(update_fields=["password"])
        assert told.users == [str(ada.pk)] * 3

    def test_what_does_not_sign_out_is_not_told_of(self, ada: User, told: Record) -> None:
        """A new user, one signing in, one loaded from a fixture, and whatever else is saved."""
        request_of(ada)
        assert ada.last_login is not None
        ada.save(update_fields=["first_name"])
        ada.save_base(raw=True)
        User.objects.create_user("bob")
        User.objects.update(is_active=False)
        Permission.objects.all()[0].save()
        assert told.users == []

    async def test_an_async_save_is_told_outside_the_event_loop(self, ada: User, told: Record) -> None:
        """As an async logout."""
        await ada.asave()
        assert told.users == [str(ada.pk)]
        assert threading.get_ident() not in told.threads

    def test_it_waits_for_the_commit_of_its_database(self, ada: User, told: Record) -> None:
        """A look before that would find nothing changed."""
        with transaction.atomic():
            ada.save()
            with pytest.raises(RollBackError), transaction.atomic():
                ada.save()
                raise RollBackError
            assert told.users == []
        assert told.users == [str(ada.pk)]

    def test_a_deleted_user_is_told_of(self, ada: User, told: Record) -> None:
        """One by one or many at once, though she has lost her key by then."""
        pk = str(ada.pk)
        with transaction.atomic():
            ada.delete()
        bob = User.objects.create_user("bob")
        User.objects.filter(username="bob").delete()
        assert told.users == [pk, str(bob.pk)]

    def test_a_model_that_decides_itself_is_told_of_for_every_field(self, told: Record) -> None:
        """Which of them it reads, nobody knows; signing in still changes nothing."""
        receivers = Receivers(told.session_ended, told.user_changed)
        for fields in (["last_login"], ["nickname"], ["last_login", "nickname"]):
            receivers.user_saved(Careful, Careful(), update_fields=frozenset(fields))
        assert told.users == ["7", "7"]

    def test_other_models_are_deleted_as_fast_as_before(self) -> None:
        """A receiver for all of them would make each bulk delete read its rows first."""
        assert not post_delete.has_listeners(Permission)
        assert not post_save.has_listeners(Permission)


class Careful:
    """The part of a user model that counts."""

    pk = 7

    def get_session_auth_hash(self) -> str:
        return "of a nickname"


class TestFailing:
    """Nothing of it breaks a request."""

    def test_what_fails_breaks_no_request_and_no_transaction(self, ada: User, told: Record) -> None:
        """At once, and after a commit, where other hooks still run."""
        told.fails = True
        ran: list[str] = []
        request = request_of(ada)
        ada.save()
        with transaction.atomic():
            ada.save()
            logout(request)
            transaction.on_commit(lambda: ran.append("after"))
        assert len(told.users) == 2
        assert len(told.sessions) == 1
        assert ran == ["after"]

    def test_autocommit_off_is_no_error(self, ada: User, told: Record) -> None:
        """Nobody tells when that ends."""
        transaction.set_autocommit(False)
        try:
            ada.save()
            transaction.commit()
        finally:
            transaction.set_autocommit(True)
        assert told.users == [str(ada.pk)]

    def test_an_unreachable_redis_is_no_error(self, ada: User, settings: Any) -> None:
        """With what `ready` connects."""
        settings.CHANNEL_LAYERS = {"default": channel_layer("rooms", f"redis://127.0.0.1:{free_port()}/0")}
        signals.connect()
        request = request_of(ada)
        logout(request)
        ada.save()
        ada.delete()
        assert not User.objects.exists()


_UUID_PROJECT = """
import django
from django.conf import settings

settings.configure(
    SECRET_KEY="x",
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions", "people"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    AUTH_USER_MODEL="people.Person",
    USE_TZ=True,
)
django.setup()

from django.apps import apps
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.test import Client
from rooms_app.sign_ins import SignIn, ended
from rooms_app.signals import Receivers

call_command("migrate", run_syncdb=True, verbosity=0)
ended_sessions, changed = [], []
Receivers(ended_sessions.append, changed.append).connect()
person = get_user_model().objects.create_user(email="ada@example.com", password="x")
client = Client()
client.force_login(person)
session = client.session
session.load()
session.get("_auth_user_id")
sign_in = SignIn.of({"user": person, "session": session})
assert sign_in.user == str(person.pk) and len(sign_in.user) == 36, sign_in
assert sign_in.session_key and sign_in.auth_hash, sign_in
assert ended([sign_in, SignIn(sign_in.user, None, None)]) == set()
person.is_active = False
person.save()
assert changed == [sign_in.user], changed
assert ended([sign_in]) == {sign_in}
member = apps.get_model("people", "Member").objects.get()
assert SignIn.of({"user": member, "session": session}) == sign_in
member.save()
member.delete()
assert changed == [sign_in.user] * 3, changed
print("done")
"""

_UUID_MODELS = """
import uuid
from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.db import models

class People(BaseUserManager):
    def create_user(self, email, password):
        person = self.model(email=email)
        person.set_password(password)
        person.save()
        return person

class Person(AbstractBaseUser):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    email = models.EmailField(unique=True)
    is_active = models.BooleanField(default=True)
    USERNAME_FIELD = "email"
    objects = People()

class Member(Person):
    class Meta:
        proxy = True
"""


def test_a_user_model_of_ones_own_with_a_uuid_works(tmp_path: Path) -> None:
    """And so does its proxy. In a project of its own: a project has one user model."""
    (tmp_path / "people").mkdir()
    (tmp_path / "people" / "__init__.py").touch()
    (tmp_path / "people" / "models.py").write_text(_UUID_MODELS)
    done = subprocess.run(
        [sys.executable, "-c", _UUID_PROJECT],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "done\n", done.stderr
