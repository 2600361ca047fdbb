"""PydanticAPIView: a DRF view whose handlers get a validated body and validated URL parameters."""

from __future__ import annotations

import io
import json
import logging
import threading
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from asgiref.testing import ApplicationCommunicator
from django.contrib.auth.models import User
from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.asgi import ASGIHandler
from django.test import AsyncClient, Client, override_settings
from django.urls import path, re_path
from django.utils.decorators import method_decorator
from django.views.decorators.cache import never_cache
from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError, field_validator
from rest_framework.authentication import BaseAuthentication, SessionAuthentication
from rest_framework.exceptions import APIException, AuthenticationFailed, NotFound
from rest_framework.permissions import BasePermission, IsAdminUser, IsAuthenticated
from rest_framework.response import Response
from rest_framework.throttling import BaseThrottle
from rest_framework.views import exception_handler

from rooms_app.exceptions import (
    ForbiddenRoom,
    InvalidRoom,
    MessageTooLarge,
    RoomsConfigurationError,
    RoomsUnavailable,
)
from rooms_app.rooms import RoomName
from rooms_app.views import PydanticAPIView

CSRF_TOKEN = "a" * 32

# The views under test.


class ChatMessageRequest(BaseModel):
    content: Annotated[str, Field(min_length=1, max_length=20)]


