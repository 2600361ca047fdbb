"""Who is still signed in: told of each sign-in by the project's own sessions and users, in few queries."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.auth import AuthMiddlewareStack
from django.conf import settings as django_settings
from django.contrib.auth import SESSION_KEY, update_session_auth_hash
from django.contrib.auth.models import AnonymousUser, User
from django.contrib.sessions.models import Session
from django.db import DatabaseError, connection
from django.http import HttpRequest
from django.test import Client
from django.utils import timezone

from rooms_app.sign_ins import SignIn, ended, session_digest

#: pytest-django's fixture, whose class has had several names.
Settings = Any

ENGINES = ("db", "cached_db", "cache", "file", "signed_cookies")
#: Those whose sessions can be ended from elsewhere.
KEPT = ENGINES[:-1]
ROWS = ("db", "cached_db")

pytestmark = pytest.mark.django_db


def use_engine(name: str, settings: Settings, tmp_path: Path) -> None:
    settings.SESSION_ENGINE = f"django.contrib.sessions.backends.{name}"
    settings.SESSION_FILE_PATH = str(tmp_path)


@pytest.fixture(params=ENGINES)
def any_engine(request: pytest.FixtureRequest, settings: Settings, tmp_path: Path) -> str:
    """Each session engine of Django, in force."""
    use_engine(request.param, settings, tmp_path)
    return str(request.param)


@pytest.fixture(params=KEPT)
def kept(request: pytest.FixtureRequest, settings: Settings, tmp_path: Path) -> str:
    """Each engine that keeps its sessions on the server, in force."""
    use_engine(request.param, settings, tmp_path)
    return str(request.param)


def make_user(name: str = "ada") -> User:
    return User.objects.create_user(name, password="first")


def store(key: str | None = None) -> Any:
    return import_module(django_settings.SESSION_ENGINE).SessionStore(key)


def sign_in(user: User, client: Client | None = None) -> SignIn:
    """Sign her in as a browser does; how a connection with that browser's cookie is signed in."""
    client = client or Client()
    client.force_login(user)
    return of_cookie(user, client.cookies[django_settings.SESSION_COOKIE_NAME].value)


def of_cookie(user: User, key: str) -> SignIn:
    session = store(key)
    assert session.get(SESSION_KEY) == str(user.pk)
    found = SignIn.of({"type": "websocket", "user": user, "session": session})
    assert found is not None
    assert found.session_key is not None
    assert found.auth_hash is not None
    return found


def key_of(signed_in: SignIn) -> str:
    assert signed_in.session_key is not None
    return signed_in.session_key


class TestOf:
    """What is read from a connection's scope."""

    @pytest.mark.django_db(transaction=True)
    async def test_it_is_read_in_the_event_loop(self) -> None:
        """From what Channels' session auth has loaded: a query would raise here."""
        user = await sync_to_async(make_user)()
        client = Client()
        expected = await sync_to_async(sign_in)(user, client)
        found: list[SignIn | None] = []

        async def application(scope: Any, receive: Any, send: Any) -> None:
            found.append(SignIn.of(scope))

        async def nothing(*args: Any) -> None:
            pass

        cookie = f"sessionid={expected.session_key}".encode()
        await AuthMiddlewareStack(application)(
            {"type": "websocket", "headers": [(b"cookie", cookie)]}, nothing, nothing
        )
        await AuthMiddlewareStack(application)({"type": "websocket", "headers": []}, nothing, nothing)
        assert found == [expected, None]

    def test_the_anonymous_and_what_is_no_user_have_none(self) -> None:
        """Nor does whatever fails."""

        class Unready:
            @property
            def is_authenticated(self) -> bool:
                raise ValueError

        for user in (None, AnonymousUser(), Unready(), object(), User(username="unsaved")):
            assert SignIn.of({"type": "websocket", "user": user}) is None
        assert SignIn.of({"type": "websocket"}) is None

    def test_a_session_that_is_not_loaded_or_is_anothers_counts_for_nothing(self) -> None:
        """Who came with a ticket may have a session of no account, or of another."""
        ada, bob = make_user("ada"), make_user("bob")
        of_bob = store(sign_in(bob).session_key)
        without_session = SignIn(str(ada.pk), None, None)
        with assert_queries(0):
            assert SignIn.of({"type": "websocket", "user": ada, "session": of_bob}) == without_session
        assert of_bob.get(SESSION_KEY) == str(bob.pk)
        assert SignIn.of({"type": "websocket", "user": ada, "session": of_bob}) == without_session
        assert SignIn.of({"type": "websocket", "user": ada}) == without_session
        assert ended([without_session]) == set()


