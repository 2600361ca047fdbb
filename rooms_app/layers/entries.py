"""Entries for CHANNEL_LAYERS, with the timeouts that Channels' own layers lack."""

from __future__ import annotations

from typing import Any

_BACKENDS = {
    "rooms": "rooms_app.layers.RoomsRedisChannelLayer",
    "pubsub": "channels_redis.pubsub.RedisPubSubChannelLayer",
    "classic": "channels_redis.core.RedisChannelLayer",
    "memory": "channels.layers.InMemoryChannelLayer",
}

#: One hub channel carries all rooms of a process, and these two layers silently drop what exceeds their
#: capacity, 100 by default.
_CAPACITY = 10_000


def redis_host(url: str) -> dict[str, Any]:
    """An entry of a Redis layer's `hosts`: the URL with timeouts that neither hang nor kill an idle reader.

    redis-py 8 gives up on a socket after 5 s, just as long as the classic layer blocks on it
    (https://github.com/django/channels_redis/issues/422).
    """
    host: dict[str, Any] = {
        "address": url,
        "socket_connect_timeout": 1,
        "socket_timeout": 15,
        "health_check_interval": 10,
        "protocol": 2,
    }
    if not url.startswith("unix:"):
        host["socket_keepalive"] = True
    return host


def channel_layer(kind: str, url: str, *, prefix: str = "rooms", **config: Any) -> dict[str, Any]:
    """An entry of CHANNEL_LAYERS: with history ("rooms"), one of Channels' own on Redis ("pubsub",
    "classic"), or "memory" for one process only."""
    if kind not in _BACKENDS:
        raise ValueError(f"A channel layer is one of {', '.join(_BACKENDS)}, not {kind!r}.")
    if kind == "memory":
        return {"BACKEND": _BACKENDS[kind], "CONFIG": {"capacity": _CAPACITY, **config}}
    config = {"hosts": [redis_host(url)], "prefix": prefix, **config}
    if kind == "classic":
        config = {"capacity": _CAPACITY, **config}
    return {"BACKEND": _BACKENDS[kind], "CONFIG": config}