class StrictRequest(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    user: UUID
    tags: tuple[str, ...] = ()


class Ping(BaseModel):
    kind: Literal["ping"]


class Pong(BaseModel):
    kind: Literal["pong"]
    of: Later | None = None


class Later(BaseModel):
    """Named by the model above before it is defined."""

    n: int


class Token(BaseAuthentication):
    """Knows `Authorization: ann`, and no other."""

    def authenticate(self, request: Any) -> Any:
        token = request.headers.get("Authorization")
        if token is None:
            return None
        if token != "ann":
            raise AuthenticationFailed
        return User(pk=1, username="ann"), token

    def authenticate_header(self, request: Any) -> str:
        return "Token"


class OpenView(PydanticAPIView):
    authentication_classes = []
    permission_classes = []
    throttle_classes = []


class Messages(OpenView):
    """Mixes sync and async handlers."""

    def get(self, request, room_id: RoomName):
        return Response({"room": room_id})

    def post(self, request, room_id: RoomName, body: ChatMessageRequest) -> Response:
        return Response({"room": room_id, "content": body.content}, status=201)

    async def put(self, request, room_id: RoomName, body: ChatMessageRequest) -> Response:
        thread = await sync_to_async(threading.get_ident)()
        return Response({"content": body.content, "same_thread": thread == self.thread})

    def initial(self, request, *args, **kwargs):
        self.thread = threading.get_ident()
        super().initial(request, *args, **kwargs)


class Guarded(OpenView):
    authentication_classes = [Token]
    permission_classes = [IsAuthenticated]

    async def post(self, request, body: ChatMessageRequest) -> Response:
        return Response({"user": request.user.username})


class Never(BaseThrottle):
    def allow_request(self, request: Any, view: Any) -> bool:
        return False

    def wait(self) -> float:
        return 3.0


class Throttled(OpenView):
    throttle_classes = [Never]

    def post(self, request, body: ChatMessageRequest): ...


class ReadsTheBody(BasePermission):
    def has_permission(self, request: Any, view: Any) -> bool:
        return request.data["content"] != "secret"


class Judged(OpenView):
    permission_classes = [ReadsTheBody]

    def post(self, request, body: ChatMessageRequest):
        return Response([request.data["content"], body.content])


class WithSession(OpenView):
    authentication_classes = [SessionAuthentication]

    def post(self, request, body: ChatMessageRequest):
        return Response({"user": request.user.username})


class WithSessionDenied(WithSession):
    permission_classes = [IsAdminUser]


class Strict(OpenView):
    def post(self, request, body: StrictRequest):
        return Response({"user": str(body.user), "tags": body.tags})


class Choice(OpenView):
    async def post(self, request, body: Annotated[Ping | Pong, Field(discriminator="kind")]):
        return Response({"kind": body.kind})

    def put(self, request, body: list[Ping]):
        return Response(len(body))

    def patch(self, request, body: RootModel[dict[str, float]]):
        return Response(list(body.root))


class Parameters(OpenView):
    """Takes one of each kind."""

    def get(self, request, number: int, uuid: UUID, raw, anything: Any, page: int = 1):
        return Response([number, uuid, raw, anything, page])


class Unnamed(OpenView):
    def get(self, request, number: int, word: RoomName):
        return Response([number, word])

    def put(self, request, body: Ping, number: int, word: str):
        return Response([number, word, body.kind])


class Anything(OpenView):
    def get(self, request, *args, **kwargs):
        return Response([*args, kwargs])


class Delegating(OpenView):
    """Has handlers that call one another."""

    def post(self, request, room_id: RoomName, body: ChatMessageRequest):
        return Response(f"{room_id}: {body.content}")

    def put(self, request, room_id: RoomName, body: ChatMessageRequest):
        return self.post(request, room_id, body)


class Inheriting(Delegating):
    def post(self, request, room_id: RoomName, body: ChatMessageRequest):
        body.content = body.content.upper()
        return super().post(request, room_id, body)


@method_decorator(never_cache, name="post")
class Decorated(OpenView):
    async def post(self, request, body: ChatMessageRequest) -> Response:
        return Response(body.content)


def plainly(handler: Any) -> Any:
    """A sync decorator that knows nothing of async handlers."""

    def wrapper(self: Any, request: Any, **kwargs: Any) -> Any:
        return handler(self, request, **kwargs)

    wrapper.__wrapped__ = handler
    return wrapper


class PlainlyDecorated(OpenView):
    @plainly
    async def post(self, request, body: ChatMessageRequest) -> Response:
        return Response(body.content)


class Failing(OpenView):
    failure: Exception = Exception()

    def get(self, request):
        raise self.failure

    async def post(self, request):
        raise self.failure


class WithOptions(OpenView):
    async def head(self, request):
        return Response(headers={"X-Head": "own"})

    async def options(self, request):
        return Response(["own"])


def failing(exc: Exception) -> Any:
    return Failing.as_view(failure=exc)


class Picky(BaseModel):
    content: str

    @field_validator("content")
    @classmethod
    def _repeats_what_it_got(cls, value: str) -> str:
        raise ValueError(value)


class Repeating(OpenView):
    def post(self, request, body: Picky): ...


class Wrong(OpenView):
    """Makes a mistake of its own with a model."""

    def post(self, request):
        ChatMessageRequest(content="")


urlpatterns = [
    path("rooms/<str:room_id>/", Messages.as_view()),
    path("guarded/", Guarded.as_view()),
    path("throttled/", Throttled.as_view()),
    path("judged/", Judged.as_view()),
    path("session/", WithSession.as_view()),
    path("session-denied/", WithSessionDenied.as_view()),
    path("strict/", Strict.as_view()),
    path("choice/", Choice.as_view()),
    path("parameters/<str:number>/<str:uuid>/<str:raw>/<str:anything>/", Parameters.as_view()),
    path("converted/<int:number>/<uuid:uuid>/<str:raw>/<str:anything>/", Parameters.as_view(), {"page": "2"}),
    re_path(r"^unnamed/(\w+)/(\w+)/$", Unnamed.as_view()),
    re_path(r"^anything/(\w+)/$", Anything.as_view(), {"a": 1}),
    path("delegating/<str:room_id>/", Delegating.as_view()),
    path("inheriting/<str:room_id>/", Inheriting.as_view()),
    path("decorated/", Decorated.as_view()),
    path("plainly/", PlainlyDecorated.as_view()),
    path("options/", WithOptions.as_view()),
    path("repeating/", Repeating.as_view()),
    path("wrong/", Wrong.as_view()),
    path("invalid-room/", failing(InvalidRoom("x" * 300))),
    path("forbidden-room/", failing(ForbiddenRoom("secret"))),
    path("too-large/", failing(MessageTooLarge())),
    path("unavailable/", failing(RoomsUnavailable("redis://:password@cache:6379 is down"))),
    path("not-found/", failing(NotFound())),
]


def sign_in(get_response: Any) -> Any:
    """Middleware for which everybody is Ann."""

    def middleware(request: Any) -> Any:
        request.user = User(pk=1, username="ann", is_active=True)
        return get_response(request)

    return middleware


@pytest.fixture(autouse=True)
def _urls():
    with override_settings(ROOT_URLCONF=__name__, DEBUG=False, MIDDLEWARE=[], ALLOWED_HOSTS=["testserver"]):
        yield


@pytest.fixture(autouse=True)
def nothing_is_logged_as_an_error(caplog):
    """A client's mistake is no error of ours, and a test that expects an error of ours clears caplog."""
    yield
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.fixture(params=["wsgi", "asgi"])
def ask(request):
    """A request through all of Django, under WSGI and under ASGI."""

    def ask(
        method: str,
        url: str,
        body: bytes | str | dict | list = b"",
        content_type: str = "application/json",
        **headers: str,
    ) -> Any:
        data = json.dumps(body) if isinstance(body, dict | list) else body
        options = {"content_type": content_type, "headers": headers}
        if request.param == "wsgi":
            return Client().generic(method, url, data, **options)
        return asynchronously(method, url, data, **options)

    @async_to_sync
    async def asynchronously(*args: Any, **options: Any) -> Any:
        return await AsyncClient().generic(*args, **options)

    return ask


def error(response: Any) -> dict[str, Any]:
    """The one error in a 400."""
    assert response.status_code == 400, response.content
    (only,) = response.json()["detail"]
    assert only.keys() == {"loc", "msg", "type"}
    assert only["msg"]
    return only


# The body.


def test_a_handler_gets_the_validated_body_and_url_parameters(ask):
    response = ask("POST", "/rooms/chat-42/", {"content": "hi"})
    assert response.status_code == 201
    assert response.json() == {"room": "chat-42", "content": "hi"}
    assert response["Content-Type"] == "application/json"


def test_an_async_handler_runs_beside_a_sync_one(ask):
    """Its sync_to_async code, the ORM's too, comes back to the thread that DRF's own code runs in."""
    response = ask("PUT", "/rooms/chat-42/", {"content": "hi"})
    assert response.json() == {"content": "hi", "same_thread": True}


def test_the_view_is_sync_for_django():
    assert Messages.view_is_async is False
    assert Guarded.view_is_async is False


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_wrong_body_is_a_400_with_pydantics_own_location(ask, method):
    assert error(ask(method, "/rooms/1/", {})) == {
        "loc": ["content"],
        "msg": "Field required",
        "type": "missing",
    }
    assert error(ask(method, "/rooms/1/", {"content": ""}))["type"] == "string_too_short"
    assert error(ask(method, "/rooms/1/", []))["loc"] == []


def test_every_error_is_told_and_numbers_in_a_location_stay_numbers(ask):
    response = ask("PUT", "/choice/", [{"kind": "ping"}, {"kind": "x"}, {}])
    assert [(one["loc"], one["type"]) for one in response.json()["detail"]] == [
        ([1, "kind"], "literal_error"),
        ([2, "kind"], "missing"),
    ]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"not json",
        b"\xff\xfe",
        b"\xef\xbb\xbf{}",
        b'{"content": "\xed\xa0\x80"}',
        b'{"content": "\\ud800"}',
        b'{"content": NaN}',
        b'{"content": "x", "other": NaN}',
        b'{"content": "x", "other": -Infinity}',
        b'{"content": "x", "other": ' + b"9" * 5000 + b"}",
        b'{"content": ' + b"[" * 100_000,
        b'{"content": "x", "other": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001,
        b'{"content": "x"} {}',
        b'{"content": "\x00"}',
    ],
    ids=lambda body: repr(body[:30]),
)
def test_what_is_no_json_is_a_400(ask, body):
    problem = error(ask("POST", "/rooms/1/", body))
    assert (problem["loc"], problem["type"]) == ([], "json_invalid")
    assert problem["msg"].startswith("Invalid JSON: ")


