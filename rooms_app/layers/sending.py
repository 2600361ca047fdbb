"""What a send becomes on the history layer: one call of a script, or bare publishes where nothing is kept. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from rooms_app.conf import rooms_settings
from rooms_app.layers.scripts import Call, Calls, Target
from rooms_app.rooms import group_name

#: How long a send is known by its uid, for the one that is tried again.
_RETRY_SECONDS = 30.0
#: How long a send is known by its idempotency key.
ONCE_SECONDS = 300.0


def as_call(calls: Calls, message: Mapping[str, Any], payload: bytes, *, once: str | None) -> Call | None:
    """The call that sends a room message, or None where neither its class nor its rooms keep anything."""
    retain_as = message.get("retain") or ""
    has_history = not message.get("volatile") and message.get("history", True)
    targets = [_target(room, has_history=has_history) for room in message["rooms"]]
    # Published first where it has a place in history: the first copy is the one that a hub delivers.
    targets.sort(key=lambda target: target.messages == 0)
    if once is None and not retain_as and not any(target.messages for target in targets):
        return None
    seconds = _RETRY_SECONDS if once is None else ONCE_SECONDS
    key = f"uid:{message['uid']}" if once is None else f"key:{once}"
    return calls.send(targets, payload, once=key, once_seconds=seconds, retain_as=retain_as)


def history_of(room: str) -> tuple[int, float]:
    """How many messages of a room are kept, and for how many seconds: the first pattern that fits."""
    settings = rooms_settings()
    for pattern, (messages, seconds) in settings.history.items():
        if fnmatchcase(room, pattern):
            return messages, seconds
    return settings.history_messages, settings.history_seconds


def keeps_history() -> bool:
    """Whether any room's messages are kept."""
    settings = rooms_settings()
    return settings.history_messages > 0 or any(messages for messages, _ in settings.history.values())


def _target(room: str, *, has_history: bool) -> Target:
    messages, seconds = history_of(room) if has_history else (0, 0.0)
    return Target(group=group_name(room), messages=messages, seconds=seconds)
