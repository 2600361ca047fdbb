"""REST views whose body is a Pydantic model: how clients speak to the server.

A `PydanticAPIView` is a Django REST framework view in all but two things: a handler gets its body and its URL
parameters validated by what they are annotated with, and it may be an `async def`.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, ClassVar, get_args, get_type_hints

from asgiref.sync import async_to_sync
from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, QueryDict
from django.http.request import UnreadablePostError
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import from_json
from rest_framework import exceptions
from rest_framework.parsers import JSONParser
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from rooms_app.exceptions import (
    ForbiddenRoom,
    InvalidRoom,
    MessageTooLarge,
    RoomsConfigurationError,
    RoomsUnavailable,
)
from rooms_app.positions import current_cursor_sync

#: One thing that is wrong with a request: `{"loc": […], "msg": "…", "type": "…"}`.
ErrorDict = dict[str, Any]

#: Methods whose request has no body that means anything (RFC 9110, section 9.3).
_BODILESS = frozenset({"get", "head", "options", "trace"})
#: More errors than this are only counted: 2.5 MB of wrong items would make 100 MB of errors.
_MAX_ERRORS = 1_000
#: What an error may repeat of the client's own words (a wrong key, a wrong tag), in characters.
_MAX_TEXT = 500


class InvalidRequest(exceptions.APIException):
    """400 with `{"detail": [{"loc", "msg", "type"}, …]}`."""

    status_code = 400

    def __init__(self, errors: Sequence[ErrorDict]) -> None:
        # Not through DRF's own __init__, which would make a text of each number in `loc`.
        self.detail: Any = {"detail": list(errors)}

    def get_codes(self) -> Any:
        """The `type` of each error."""
        return {"detail": [error["type"] for error in self.detail["detail"]]}

    def get_full_details(self) -> Any:
        """The errors as they are sent."""
        return self.detail


class ServiceUnavailable(exceptions.APIException):
    """503: the message was perhaps sent, perhaps not."""

    status_code = 503
    default_detail = "The message was perhaps sent, perhaps not."
    default_code = "rooms_unavailable"


class PydanticJSONParser(JSONParser):
    """Reads `request.data`, for a permission that looks at it, with the same errors as a handler's body."""

    def parse(self, stream: Any, media_type: Any = None, parser_context: Any = None) -> Any:
        """The JSON as dicts and lists. Not from the stream, which would leave nothing for the handler."""
        return _plain_json(parser_context["request"].body)


class _JSONRequest(Request):
    @property
    def POST(self) -> Any:  # type: ignore[override]  # noqa: N802 - the name is Django's
        # There are no forms here. DRF would parse the body to look for one, for the CSRF check of a session.
        return QueryDict()


#: The header of a GET's answer that names the cursor to connect with.
CURSOR_HEADER = "Rooms-Cursor"