def test_nan_is_no_json_even_where_the_model_has_a_float(ask):
    """Which Pydantic would take, and a browser could not parse again."""
    assert error(ask("PATCH", "/choice/", b'{"a": NaN}'))["type"] == "json_invalid"
    assert ask("PATCH", "/choice/", b'{"NaN": 1.5}').json() == ["NaN"]


def test_a_strict_model_takes_what_json_can_say(ask):
    """JSON has no UUIDs and no tuples: what it was parsed to would be wrong for a strict model."""
    user = "3f2a8f0e-2b1d-4d5e-9c3a-0f6c2f1f7a11"
    assert ask("POST", "/strict/", {"user": user, "tags": ["a"]}).json() == {"user": user, "tags": ["a"]}
    assert error(ask("POST", "/strict/", {"user": user, "tags": [1]}))["loc"] == ["tags", 0]


def test_the_body_may_be_made_of_several_models(ask):
    assert ask("POST", "/choice/", {"kind": "pong", "of": {"n": 1}}).json() == {"kind": "pong"}
    assert ask("PUT", "/choice/", [{"kind": "ping"}]).json() == 1
    assert error(ask("POST", "/choice/", {"kind": "pong", "of": {}}))["loc"] == ["pong", "of", "n"]


def test_errors_do_not_echo_what_was_sent(ask):
    huge = "x" * 100_000
    for url, body in [
        ("/strict/", {"user": "3f2a8f0e-2b1d-4d5e-9c3a-0f6c2f1f7a11", huge: 1}),
        ("/strict/", {"user": huge}),
        ("/choice/", {"kind": huge}),
        ("/repeating/", {"content": huge}),
        ("/rooms/1/", {"content": huge}),
        ("/rooms/1/", huge),
    ]:
        response = ask("POST", url, body)
        error(response)
        assert len(response.content) < 1_000


