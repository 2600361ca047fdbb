"""Handlers: which functions take which messages. They are found in each installed app's `handlers.py`."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from asgiref.sync import iscoroutinefunction
from django.utils.module_loading import autodiscover_modules

from rooms_app.bus.delivery import MessageOf
from rooms_app.bus.registry import BusMessageBase, full_name
from rooms_app.bus.retrying import Retry, check_seconds
from rooms_app.exceptions import MessageDefinitionError, RoomsError

C = TypeVar("C", bound=type[Any])
F = TypeVar("F", bound=Callable[..., Any])

_LOCAL = "<locals>"
#: What the dead letters have room for.
_MAX_NAME_LENGTH = 255


class NoHandler(RoomsError, LookupError):  # noqa: N818 - reads as the sentence it is
    """No handler takes messages of this topic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Handler:
    """A function or method that takes the messages of one topic."""

    name: str
    message_type: type[BusMessageBase]
    function: Callable[..., Any]
    #: The `@message_bus_controller` class of a method; None for a plain function.
    controller: type[Any] | None = None
    retry: Retry
    #: Seconds.
    timeout: float
    #: The Celery queue; None for what the team's routes, or Celery's default, say.
    queue: str | None

    @property
    def topic(self) -> str:
        """Of the messages it takes."""
        return self.message_type.MESSAGE_TOPIC

    @property
    def is_async(self) -> bool:
        """Whether it is a coroutine function."""
        return iscoroutinefunction(self.function)

    def call(self, message: MessageOf[Any]) -> Any:
        """Call it; a coroutine for an async one."""
        if self.controller is None:
            return self.function(message)
        return self.function(_instances.get(self.controller), message)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spec:
    """What `@message_handler` was given, until it is known whether that is a method, and of which class."""

    message_type: type[BusMessageBase]
    retry: Retry
    timeout: float
    queue: str | None

    def handler(self, name: str, function: Callable[..., Any], controller: type[Any] | None = None) -> Handler:
        """The handler of this name."""
        if len(name) > _MAX_NAME_LENGTH:
            raise MessageDefinitionError(f"{name} is longer than {_MAX_NAME_LENGTH} characters: handlers need a name.")
        return Handler(
            name=name,
            message_type=self.message_type,
            function=function,
            controller=controller,
            retry=self.retry,
            timeout=self.timeout,
            queue=self.queue,
        )


class _Instances:
    """One instance of each controller class per process, made when its first message comes."""

    def __init__(self) -> None:
        self._instances: dict[type[Any], Any] = {}
        self._lock = threading.Lock()

    def get(self, controller: type[Any]) -> Any:
        """The class's one instance."""
        with self._lock:
            if controller not in self._instances:
                self._instances[controller] = controller()
            return self._instances[controller]


_instances = _Instances()