class PydanticAPIView(APIView):
    """A DRF view whose handlers say with annotations what they take. JSON only.

        class SendMessage(PydanticAPIView):
            async def post(self, request, room_id: RoomName, body: ChatMessageRequest) -> Response: ...

    The parameter annotated with a Pydantic model is the body. Other annotated ones are URL parameters,
    validated too; without an annotation, or with `Any`, they come as they are. What does not fit is answered
    with 400 and `{"detail": [{"loc", "msg", "type"}]}`, after authentication, permissions and throttles.
    Handlers may be `def` or `async def`, mixed. `as_view()` raises `RoomsConfigurationError` for annotations
    that can't be used.
    """

    parser_classes = [PydanticJSONParser]
    renderer_classes = [JSONRenderer]
    # Whatever the handlers are: DRF's permissions and throttles are sync, and may use the database.
    view_is_async = False
    #: Whether the answer to a GET names, in `Rooms-Cursor`, the place in history that it was before: a page that
    #: connects with it as `since` misses nothing that came after.
    sends_cursor: ClassVar[bool] = True
    _cursor: str | None = None
    _handlers: ClassVar[Mapping[str, _Handler]] = {}

    @classmethod
    def as_view(cls, **initkwargs: Any) -> Any:
        """The view function for a URLconf."""
        handlers = {
            method: _Handler.of(cls, method, function)
            for method in cls.http_method_names
            if (function := getattr(cls, method, None))
        }
        if "get" in handlers:
            handlers.setdefault("head", handlers["get"])  # as Django's setup() does
        cls._handlers = handlers
        return super().as_view(**initkwargs)

    def setup(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        """Put the validation in front of the one handler that `dispatch()` will call.

        It calls the handler after `initial()`, so no body is read of somebody who may not speak. Handlers
        that call one another, or `super()`, meet the plain methods.
        """
        super().setup(request, *args, **kwargs)
        method = (request.method or "").lower()
        if handler := self._handlers.get(method):
            setattr(self, method, partial(handler, self, getattr(self, method)))

    def initialize_request(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Request:
        """The request that permissions, throttles and handlers are given."""
        return _JSONRequest(
            request,
            parsers=self.get_parsers(),
            authenticators=self.get_authenticators(),
            negotiator=self.get_content_negotiator(),
            parser_context=self.get_parser_context(request),
        )

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Authentication, permissions and throttles; then, before the handler's own queries, the cursor."""
        super().initial(request, *args, **kwargs)
        if self.sends_cursor and request.method in ("GET", "HEAD"):
            self._cursor = current_cursor_sync()

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        """The response with the cursor."""
        response = super().finalize_response(request, response, *args, **kwargs)
        if self._cursor is not None and response.status_code < 400:
            response.headers[CURSOR_HEADER] = self._cursor
        return response

    def handle_exception(self, exc: Exception) -> Response:
        """The answer to what went wrong: rooms_app's exceptions as 4xx and 503, all else as DRF."""
        return super().handle_exception(_as_api_exception(exc))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Handler:
    """What the annotations of one handler say, read once at `as_view()`."""

    #: The URL parameters, in the order of a URL pattern with unnamed groups, each with what validates it.
    parameters: Mapping[str, TypeAdapter[Any]]
    #: The parameter that takes the body, if one does, with what validates it.
    body: tuple[str, TypeAdapter[Any]] | None

    @classmethod
    def of(cls, view: type[APIView], method: str, function: Callable[..., Any]) -> _Handler:
        parameters: dict[str, TypeAdapter[Any]] = {}
        body: tuple[str, TypeAdapter[Any]] | None = None
        for parameter in list(inspect.signature(function).parameters.values())[2:]:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            where = f"{view.__qualname__}.{method}(), parameter {parameter.name!r}"
            annotation, adapter = _read_annotation(parameter, function, where)
            if not _mentions_a_model(annotation):
                parameters[parameter.name] = adapter
                continue
            if method in _BODILESS:
                raise RoomsConfigurationError(f"{where}: a {method.upper()} request has no body.")
            if body is not None:
                raise RoomsConfigurationError(f"{where}: {body[0]!r} takes the body already.")
            body = parameter.name, adapter
        return cls(parameters=parameters, body=body)

    def __call__(self, view: APIView, function: Any, request: Request, *args: Any, **kwargs: Any) -> Any:
        given = dict(zip(self.parameters, args, strict=False)) | kwargs
        self._validate_parameters(given)
        if self.body is not None:
            name, adapter = self.body
            given[name] = _validated(adapter, _read_json(view, request))
        response = function(request, *args[len(self.parameters) :], **given)
        # The response tells, not the function: a decorator's sync function may have an async one inside.
        return async_to_sync(_finish)(response) if inspect.isawaitable(response) else response

    def _validate_parameters(self, given: dict[str, Any]) -> None:
        errors: list[ErrorDict] = []
        for name in [name for name in self.parameters if name in given]:
            try:
                given[name] = self.parameters[name].validate_python(given[name])
            except ValidationError as error:
                errors.extend(_errors(error, name))
        if errors:
            raise InvalidRequest(errors)


def _read_annotation(
    parameter: inspect.Parameter, function: Callable[..., Any], where: str
) -> tuple[Any, TypeAdapter[Any]]:
    """What the parameter is annotated with, its names looked up, and what validates it."""
    given = Any if parameter.annotation is parameter.empty else parameter.annotation
    # By itself, not with the function's other annotations, so that the error can say which one it is.
    holder = SimpleNamespace(__annotations__={"it": given})
    names = getattr(inspect.unwrap(function), "__globals__", {})
    try:
        annotation = get_type_hints(holder, globalns=names, include_extras=True)["it"]
        adapter = TypeAdapter(annotation)
        adapter.rebuild()  # raises now, not at the first request, for a model that names what isn't there
    except Exception as error:
        raise RoomsConfigurationError(f"{where}: {given!r} can't be used: {error}") from error
    return annotation, adapter


def _mentions_a_model(annotation: Any) -> bool:
    """Whether the annotation is a Pydantic model, or made of some: `A | B`, `list[A]`, `Annotated[A, …]`."""
    annotation = getattr(annotation, "__value__", annotation)  # what `type Body = …` stands for
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return True
    return any(_mentions_a_model(part) for part in get_args(annotation))


def _read_json(view: APIView, request: Request) -> bytes:
    """The raw body. Raises DRF's `UnsupportedMediaType` unless it is declared as JSON."""
    declared = request.content_type
    if declared and not view.get_content_negotiator().select_parser(request, request.parsers or ()):
        raise exceptions.UnsupportedMediaType(declared)
    body: bytes = request.body
    # Any site can have a browser send an undeclared body here. No body at all is left to be a 400.
    if body and not declared:
        raise exceptions.UnsupportedMediaType("")
    return body


def _plain_json(body: bytes) -> Any:
    try:
        # Models would take NaN and Infinity, which are not JSON and which no browser could read.
        return from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidRequest([_error([], f"Invalid JSON: {error}", "json_invalid")]) from error


def _validated(adapter: TypeAdapter[Any], body: bytes) -> Any:
    _plain_json(body)
    try:
        # From the bytes, not from what they were parsed to: a strict model takes a UUID only from JSON.
        return adapter.validate_json(body)
    except ValidationError as error:
        raise InvalidRequest(_errors(error)) from error


async def _finish(response: Awaitable[Any]) -> Any:
    return await response


def _as_api_exception(exc: Exception) -> Exception:
    match exc:
        case InvalidRoom():
            return InvalidRequest([_error(["room"], str(exc), "invalid_room")])
        case ForbiddenRoom():
            return exceptions.PermissionDenied(_short(str(exc)))
        case MessageTooLarge():
            return InvalidRequest([_error([], str(exc), "message_too_large")])
        case RoomsUnavailable():
            return ServiceUnavailable()
        case RequestDataTooBig():
            return InvalidRequest([_error([], "The body is larger than this server takes.", "too_large")])
        case UnreadablePostError():
            return InvalidRequest([_error([], "The body ended too early.", "incomplete")])
    return exc


def _errors(error: ValidationError, *prefix: str) -> list[ErrorDict]:
    if error.error_count() > _MAX_ERRORS:
        return [_error(prefix, f"There are {error.error_count()} errors.", "too_many_errors")]
    return [
        _error([*prefix, *one["loc"]], one["msg"], one["type"])
        for one in error.errors(include_url=False, include_context=False, include_input=False)
    ]


def _error(loc: Sequence[int | str], msg: str, type_: str) -> ErrorDict:
    return {"loc": [_short(part) for part in loc], "msg": _short(msg), "type": type_}


def _short(part: Any) -> Any:
    return f"{part[:_MAX_TEXT]}…" if isinstance(part, str) and len(part) > _MAX_TEXT else part