def test_a_body_that_is_wrong_all_over_is_not_answered_with_as_many_errors(ask):
    problem = error(ask("PUT", "/choice/", [0] * 5_000))
    assert problem == {"loc": [], "msg": "There are 5000 errors.", "type": "too_many_errors"}


@pytest.mark.parametrize("length", [101, 1_000])
@override_settings(DATA_UPLOAD_MAX_MEMORY_SIZE=100)
def test_a_body_over_djangos_limit_is_a_400(ask, length):
    assert error(ask("POST", "/rooms/1/", b" " * length))["type"] == "too_large"


@override_settings(DATA_UPLOAD_MAX_MEMORY_SIZE=100)
def test_a_body_at_djangos_limit_is_read(ask):
    assert ask("POST", "/rooms/1/", b'{"content": "x"}'.ljust(100)).status_code == 201


def test_a_client_that_hangs_up_in_its_body_is_no_error_of_ours():
    class Broken(io.BytesIO):
        def read(self, *args: Any) -> bytes:
            raise OSError("connection reset")

    options = {"CONTENT_LENGTH": "10", "CONTENT_TYPE": "application/json", "wsgi.input": Broken()}
    assert error(Client().generic("POST", "/rooms/1/", **options))["type"] == "incomplete"


# The content type.


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "text/json",
        "x" * 300,
    ],
)
def test_only_json_is_taken(ask, content_type):
    response = ask("POST", "/rooms/1/", {"content": "hi"}, content_type)
    assert response.status_code == 415
    assert response.json() == {"detail": f'Unsupported media type "{content_type}" in request.'}


def test_a_body_of_no_declared_type_is_not_taken():
    """Any site can have a browser send one here without asking first."""
    response = Client().generic("POST", "/rooms/1/", '{"content": "hi"}', content_type="")
    assert response.status_code == 415