class TestSessions:
    """On each engine."""

    def test_who_is_signed_in_stays_so(self, any_engine: str) -> None:
        """Also twice, from two browsers."""
        user = make_user()
        assert ended([sign_in(user), sign_in(user), sign_in(make_user("bob"))]) == set()
        assert ended([]) == set()

    def test_a_flushed_session_is_over_and_no_other(self, kept: str) -> None:
        """As logout leaves it, or who deletes it from elsewhere."""
        user = make_user()
        gone, stays = sign_in(user), sign_in(user)
        store(key_of(gone)).delete()
        assert ended([gone, stays]) == {gone}

    def test_an_expired_session_is_over(self, kept: str) -> None:
        """Though it is still kept."""
        user = make_user()
        gone, stays = sign_in(user), sign_in(user)
        session = store(key_of(gone))
        session.set_expiry(-1)
        session.save()
        assert ended([gone, stays]) == {gone}

    def test_an_expired_cookie_is_over(self, settings: Settings, tmp_path: Path) -> None:
        """The one thing that ends a session which only the browser keeps."""
        use_engine("signed_cookies", settings, tmp_path)
        gone = sign_in(make_user())
        settings.SESSION_COOKIE_AGE = -1
        assert ended([gone]) == {gone}

    def test_looking_for_a_file_that_expired_leaves_none(self, settings: Settings, tmp_path: Path) -> None:
        """Django's own loading puts an empty session in its place."""
        use_engine("file", settings, tmp_path)
        gone = sign_in(make_user())
        file = Path(store()._key_to_file(key_of(gone)))
        os.utime(file, (0, 0))
        before = set(file.parent.iterdir())
        assert ended([gone]) == {gone}
        assert set(file.parent.iterdir()) == before - {file}

    def test_a_file_that_can_not_be_read_is_not_over(self, settings: Settings, tmp_path: Path) -> None:
        """A process may have no descriptor left; loading says "no data" then."""
        use_engine("file", settings, tmp_path)
        signed_in = sign_in(make_user())
        file = Path(store()._key_to_file(key_of(signed_in)))
        file.unlink()
        file.mkdir()
        assert ended([signed_in]) == set()

    @pytest.mark.parametrize("engine", ROWS)
    def test_a_deleted_row_is_over(self, engine: str, settings: Settings, tmp_path: Path) -> None:
        """Also where a cache would go on for it."""
        use_engine(engine, settings, tmp_path)
        gone, stays = sign_in(make_user()), sign_in(make_user("bob"))
        Session.objects.filter(session_key=gone.session_key).delete()
        assert ended([gone, stays]) == {gone}

    def test_a_session_that_is_now_anothers_is_over(self, settings: Settings, tmp_path: Path) -> None:
        """Where its data is at hand."""
        use_engine("cache", settings, tmp_path)
        gone = sign_in(make_user())
        session = store(key_of(gone))
        session[SESSION_KEY] = str(make_user("bob").pk)
        session.save()
        assert ended([gone]) == {gone}

    def test_an_engine_of_ones_own_is_asked_for_each(self, settings: Settings) -> None:
        """By `exists`, which every engine has."""
        settings.SESSION_ENGINE = __name__
        user = make_user()
        stays, gone = (SignIn(str(user.pk), key, user.get_session_auth_hash()) for key in ("kept-key", "lost-key"))
        assert ended([stays, gone]) == {gone}


class SessionStore:
    """A session engine that is none of Django's."""

    def exists(self, session_key: str) -> bool:
        return session_key == "kept-key"


class TestUsers:
    """Whatever the session says."""

    def test_the_inactive_and_the_deleted_are_signed_out(self, any_engine: str) -> None:
        """Those whom no signal tells of, and those without a session too."""
        users = [make_user(name) for name in ("ada", "bob", "eve")]
        stays, inactive, deleted = (sign_in(user) for user in users)
        without_session = [SignIn(str(user.pk), None, None) for user in users]
        User.objects.filter(username="bob").update(is_active=False)
        User.objects.filter(username="eve").delete()
        assert ended([stays, inactive, deleted, *without_session]) == {inactive, deleted, *without_session[1:]}

    def test_the_inactive_stay_where_the_project_lets_them_in(self, settings: Settings) -> None:
        """They would only come back."""
        signed_in = sign_in(make_user())
        User.objects.update(is_active=False)
        settings.AUTHENTICATION_BACKENDS = ["django.contrib.auth.backends.AllowAllUsersModelBackend"]
        assert ended([signed_in]) == set()

    def test_a_new_password_ends_every_sign_in(self, any_engine: str) -> None:
        """But those without a session: a token is no password."""
        user = make_user()
        first, second = sign_in(user), sign_in(user)
        user.set_password("second")
        user.save()
        assert ended([first, second, SignIn(str(user.pk), None, None)]) == {first, second}
        assert ended([sign_in(user)]) == set()

    def test_who_changes_her_own_password_goes_on_with_a_new_session(self, kept: str) -> None:
        """Her browser has its cookie: the connection with the old one comes back with it."""
        user = make_user()
        here, elsewhere = sign_in(user), sign_in(user)
        user.set_password("second")
        user.save()
        request = HttpRequest()
        request.user, request.session = user, store(here.session_key)
        update_session_auth_hash(request, user)
        request.session.save()
        new = of_cookie(user, request.session.session_key or "")
        assert ended([here, elsewhere, new]) == {here, elsewhere}

    def test_a_rotated_secret_key_signs_nobody_out(self, settings: Settings) -> None:
        """As long as the old one is among the fallbacks."""
        signed_in = sign_in(make_user())
        settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
        settings.SECRET_KEY = "another"
        assert ended([signed_in]) == set()
        settings.SECRET_KEY_FALLBACKS = []
        assert ended([signed_in]) == {signed_in}