@dataclass(slots=True)
class HandlerRegistry:
    """The handlers of a process."""

    _handlers: dict[tuple[str, str], Handler] = field(default_factory=dict)
    #: Methods, and what makes handlers of them …
    _methods: dict[Callable[..., Any], list[_Spec]] = field(default_factory=dict)
    #: … which their class, or a subclass, has done.
    _taken: set[Callable[..., Any]] = field(default_factory=set)
    _is_complete: bool = False
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def add(self, handler: Handler) -> None:
        """Enter a handler; the same name again (a reload) replaces the one before."""
        self._handlers[handler.topic, handler.name] = handler

    def discover(self) -> None:
        """Import `handlers` of each installed app that has one, once. Raises `MessageDefinitionError`."""
        # Not under the lock: a fork may have taken that along, held.
        if self._is_complete:
            return
        with self._lock:
            if self._is_complete:
                return
            autodiscover_modules("handlers")
            self.check_methods()
            self._is_complete = True

    def check_methods(self) -> None:
        """Raises `MessageDefinitionError` for a method with `@message_handler` in a class that is no controller."""
        for function in self._methods.keys() - self._taken:
            raise MessageDefinitionError(
                f"{full_name(function)} is a method: its class needs the decorator @message_bus_controller."
            )

    def find(self, topic: str, name: str) -> Handler | None:
        """The handler of this name; None where this process has no such one."""
        self.discover()
        return self._handlers.get((topic, name))

    def of(self, topic: str) -> list[Handler]:
        """All handlers of a topic. Raises `NoHandler` where there are none: what is published would go nowhere."""
        self.discover()
        found = [handler for handler in self._handlers.values() if handler.topic == topic]
        if not found:
            raise NoHandler(
                f"No handler takes {topic!r}: write one with @message_handler in the handlers.py of an installed app."
            )
        return found

    def __iter__(self) -> Iterator[Handler]:
        self.discover()
        return iter(tuple(self._handlers.values()))

    def hold(self, function: Callable[..., Any], spec: _Spec) -> None:
        """Keep a method until its class is known."""
        self._methods.setdefault(function, []).append(spec)

    def take_methods(self, controller: type[Any]) -> Iterator[Handler]:
        """The handlers that a class's methods make, inherited ones included; of overridden ones the nearest."""
        found: dict[str, Callable[..., Any]] = {}
        for base in controller.__mro__:
            for name, function in vars(base).items():
                if inspect.isfunction(function) and function in self._methods:
                    self._taken.add(function)
                    found.setdefault(name, function)
        for name, decorated in found.items():
            # An override need not repeat the decorator.
            function = getattr(controller, name)
            for spec in self._methods[decorated]:
                yield spec.handler(f"{full_name(controller)}.{name}", function, controller)


#: The process's handlers.
handlers = HandlerRegistry()


def message_bus_controller(controller: C) -> C:
    """Decorates a class whose methods are handlers. It is instantiated once per process, without arguments."""
    if not inspect.isclass(controller):
        raise MessageDefinitionError(f"@message_bus_controller decorates a class, not {controller!r}.")
    found = list(handlers.take_methods(controller))
    if not found:
        raise MessageDefinitionError(f"{full_name(controller)} has no method with @message_handler.")
    for handler in found:
        handlers.add(handler)
    return controller


def message_handler(
    message_type: type[BusMessageBase], *, retry: Retry | None = None, timeout: float = 60, queue: str | None = None
) -> Callable[[F], F]:
    """Decorates a function, or a method of a `@message_bus_controller` class, sync or async, that takes a message.

    One that fails, or takes longer than `timeout` seconds, is tried again as `retry` says, then goes to the dead
    letters. `queue` names the Celery queue. Raises `MessageDefinitionError`, `ValueError`.
    """
    if not inspect.isclass(message_type) or not issubclass(message_type, BusMessageBase):
        raise MessageDefinitionError(f"@message_handler(…) takes a BusMessage class, not {message_type!r}.")
    if not isinstance(getattr(message_type, "MESSAGE_TOPIC", None), str):
        raise MessageDefinitionError(f"{full_name(message_type)} has no MESSAGE_TOPIC, and so no messages to handle.")
    check_seconds("message_handler(timeout=…)", timeout)
    spec = _Spec(message_type=message_type, retry=retry or Retry(), timeout=timeout, queue=queue)

    def decorate(function: F) -> F:
        if not inspect.isfunction(function):
            raise MessageDefinitionError(f"@message_handler decorates a function or method, not {function!r}.")
        is_method = _is_method(function)
        _check_signature(function, is_method=is_method)
        if is_method:
            handlers.hold(function, spec)
        else:
            handlers.add(spec.handler(full_name(function), function))
        return function

    return decorate


def _is_method(function: Callable[..., Any]) -> bool:
    owner, _, _ = function.__qualname__.rpartition(".")
    return bool(owner) and not owner.endswith(_LOCAL)


def _check_signature(function: Callable[..., Any], *, is_method: bool) -> None:
    try:
        inspect.signature(function).bind(*[None] * (2 if is_method else 1))
    except TypeError as error:
        form = "(self, message)" if is_method else "(message)"
        raise MessageDefinitionError(f"{full_name(function)} is called with {form}: {error}.") from None
