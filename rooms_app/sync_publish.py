"""Sending from sync code without an event loop: a plain PUBLISH in the wire format of channels_redis's pub/sub layer.

`async_to_sync(layer.group_send)` opens a connection for each send; a background loop costs two thread hops. Other
layers have no form that a plain client could write, and go through the background loop.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import redis
from channels_redis.pubsub import RedisPubSubChannelLayer
from channels_redis.utils import _consistent_hash, decode_hosts
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from rooms_app.background import after_fork_in_child
from rooms_app.conf import rooms_settings
from rooms_app.rooms import group_name

#: How long connecting may take, in seconds.
_CONNECT_TIMEOUT = 1.0
#: What the layer's own `__init__` takes besides these changes what it sends; an unknown one means: not ours to write.
_KNOWN_OPTIONS = {"hosts", "prefix", "on_disconnect", "on_reconnect"}

_publishers: WeakKeyDictionary[Any, SyncPublisher]
_lock: threading.Lock


def _start_afresh() -> None:
    global _publishers, _lock
    _publishers = WeakKeyDictionary()
    _lock = threading.Lock()


_start_afresh()
# A fork may take along a lock that nobody is left to release, and connections that are the parent's.
after_fork_in_child(_start_afresh)


class SyncPublisher:
    """Publishes room messages as one `RedisPubSubChannelLayer` would; for any number of threads."""

    def __init__(self, pools: Sequence[Any], prefix: str) -> None:
        self._pools = pools
        self._prefix = prefix

    @classmethod
    def fit(cls, layer: Any) -> SyncPublisher | None:
        """The publisher of a layer, or None where the layer is of another kind, or configured in a way unknown here."""
        if type(layer) is not RedisPubSubChannelLayer:
            return None
        with _lock:
            publisher = _publishers.get(layer)
            if publisher is None:
                options = vars(layer).get("_kwargs", {})
                if vars(layer).get("_args") or not set(options) <= _KNOWN_OPTIONS:
                    return None
                pools = [_pool(host) for host in decode_hosts(options.get("hosts"))]
                publisher = _publishers[layer] = cls(pools, options.get("prefix", "asgi"))
            return publisher

    def publish(self, rooms: Sequence[str], payload: bytes) -> None:
        """Publish a serialised message to the group of each room. Raises what redis-py raises."""
        commands: dict[Any, list[Sequence[str | bytes]]] = {}
        for room in rooms:
            channel = f"{self._prefix}__group__{group_name(room)}"
            pool = self._pools[_consistent_hash(channel, len(self._pools))]
            commands.setdefault(pool, []).append(("PUBLISH", channel, payload))
        for pool, batch in commands.items():
            _execute(pool, batch)


def _execute(pool: Any, commands: Sequence[Sequence[str | bytes]]) -> None:
    """Send all commands in one write and read their replies: redis-py's `publish` costs as much again as Redis."""
    connection = pool.get_connection()
    try:
        connection.send_packed_command(connection.pack_commands(commands))
        for _ in commands:
            connection.read_response()
    except BaseException:
        # A reply that is still due must not become the answer to the next send.
        connection.disconnect()
        raise
    finally:
        pool.release(connection)


def _pool(host: dict[str, Any]) -> Any:
    """A connection pool as channels_redis makes one, with a send's timeouts and none of redis-py's own retries."""
    options = {
        **host,
        "socket_connect_timeout": _CONNECT_TIMEOUT,
        "socket_timeout": rooms_settings().send_timeout,
        "retry": Retry(NoBackoff(), 0),
    }
    if "address" in options:
        return redis.ConnectionPool.from_url(options.pop("address"), **options)
    if "master_name" in options:
        service = options.pop("master_name")
        # redis-py's Sentinel is untyped.
        make_sentinel: Any = Sentinel
        sentinel = make_sentinel(options.pop("sentinels"), sentinel_kwargs=options.pop("sentinel_kwargs", None))
        return SentinelConnectionPool(service, sentinel, **options)  # type: ignore[no-untyped-call]
    return redis.ConnectionPool(**options)