@pytest.mark.parametrize(("content_type", "status"), [(b"application/json", 201), (b"text/plain", 415)])
async def test_a_body_whose_length_is_not_declared_is_looked_at_too(content_type, status):
    """A chunked one, which for DRF is no body."""
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/rooms/1/",
        "query_string": b"",
        "headers": [(b"host", b"testserver"), (b"content-type", content_type)],
    }
    server = ApplicationCommunicator(ASGIHandler(), scope)
    await server.send_input({"type": "http.request", "body": b'{"content": "hi"}'})
    assert (await server.receive_output())["status"] == status
    await server.receive_output()


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON"])
def test_json_may_be_declared_in_any_usual_way(ask, content_type):
    assert ask("POST", "/rooms/1/", {"content": "hi"}, content_type).status_code == 201


def test_json_is_utf_8_whatever_the_charset_says(ask):
    body = '{"content": "é"}'
    assert ask("POST", "/rooms/1/", body, "application/json; charset=latin-1").json()["content"] == "é"
    assert error(ask("POST", "/rooms/1/", body.encode("utf-16"), "application/json; charset=utf-16"))


def test_there_is_no_browsable_api(ask):
    browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
    assert ask("GET", "/rooms/1/", accept=browser)["Content-Type"] == "application/json"
    assert ask("GET", "/rooms/1/", accept="text/html").status_code == 406


# URL parameters.


def test_annotated_url_parameters_are_validated_and_others_come_as_they_are(ask):
    uuid = "3f2a8f0e-2b1d-4d5e-9c3a-0f6c2f1f7a11"
    assert ask("GET", f"/parameters/7/{uuid}/7/7/").json() == [7, uuid, "7", "7", 1]
    assert ask("GET", f"/converted/7/{uuid}/7/7/").json() == [7, uuid, "7", "7", 2]


def test_wrong_url_parameters_are_a_400_that_names_each(ask):
    response = ask("GET", "/parameters/seven/nobody/7/7/")
    assert response.status_code == 400
    assert [(one["loc"], one["type"]) for one in response.json()["detail"]] == [
        (["number"], "int_parsing"),
        (["uuid"], "uuid_parsing"),
    ]


def test_a_room_name_that_is_too_long_is_a_400_before_the_body_is_looked_at(ask):
    for method in ("GET", "POST", "PUT"):
        problem = error(ask(method, f"/rooms/{'x' * 256}/", b"{"))
        assert (problem["loc"], problem["type"]) == (["room_id"], "string_too_long")
    assert ask("POST", f"/rooms/{'x' * 255}/", {"content": "hi"}).status_code == 201


def test_unnamed_groups_are_validated_in_order(ask):
    assert ask("GET", "/unnamed/7/word/").json() == [7, "word"]
    assert ask("PUT", "/unnamed/7/word/", {"kind": "ping"}).json() == [7, "word", "ping"]
    assert error(ask("GET", "/unnamed/seven/word/"))["loc"] == ["number"]


def test_a_handler_may_take_whatever_comes(ask):
    assert ask("GET", "/anything/x/").json() == ["x", {"a": 1}]


# Handlers among themselves.


def test_handlers_may_call_one_another_and_those_they_override(ask):
    assert ask("PUT", "/delegating/1/", {"content": "hi"}).json() == "1: hi"
    assert ask("POST", "/inheriting/1/", {"content": "hi"}).json() == "1: HI"
    assert ask("PUT", "/inheriting/1/", {"content": "hi"}).json() == "1: HI"


def test_decorated_handlers_work(ask):
    response = ask("POST", "/decorated/", {"content": "hi"})
    assert (response.json(), "no-store" in response["Cache-Control"]) == ("hi", True)
    assert ask("POST", "/plainly/", {"content": "hi"}).json() == "hi"
    assert error(ask("POST", "/plainly/", {}))["loc"] == ["content"]


def test_head_and_options_work_as_in_drf(ask):
    response = ask("HEAD", "/rooms/1/")
    assert (response.status_code, response.content) == (200, b"")
    assert ask("HEAD", f"/rooms/{'x' * 256}/").status_code == 400
    response = ask("OPTIONS", "/rooms/1/")
    assert response.status_code == 200
    assert response["Allow"] == "GET, POST, PUT, HEAD, OPTIONS"
    assert response.json()["parses"] == ["application/json"]


