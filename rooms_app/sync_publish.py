"""Sending from sync code without an event loop: on our layer one call of its script, on the pub/sub layer one PUBLISH.

`async_to_sync(layer.group_send)` opens a connection for each send; a background loop costs two thread hops. Other
layers have no form that a plain client could write, and go through the background loop.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import redis
from channels_redis.pubsub import RedisPubSubChannelLayer
from channels_redis.utils import _consistent_hash, decode_hosts
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from rooms_app.conf import rooms_settings
from rooms_app.cursor import Cursor
from rooms_app.layers import RoomsRedisChannelLayer
from rooms_app.layers.scripts import Argument, Call, Calls
from rooms_app.layers.sending import as_call
from rooms_app.per_layer import PerLayer
from rooms_app.rooms import group_name

#: How long connecting may take, in seconds.
_CONNECT_TIMEOUT = 1.0
#: A connection that was used so many seconds ago is used again without a look at whether Redis has closed it.
_FRESH = 1.0
#: What the layer's own `__init__` takes besides these changes what it sends; an unknown one means: not ours to write.
_KNOWN_OPTIONS = {"hosts", "prefix", "on_disconnect", "on_reconnect"}

#: A script to run, or the words of a command.
Command = Call | Sequence[Argument]


class Send(NamedTuple):
    """A room message, and what it is serialised."""

    message: Mapping[str, Any]
    payload: bytes
    #: Its idempotency key.
    once: str | None = None


class SyncPublisher:
    """Publishes room messages as one `RedisPubSubChannelLayer` would; for any number of threads."""

    def __init__(self, pools: Sequence[Any], prefix: str, calls: Calls | None) -> None:
        #: On the history layer.
        self._calls = calls
        self._idle = [IdleConnections(pool) for pool in pools]
        self._prefix = prefix

    @staticmethod
    def fit(layer: Any) -> SyncPublisher | None:
        """The publisher of a layer, or None where the layer is of another kind, or configured in a way unknown here."""
        # Of the stock class only itself: a subclass may send otherwise.
        if type(layer) is not RedisPubSubChannelLayer and type(layer) is not RoomsRedisChannelLayer:
            return None
        return _publishers.of(layer)

    def send(self, *sends: Send) -> None:
        """Send messages to their rooms, in order; on one Redis in one round trip. Raises what redis-py raises."""
        commands: dict[IdleConnections, list[Command]] = {}
        for send in sends:
            call = None
            if self._calls is not None:
                call = as_call(self._calls, send.message, send.payload, once=send.once)
            if call is not None:
                commands.setdefault(self._idle[0], []).append(call)
                continue
            for room in send.message["rooms"]:
                channel = f"{self._prefix}__group__{group_name(room)}"
                idle = self._idle[_consistent_hash(channel, len(self._idle))]
                commands.setdefault(idle, []).append(("PUBLISH", channel, send.payload))
        for idle, batch in commands.items():
            idle.execute(batch)

    def tick(self) -> Cursor | None:
        """A position in history, or None where there is none. Raises what redis-py raises."""
        if self._calls is None:
            return None
        return Cursor.parse(self._idle[0].execute([self._calls.tick()])[0].decode())


def _publisher(layer: Any) -> SyncPublisher | None:
    options = vars(layer).get("_kwargs", {})
    if vars(layer).get("_args") or not set(options) <= _KNOWN_OPTIONS:
        return None
    pools = [_pool(host) for host in decode_hosts(options.get("hosts"))]
    has_history = isinstance(layer, RoomsRedisChannelLayer) and layer.has_history
    calls = layer.calls if has_history else None
    return SyncPublisher(pools, options.get("prefix", "asgi"), calls)


_publishers = PerLayer(_publisher)


class IdleConnections:
    """The connections of a pool that nobody uses right now, for any number of threads.

    redis-py's own `get_connection` and `release` make half a dozen system calls around each command.
    """

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        #: With the time each was last used. `append` and `pop` are atomic.
        self._idle: list[tuple[Any, float]] = []

    def execute(self, commands: Sequence[Command]) -> list[Any]:
        """The replies to these commands, sent in one write. Raises what redis-py raises."""
        try:
            return self._execute_known(commands)
        except redis.ConnectionError:
            if not all(isinstance(command, Call) for command in commands):
                raise
            # Redis may have carried them out, and then it knows each by its uid.
            return self._execute_known(commands)

    def _execute_known(self, commands: Sequence[Command]) -> list[Any]:
        replies = self._execute([_words(command) for command in commands])
        unknown = [index for index, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if unknown:
            again = self._execute([_words(commands[index], is_known=False) for index in unknown])
            for index, reply in zip(unknown, again, strict=True):
                replies[index] = reply
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    def _execute(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        connection = self._take()
        try:
            connection.send_packed_command(connection.pack_commands(commands))
            return [_reply(connection) for _ in commands]
        except BaseException:
            # A reply that is still due must not become the answer to the next send.
            connection.disconnect()
            raise
        finally:
            self._idle.append((connection, time.monotonic()))

    def _take(self) -> Any:
        try:
            connection, used_at = self._idle.pop()
        except IndexError:
            return self._pool.make_connection()
        if time.monotonic() - used_at > _FRESH and _is_stale(connection):
            connection.disconnect()
        return connection


def _words(command: Command, *, is_known: bool = True) -> Sequence[Argument]:
    if isinstance(command, Call):
        return command.by_sha if is_known else command.by_text
    return command


def _reply(connection: Any) -> Any:
    """A reply, also where it is an error: those of the other commands are still to be read."""
    try:
        return connection.read_response()
    except redis.ResponseError as error:
        return error


def _is_stale(connection: Any) -> bool:
    """Whether Redis has closed an idle connection, or said something that nobody asked for."""
    try:
        return bool(connection.can_read())
    except (redis.RedisError, OSError):
        return True


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
