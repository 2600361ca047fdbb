"""REST views whose body is a Pydantic model: how clients speak to the server.

A `PydanticAPIView` is a Django REST framework view in all but two things: a handler gets its body and its URL
parameters validated by what they are annotated with, and it may be an `async def`.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, ClassVar, get_args, get_type_hints

from asgiref.sync import async_to_sync
from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest
from django.http.request import UnreadablePostError
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import from_json
from rest_framework import exceptions, status
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

    status_code = status.HTTP_400_BAD_REQUEST

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

    status_code = status.HTTP_503_SERVICE_UNAVAILABLE
    default_detail = "The message was perhaps sent, perhaps not."
    default_code = "rooms_unavailable"


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

    parser_classes = [JSONParser]
    renderer_classes = [JSONRenderer]
    # Sync for Django, whatever the handlers are: DRF's permissions and throttles may use the database.
    view_is_async = False
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

    def handle_exception(self, exc: Exception) -> Response:
        """The answer to what went wrong: rooms_app's exceptions as 4xx and 503, all else as DRF."""
        return super().handle_exception(_as_api_exception(exc))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Handler:
    """What the annotations of one handler say, read once at `as_view()`."""

    #: The name of the parameter that takes the body, if one does.
    body: str | None
    #: The names of the others, in order, since a URL pattern may have unnamed groups.
    parameters: Sequence[str]
    #: What each annotated parameter, the body too, is validated by.
    adapters: Mapping[str, TypeAdapter[Any]]

    @classmethod
    def of(cls, view: type[APIView], method: str, function: Callable[..., Any]) -> _Handler:
        body = None
        adapters: dict[str, TypeAdapter[Any]] = {}
        names = []
        for parameter in _own_parameters(function):
            where = f"{view.__qualname__}.{method}(), parameter {parameter.name!r}"
            annotation = _resolved(parameter.annotation, function, where)
            if not _mentions_a_model(annotation):
                names.append(parameter.name)
            elif method in _BODILESS:
                raise RoomsConfigurationError(f"{where}: a {method.upper()} request has no body.")
            elif body is not None:
                raise RoomsConfigurationError(f"{where}: {body!r} takes the body already.")
            else:
                body = parameter.name
            if annotation is not Any:
                adapters[parameter.name] = _adapter(annotation, where)
        return cls(body=body, parameters=names, adapters=adapters)

    def __call__(
        self,
        view: APIView,
        function: Callable[..., Any],
        request: Request,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        given = self._validated(dict(zip(self.parameters, args, strict=False)) | kwargs)
        if self.body is not None:
            given[self.body] = _parse(_read_json(view, request), self.adapters[self.body])
        response = function(request, *args[len(self.parameters) :], **given)
        # The response is looked at, not the function, which may be an async one under a decorator's sync one.
        return async_to_sync(_finish)(response) if inspect.isawaitable(response) else response

    def _validated(self, given: dict[str, Any]) -> dict[str, Any]:
        errors: list[ErrorDict] = []
        for name in self.parameters:
            if name not in self.adapters or name not in given:
                continue
            try:
                given[name] = self.adapters[name].validate_python(given[name])
            except ValidationError as error:
                errors.extend(_errors(error, name))
        if errors:
            raise InvalidRequest(errors)
        return given


def _own_parameters(function: Callable[..., Any]) -> Iterator[inspect.Parameter]:
    """The named parameters after `self` and `request`."""
    for parameter in list(inspect.signature(function).parameters.values())[2:]:
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            yield parameter


def _resolved(annotation: Any, function: Callable[..., Any], where: str) -> Any:
    """The annotation with its names looked up. One at a time, so that the error can say which it is."""
    if annotation is inspect.Parameter.empty:
        return Any
    holder = SimpleNamespace(__annotations__={"it": annotation})
    names = getattr(inspect.unwrap(function), "__globals__", {})
    try:
        return get_type_hints(holder, globalns=names, include_extras=True)["it"]
    except Exception as error:
        raise RoomsConfigurationError(f"{where}: {annotation!r} can't be resolved: {error}") from error


def _mentions_a_model(annotation: Any) -> bool:
    """Whether the annotation is a Pydantic model, or made of some: `A | B`, `list[A]`, `Annotated[A, …]`."""
    annotation = getattr(annotation, "__value__", annotation)  # what `type Body = …` stands for
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return True
    return any(_mentions_a_model(part) for part in get_args(annotation))


def _adapter(annotation: Any, where: str) -> TypeAdapter[Any]:
    try:
        adapter = TypeAdapter(annotation)
        adapter.rebuild()  # raises now, not at the first request, for a model that names what isn't there
    except Exception as error:
        raise RoomsConfigurationError(f"{where}: Pydantic can't validate {annotation!r}: {error}") from error
    return adapter


def _read_json(view: APIView, request: Request) -> bytes:
    """The raw body. Raises DRF's `UnsupportedMediaType` unless it is declared as JSON."""
    declared = request.content_type
    if declared and not view.get_content_negotiator().select_parser(request, request.parsers or ()):
        raise exceptions.UnsupportedMediaType(declared)
    body: bytes = request.body
    # An undeclared body is refused, since any site can have a browser send one here; no body at all is a 400.
    if body and not declared:
        raise exceptions.UnsupportedMediaType("")
    return body


def _parse(body: bytes, adapter: TypeAdapter[Any]) -> Any:
    try:
        # Models would take NaN and Infinity, which are not JSON, and which no browser could read again.
        from_json(body, allow_inf_nan=False)
        return adapter.validate_json(body)
    except ValidationError as error:
        raise InvalidRequest(_errors(error)) from error
    except ValueError as error:
        raise InvalidRequest([_error([], f"Invalid JSON: {error}", "json_invalid")]) from error


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
    return {
        "loc": [_short(part) if isinstance(part, str) else part for part in loc],
        "msg": _short(msg),
        "type": type_,
    }


def _short(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}…"
