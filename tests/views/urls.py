"""The views under test, and a middleware that signs everybody in."""

from __future__ import annotations

import threading
from typing import Annotated, Any, Literal
from uuid import UUID

from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.urls import path, re_path
from django.utils.decorators import method_decorator
from django.views.decorators.cache import never_cache
from pydantic import BaseModel, ConfigDict, Field, RootModel, field_validator
from rest_framework.authentication import BaseAuthentication, SessionAuthentication
from rest_framework.exceptions import AuthenticationFailed, NotFound
from rest_framework.permissions import BasePermission, IsAdminUser, IsAuthenticated
from rest_framework.response import Response
from rest_framework.throttling import BaseThrottle

from rooms_app.exceptions import (
    ForbiddenRoom,
    InvalidRoom,
    MessageTooLarge,
    RoomsUnavailable,
)
from rooms_app.rooms import RoomName
from rooms_app.views import PydanticAPIView


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