def assert_queries(count: int) -> Any:
    from django.test.utils import CaptureQueriesContext

    @contextlib.contextmanager
    def counted() -> Iterator[None]:
        with CaptureQueriesContext(connection) as captured:
            yield
        assert len(captured) == count, [each["sql"][:200] for each in captured]

    return counted()


class TestQueries:
    """What it costs the database."""

    @pytest.fixture
    def many(self, settings: Settings) -> Callable[[int], list[SignIn]]:
        """So many users, each signed in once."""

        def make(count: int) -> list[SignIn]:
            users = User.objects.bulk_create(User(username=f"user{number}", password="x") for number in range(count))
            expires = timezone.now() + datetime.timedelta(hours=1)
            rows = Session.objects.bulk_create(
                Session(session_key=f"{user.username:_>16}", session_data="", expire_date=expires) for user in users
            )
            return [
                SignIn(str(user.pk), row.session_key, user.get_session_auth_hash())
                for user, row in zip(users, rows, strict=True)
            ]

        return make

    def test_two_for_400(self, many: Callable[[int], list[SignIn]]) -> None:
        """And two again, only for those found."""
        sign_ins = many(400)
        with assert_queries(2):
            assert ended([*sign_ins, *sign_ins]) == set()
        Session.objects.filter(session_key=sign_ins[0].session_key).delete()
        with assert_queries(4):
            assert ended(sign_ins) == {sign_ins[0]}

    def test_a_query_asks_for_500_at_most(self, many: Callable[[int], list[SignIn]]) -> None:
        """Databases limit how many parameters one may have."""
        sign_ins = many(1_001)
        with assert_queries(6):
            assert ended(sign_ins) == set()

    @pytest.mark.django_db(databases=["default", "other"])
    def test_nobody_is_over_for_a_replica_that_lags(self, settings: Settings) -> None:
        """The second look is at the database that is written to."""
        signed_in = sign_in(make_user())
        settings.DATABASE_ROUTERS = [LaggingReplica()]
        assert User.objects.count() == 0
        assert ended([signed_in]) == set()
        User.objects.using("default").update(is_active=False)
        assert ended([signed_in]) == {signed_in}

    def test_a_failing_database_says_nobody_is_over(self) -> None:
        """Who could not look has seen nothing; also where only the second look fails."""
        gone = sign_in(make_user())
        Session.objects.all().delete()
        for working in (0, 1, 2, 3):
            with connection.execute_wrapper(_Failing(after=working)), pytest.raises(DatabaseError):
                ended([gone])
        assert ended([gone]) == {gone}


class LaggingReplica:
    """Reads where nothing has arrived yet."""

    def db_for_read(self, model: object, **hints: object) -> str:
        return "other"

    def db_for_write(self, model: object, **hints: object) -> str:
        return "default"


class _Failing:
    """Answers so many queries."""

    def __init__(self, *, after: int) -> None:
        self._left = after

    def __call__(self, execute: Callable[..., Any], *args: Any) -> Any:
        self._left -= 1
        if self._left < 0:
            raise DatabaseError("gone")
        return execute(*args)


def test_a_digest_names_a_session_without_telling_its_key(settings: Settings) -> None:
    """Only who has the SECRET_KEY can say whether a key is the one."""
    digest = session_digest("some-session-key")
    assert digest == session_digest("some-session-key")
    assert digest != session_digest("another-session-key")
    assert "some-session-key" not in digest
    settings.SECRET_KEY = "another"
    assert digest != session_digest("some-session-key")