def test_a_view_may_have_head_and_options_of_its_own(ask):
    assert ask("HEAD", "/options/")["X-Head"] == "own"
    assert ask("OPTIONS", "/options/").json() == ["own"]


# Everything else as DRF.


def test_authentication_and_permissions_come_before_the_body(ask):
    for body in (b"{", b"", {"content": "hi"}):
        response = ask("POST", "/guarded/", body)
        assert response.status_code == 401
        assert response["WWW-Authenticate"] == "Token"
        assert response.json() == {"detail": "Authentication credentials were not provided."}
        response = ask("POST", "/guarded/", body, authorization="bob")
        assert response.json() == {"detail": "Incorrect authentication credentials."}
    assert ask("POST", "/guarded/", b"{", "text/plain").status_code == 401
    assert error(ask("POST", "/guarded/", b"{", authorization="ann"))["type"] == "json_invalid"
    assert ask("POST", "/guarded/", {"content": "hi"}, authorization="ann").json() == {"user": "ann"}


def test_throttles_come_before_the_body(ask):
    response = ask("POST", "/throttled/", b"{")
    assert response.status_code == 429
    assert response["Retry-After"] == "3"
    assert response.json()["detail"].startswith("Request was throttled.")


def test_a_permission_may_read_the_body_that_the_handler_gets(ask):
    assert ask("POST", "/judged/", {"content": "hi"}).json() == ["hi", "hi"]
    assert ask("POST", "/judged/", {"content": "secret"}).status_code == 403
    for body in (b"{", b"[" * 100_000, b'{"content": NaN}'):
        assert error(ask("POST", "/judged/", body))["type"] == "json_invalid"


@pytest.fixture
def ann():
    """A browser in which Ann is signed in, with the CSRF token it should send."""
    with override_settings(MIDDLEWARE=[f"{__name__}.sign_in"]):
        client = Client(enforce_csrf_checks=True)
        client.cookies["csrftoken"] = CSRF_TOKEN
        yield client


def test_csrf_is_checked_for_sessions_as_in_drf(ann):
    """DRF checks it in its session authentication, and nowhere else."""
    options = {"data": {"content": "hi"}, "content_type": "application/json"}
    assert ann.post("/session/", headers={"X-CSRFToken": CSRF_TOKEN}, **options).json() == {"user": "ann"}
    response = ann.post("/session/", **options)
    assert response.status_code == 403
    assert response.json() == {"detail": "CSRF Failed: CSRF token missing."}
    assert ann.post("/rooms/1/", **options).status_code == 201


@pytest.mark.parametrize("body", [b"{", b"\xff", b'{"content": NaN}', b"[" * 100_000, b"x" * 3_000_000])
def test_the_csrf_check_does_not_read_the_body(ann, body):
    """DRF's would look for a form in it, and so parse it before any permission or throttle was asked."""
    options = {"content_type": "application/json", "headers": {"X-CSRFToken": CSRF_TOKEN}}
    assert error(ann.generic("POST", "/session/", body, **options))["type"] in ("json_invalid", "too_large")
    assert ann.generic("POST", "/session-denied/", body, **options).status_code == 403


@pytest.mark.parametrize("method", ["DELETE", "PATCH", "TRACE"])
def test_a_method_without_a_handler_is_a_405(ask, method):
    response = ask(method, "/rooms/1/", b"{")
    assert response.status_code == 405
    assert response.json() == {"detail": f'Method "{method}" not allowed.'}


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_drfs_own_exceptions_stay_as_they_are(ask, method):
    response = ask(method, "/not-found/")
    assert (response.status_code, response.json()) == (404, {"detail": "Not found."})


def test_a_handlers_own_mistake_with_a_model_is_not_the_clients(caplog):
    with pytest.raises(ValidationError):
        Client().post("/wrong/")
    caplog.clear()


