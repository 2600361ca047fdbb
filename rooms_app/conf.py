"""The settings: one dict, `ROOMS = {…}`, with a default for each key.

The only module of rooms_app that reads `django.conf.settings`. Values are read at use, so Django's
`override_settings(ROOMS={…})` works.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.signals import setting_changed

from rooms_app.exceptions import RoomsConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomsSettings:
    """Each key of `ROOMS` with its default. Times are in seconds, sizes in bytes."""

    #: The alias in CHANNEL_LAYERS that carries the rooms.
    channel_layer: str = "default"
    #: How long a send may take before it counts as failed.
    send_timeout: float = 2.0
    #: How long sends fail at once after one has failed, before the next is tried.
    retry_after: float = 1.0
    #: The largest message, as JSON.
    max_message_bytes: int = 512 * 1024
    #: How many frames may wait for one slow client before it is closed with 4008 …
    max_unsent_messages: int = 1_000
    #: … and how many bytes.
    max_unsent_bytes: int = 1024 * 1024
    #: The kernel's send buffer of each connection (SO_SNDBUF); 0 leaves it to the kernel, which takes up to 4 MB.
    send_buffer_bytes: int = 128 * 1024
    #: How long a client closed with 4008 may take to read what it was sent before the connection is reset.
    slow_grace: float = 5.0
    #: How long a connection lives before it is asked to reconnect (4011), give or take 10 %.
    max_age: float = 12 * 3600.0
    #: The seconds of silence after which a `rooms.v1` client gets a `sys.ping`.
    ping: float = 25.0
    #: How many rooms one connection may be in (4505).
    max_rooms: int = 1_000
    #: How many connections one process takes (1013); 0 for no limit.
    max_connections: int = 0
    #: How many connections one signed-in user may have in one process (4504); 0 for no limit.
    max_connections_per_user: int = 0
    #: The largest frame a client may send; longer ones close it (4501). Clients speak over REST.
    max_inbound_bytes: int = 64 * 1024
    #: How many frames a client may send in ten seconds (4013).
    max_inbound_frames: int = 100
    #: How often the hub asks the layer for a sign of life, and re-joins its groups if there is none.
    heartbeat: float = 5.0
    #: How many messages of a room are kept for those who come back …
    history_messages: int = 1_000
    #: … and for how long.
    history_seconds: float = 600.0
    #: The same for rooms whose name fits a pattern, the first that does: `{"chat-*": (5_000, 3600)}`; 0 for none.
    history: Mapping[str, tuple[int, float]] = dataclasses.field(default_factory=dict)
    #: The longest replay, in messages; a client that missed more is asked to reload (`sys.reset`, "limit").
    max_replay_messages: int = 10_000
    #: Over how many seconds a process that is drained closes its connections.
    drain_window: float = 10.0
    #: How often a process looks whether those who are connected are still signed in, where no signal told.
    sign_in_check: float = 15.0
    #: How long a member stays in a room after her last connection was lost: she may be coming back.
    presence_grace: float = 5.0
    #: Where the bundled Redis keeps its data and socket; None when the project brings its own Redis.
    embedded_directory: Path | str | None = None


_FIELDS: Mapping[str, dataclasses.Field[Any]] = {field.name: field for field in dataclasses.fields(RoomsSettings)}
#: Where 0 has a meaning of its own, which the key's comment says.
_MAY_BE_ZERO = {
    "send_buffer_bytes",
    "max_connections",
    "max_connections_per_user",
    "history_messages",
    "presence_grace",
}
_current: RoomsSettings | None = None


def rooms_settings() -> RoomsSettings:
    """The settings in force. Raises `RoomsConfigurationError` for a key or value that can't be used."""
    global _current
    if _current is None:
        given = _given()
        for problem in problems(given):
            raise RoomsConfigurationError(problem)
        _current = RoomsSettings(**given)
    return _current


def channel_layer_configs() -> dict[str, dict[str, Any]]:
    """The project's CHANNEL_LAYERS."""
    return getattr(settings, "CHANNEL_LAYERS", {})


def session_cookie_name() -> str:
    """The project's SESSION_COOKIE_NAME."""
    return settings.SESSION_COOKIE_NAME


def user_model_name() -> str:
    """The project's AUTH_USER_MODEL, such as `auth.User`: for what is defined before that is loaded."""
    return settings.AUTH_USER_MODEL


def is_debug() -> bool:
    """The project's DEBUG."""
    return bool(settings.DEBUG)


def problems(given: Any = None) -> Iterator[str]:
    """One sentence for each key of ROOMS that is unknown, and each value of the wrong kind."""
    given = _given() if given is None else given
    if not isinstance(given, dict):
        yield f"ROOMS must be a dict, not {type(given).__name__}."
        return
    for key, value in given.items():
        if key not in _FIELDS:
            close = difflib.get_close_matches(str(key), _FIELDS, n=1)
            yield f"ROOMS has no key {key!r}." + (f" Did you mean {close[0]!r}?" if close else "")
        elif reason := _unusable(_FIELDS[key], value):
            yield f"ROOMS[{key!r}] = {value!r}: {reason}."


def _unusable(field: dataclasses.Field[Any], value: Any) -> str | None:
    if field.type in ("float", "int"):
        if isinstance(value, bool) or not isinstance(value, int | float):
            return "it must be a number"
        if field.type == "int" and not isinstance(value, int):
            return "it must be a whole number"
        if not math.isfinite(value) or value < 0 or (value == 0 and field.name not in _MAY_BE_ZERO):
            return "it must be greater than 0"
        return None
    if field.type == "str" and not isinstance(value, str):
        return "it must be a text"
    if field.name == "history":
        return None if _is_history(value) else 'it must be a dict such as {"chat-*": (1000, 600)}: messages, seconds'
    if field.name == "embedded_directory" and not isinstance(value, str | Path | None):
        return "it must be a path"
    return None


def _is_history(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(pattern, str)
        and isinstance(size, tuple | list)
        and len(size) == 2
        and isinstance(size[0], int)
        and isinstance(size[1], int | float)
        and size[0] >= 0
        and (size[1] > 0 or not size[0])
        for pattern, size in value.items()
    )


def _given() -> Any:
    return getattr(settings, "ROOMS", {})


def _forget(*, setting: str, **kwargs: Any) -> None:
    global _current
    if setting == "ROOMS":
        _current = None


setting_changed.connect(_forget, dispatch_uid="rooms_app.conf")
