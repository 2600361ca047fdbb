"""System checks: what would fail, or lose messages, later."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import redis
from django.core.checks import CheckMessage, Error, Warning

from rooms_app import conf
from rooms_app.embedded import is_bundled
from rooms_app.exceptions import RoomsConfigurationError
from rooms_app.registry import registry

_MEMORY = "channels.layers.InMemoryChannelLayer"
_CLASSIC = "channels_redis.core.RedisChannelLayer"
_PUBSUB = "channels_redis.pubsub.RedisPubSubChannelLayer"
#: Under either of its names.
_HISTORY = ("rooms_app.layers.RoomsRedisChannelLayer", "rooms_app.layers.history_layer.RoomsRedisChannelLayer")
#: One hub channel carries all rooms of a process: below this, a burst is dropped.
_LOW_CAPACITY = 1_000
#: redis-py's own default since 8.0, and as long as the classic layer blocks.
_BLOCKING = 5


def check_project(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """All of rooms_app's checks."""
    return [*_check_settings(), *_check_messages(), *_check_layer(), *_check_embedded()]


def _check_settings() -> Iterator[CheckMessage]:
    for problem in conf.problems():
        yield Error(problem, hint="See docs/reference/settings.md for the keys of ROOMS.", id="rooms.E001")


def _check_messages() -> Iterator[CheckMessage]:
    for error in registry.errors:
        yield Error(str(error), hint="Give each message class a MESSAGE_ID of its own.", id="rooms.E003")
    for message_type in registry:
        if message_type.OUTBOX and message_type.VOLATILE:
            yield Warning(
                f"{message_type.MESSAGE_ID} has OUTBOX and VOLATILE: it is stored so that it gets lost nowhere, and "
                "then dropped for a slow connection.",
                hint="Choose one of the two.",
                id="rooms.W011",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """The channel layer of the rooms, as CHANNEL_LAYERS has it."""

    alias: str
    backend: Any
    config: dict[str, Any]


def _check_layer() -> Iterator[CheckMessage]:
    try:
        alias = conf.rooms_settings().channel_layer
    except RoomsConfigurationError:
        return
    entry = conf.channel_layer_configs().get(alias)
    if entry is None:
        yield Error(
            f"CHANNEL_LAYERS has no {alias!r}: rooms need a channel layer.",
            hint='CHANNEL_LAYERS = {"default": rooms_app.layers.channel_layer("rooms", "redis://…")}',
            id="rooms.E002",
        )
        return
    layer = _Layer(alias=alias, backend=entry.get("BACKEND"), config=entry.get("CONFIG", {}))
    yield from _check_capacity(layer)
    yield from _check_reach(layer)
    yield from _check_timeouts(layer)
    yield from _check_history(layer)
    yield from _check_hosts(layer)


def _check_capacity(layer: _Layer) -> Iterator[CheckMessage]:
    capacity = layer.config.get("capacity", 100)
    if layer.backend in (_MEMORY, _CLASSIC) and capacity < _LOW_CAPACITY:
        yield Warning(
            f"The channel layer's capacity is {capacity}, and it silently drops what exceeds it: one channel carries "
            "all rooms of a process.",
            hint=f'Set "capacity" in CHANNEL_LAYERS[{layer.alias!r}]["CONFIG"] to 10,000, or use '
            'channel_layer("rooms", …).',
            id="rooms.W001",
        )


def _check_reach(layer: _Layer) -> Iterator[CheckMessage]:
    if layer.backend == _MEMORY and not conf.is_debug():
        yield Warning(
            "InMemoryChannelLayer reaches this process only.",
            hint="Use a Redis layer where there is more than one process, also for management commands.",
            id="rooms.W003",
        )


def _check_timeouts(layer: _Layer) -> Iterator[CheckMessage]:
    if layer.backend == _CLASSIC and _timeout_kills_readers(layer.config):
        yield Warning(
            "redis-py 8 gives up on a socket after 5 s, just as long as RedisChannelLayer blocks on it: idle "
            "connections fail (https://github.com/django/channels_redis/issues/422).",
            hint="Write the hosts with rooms_app.layers.redis_host(url), which sets socket_timeout.",
            id="rooms.W002",
        )


def _check_history(layer: _Layer) -> Iterator[CheckMessage]:
    if layer.backend in (_CLASSIC, _PUBSUB):
        yield Warning(
            f"{layer.backend.rpartition('.')[2]} has no history: delivery is at most once, what is sent while a "
            "client is away or Redis is lost is gone, and a client that comes back is told to reload.",
            hint=f'CHANNEL_LAYERS[{layer.alias!r}] = rooms_app.layers.channel_layer("rooms", "redis://…")',
            id="rooms.W005",
        )


def _check_hosts(layer: _Layer) -> Iterator[CheckMessage]:
    hosts = layer.config.get("hosts")
    if layer.backend in _HISTORY and isinstance(hosts, list | tuple) and len(hosts) > 1:
        yield Warning(
            f"RoomsRedisChannelLayer has {len(hosts)} hosts, and so no history: ids of several would have no order.",
            hint="Name one host, or one Sentinel master.",
            id="rooms.W006",
        )


def _timeout_kills_readers(config: dict[str, Any]) -> bool:
    has_default = int(redis.__version__.split(".")[0]) >= 8
    for host in config.get("hosts") or [{}]:
        timeout = host.get("socket_timeout", 0) if isinstance(host, dict) else 0
        if timeout is not None and (0 < timeout <= _BLOCKING or (timeout == 0 and has_default)):
            return True
    return False


def _check_embedded() -> Iterator[CheckMessage]:
    try:
        directory = conf.rooms_settings().embedded_directory
    except RoomsConfigurationError:
        return
    if directory is not None and not conf.is_debug() and is_bundled():
        yield Warning(
            "The bundled Redis is for development, and DEBUG is False.",
            hint="Set REDIS_URL to a Redis or Valkey server of your own.",
            id="rooms.W004",
        )