# rooms_app's exceptions.


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_invalid_room_is_a_400(ask, method):
    assert error(ask(method, "/invalid-room/")) == {
        "loc": ["room"],
        "msg": "A room name is a non-empty text of at most 255 characters.",
        "type": "invalid_room",
    }


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_forbidden_room_is_a_403(ask, method):
    response = ask(method, "/forbidden-room/")
    assert response.status_code == 403
    assert response.json() == {"detail": "This connection may not join the room 'secret'."}


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_message_that_is_too_large_is_a_400(ask, method):
    problem = error(ask(method, "/too-large/"))
    assert (problem["loc"], problem["type"]) == ([], "message_too_large")


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_rooms_that_are_unavailable_are_a_503_that_tells_nothing_of_the_inside(ask, method, caplog):
    response = ask(method, "/unavailable/")
    assert response.status_code == 503
    assert response.json() == {"detail": "The message was perhaps sent, perhaps not."}
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert (record.name, record.exc_info) == ("django.request", None)  # Django's own line for a 5xx
    caplog.clear()


def test_a_projects_exception_handler_sees_drf_exceptions():
    seen: list[Exception] = []

    def handler(exc: Exception, context: Any) -> Any:
        seen.append(exc)
        return exception_handler(exc, context)

    with override_settings(REST_FRAMEWORK={"EXCEPTION_HANDLER": handler}):
        Client().post("/rooms/1/", {}, content_type="application/json")
        Client().get("/forbidden-room/")
    missing, forbidden = seen
    assert isinstance(missing, APIException)
    assert isinstance(forbidden, APIException)
    assert missing.get_codes() == {"detail": ["missing"]}
    assert missing.get_full_details() == missing.detail


# What can't work is an error at as_view().


def refused(handler: Any, method: str = "post") -> str:
    """What as_view() says to a view with this handler."""
    view = type("Misfit", (OpenView,), {method: handler})
    with pytest.raises(RoomsConfigurationError) as caught:
        view.as_view()
    assert isinstance(caught.value, ImproperlyConfigured)
    return str(caught.value)


def test_an_annotation_that_cannot_be_resolved_is_named():
    def handler(self, request, room_id: str, body: Nowhere): ...  # noqa: F821

    message = refused(handler)
    assert "Misfit.post()" in message
    assert "'body'" in message
    assert "Nowhere" in message


def test_an_annotation_on_the_request_is_not_looked_at():
    def handler(self: Nowhere, request: Nowhere, body: Ping) -> Nowhere: ...  # noqa: F821

    type("Fine", (OpenView,), {"post": handler}).as_view()


def test_a_second_model_is_named():
    def handler(self, request, first: Ping, second: list[Pong] | None = None): ...

    message = refused(handler)
    assert "Misfit.post()" in message
    assert "'second'" in message
    assert "'first'" in message


@pytest.mark.parametrize("method", ["get", "head", "options", "trace"])
def test_a_body_where_requests_have_none_is_named(method):
    def handler(self, request, body: Ping): ...

    message = refused(handler, method)
    assert f"Misfit.{method}()" in message
    assert "'body'" in message


def test_an_annotation_that_pydantic_cannot_validate_is_named():
    class Thing: ...

    def handler(self, request, thing: Any): ...

    handler.__annotations__["thing"] = Thing
    assert "'thing'" in refused(handler, "get")


def test_a_model_that_is_not_complete_is_named():
    class Incomplete(BaseModel):
        other: Nowhere  # noqa: F821

    def handler(self, request, body: Any): ...

    handler.__annotations__["body"] = Incomplete
    message = refused(handler)
    assert "'body'" in message
    assert "Nowhere" in message


def test_views_do_not_share_what_their_handlers_take():
    """A subclass that takes another body leaves the one it comes from as it is."""

    class Other(Delegating):
        def post(self, request, room_id: int, body: Ping):
            return Response(body.kind)

    Other.as_view()
    response = Client().post("/delegating/1/", {"content": "hi"}, content_type="application/json")
    assert response.json() == "1: hi"
