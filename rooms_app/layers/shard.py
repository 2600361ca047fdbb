"""One Redis of the layer: commands over a pool, subscriptions over a connection of our own, made again when lost."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from typing import Any

from channels_redis.pubsub import RedisSingleShardConnection
from channels_redis.utils import _close_redis, create_pool
from redis import asyncio as aioredis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from rooms_app.cancelling import end, within
from rooms_app.exceptions import explain
from rooms_app.layers.commands import CommandConnection
from rooms_app.layers.pubsub import Published, PubSubConnection
from rooms_app.layers.scripts import Call

logger = logging.getLogger(__name__)

#: How long connecting may take, and a command, in seconds, where the project's hosts don't say.
_CONNECT_TIMEOUT = 1.0
_COMMAND_TIMEOUT = 2.0
#: The whole of connecting and subscribing again.
_OPEN_TIMEOUT = 5.0
_MIN_PAUSE = 0.02
_MAX_PAUSE = 2.0


class RoomsShard(RedisSingleShardConnection):  # type: ignore[misc]  # untyped
    """What channels_redis's class does, but that commands and subscriptions don't wait for one another.

    Subscribing returns when Redis has confirmed, and a lost subscribed connection is told.
    """

    def __init__(self, host: dict[str, Any], channel_layer: Any) -> None:
        super().__init__(_with_timeouts(host), channel_layer)
        self._redis: Any = None
        #: The pool that makes the subscribed connections.
        self._pubsub: Any = None
        self._subscribed_to: set[str] = set()
        self._connection: PubSubConnection | None = None
        self._ended: list[PubSubConnection] = []
        self._commands: CommandConnection | None = None
        self._opening = asyncio.Lock()
        self._supervisor: asyncio.Task[None] | None = None
        #: Subscriptions that wait for the first connection, or the next.
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}
        #: Told that the subscribed connection is lost, and that another one has all subscriptions again.
        self._on_lost: Callable[[], None] = _nothing
        self._on_open: Callable[[], None] = _nothing

    @property
    def is_open(self) -> bool:
        """Whether the subscribed connection stands, with all its subscriptions."""
        return self._connection is not None

    @property
    def is_behind(self) -> bool:
        """Whether more has been published than was read."""
        return self._connection is not None and self._connection.is_behind

    def tell(self, *, lost: Callable[[], None] | None = None, opened: Callable[[], None] | None = None) -> None:
        """Whom to tell from now on of a lost connection, and of one that has all subscriptions again; or nobody."""
        self._on_lost, self._on_open = lost or _nothing, opened or _nothing

    async def publish(self, channel: str, message: bytes) -> None:
        await self.command("PUBLISH", channel, message)

    async def command(self, *words: Any) -> Any:
        """Redis's reply. Raises what redis-py raises."""
        commands = self._commands
        if commands is None or commands.is_lost:
            commands = await self._open_commands()
        if commands is not None:
            return await commands.call(words)
        return await self._redis.execute_command(*words)

    async def call(self, call: Call) -> Any:
        """What a script returns. Raises what redis-py raises."""
        try:
            return await self.command(*call.by_sha)
        except NoScriptError:
            return await self.command(*call.by_text)

    async def subscribe(self, channel: str) -> None:
        if channel in self._subscribed_to:
            return
        connection = self._connection
        if connection is not None:
            try:
                await connection.subscribe([channel])
            except ConnectionError:
                if not connection.is_lost:
                    raise
            else:
                if connection is self._connection:
                    self._subscribed_to.add(channel)
                    return
        await self._subscribe_when_open(channel)

    async def unsubscribe(self, channel: str) -> None:
        if channel not in self._subscribed_to:
            return
        self._subscribed_to.discard(channel)
        if self._connection is not None:
            try:
                await self._connection.unsubscribe([channel])
            except ConnectionError:
                # Not subscribed any more either way.
                return

    async def ping(self) -> None:
        """Return once everything published before is told. Raises `ConnectionError`."""
        if self._connection is None:
            raise ConnectionError("There is no subscribed connection.")
        await self._connection.ping()

    def reconnect(self) -> None:
        """Give both connections up: Redis does not answer, or is another than it was."""
        if self._commands is not None:
            self._commands.abandon()
        connection = self._connection
        if connection is not None:
            connection.close()
            self._lost(connection)

    async def flush(self) -> None:
        if self._supervisor is not None:
            await end(self._supervisor)
            self._supervisor = None
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
            self._ended.append(connection)
        await self._dispose_ended()
        self._fail_waiting(ConnectionError("The layer was flushed."))
        if self._commands is not None:
            await self._commands.close()
            self._commands = None
        if self._redis is not None:
            await _close_redis(self._redis)
            self._redis = self._pubsub = None
        self._subscribed_to = set()

    async def _open_commands(self) -> CommandConnection | None:
        async with self._opening:
            if self._commands is None or self._commands.is_lost:
                ended, self._commands = self._commands, None
                if ended is not None:
                    await ended.close()
                self._ensure_redis()
                timeout = self.host.get("socket_timeout") or _COMMAND_TIMEOUT
                self._commands = await CommandConnection.open(self._make_connection(), timeout=timeout)
            return self._commands

    async def _subscribe_when_open(self, channel: str) -> None:
        answer = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(channel, []).append(answer)
        self._ensure_receiver()
        try:
            await answer
        finally:
            answers = self._waiting.get(channel, [])
            if answer in answers:
                answers.remove(answer)
                if not answers:
                    del self._waiting[channel]

    def _ensure_redis(self) -> None:
        if self._redis is None:
            self._redis = aioredis.Redis(connection_pool=create_pool(self.host))

    def _ensure_receiver(self) -> None:
        self._ensure_redis()
        if self._connection is None and (self._supervisor is None or self._supervisor.done()):
            self._supervisor = asyncio.get_running_loop().create_task(self._open(), name="rooms-subscribe")

    async def _open(self) -> None:
        """Connect until it succeeds and all subscriptions stand."""
        await self._dispose_ended()
        pause = _MIN_PAUSE
        while self._subscribed_to or self._waiting:
            connection = PubSubConnection(on_published=self._published, on_lost=self._lost)
            try:
                async with within(_OPEN_TIMEOUT):
                    await connection.open(self._make_connection())
                    await self._subscribe_all(connection)
            except (RedisError, OSError, TimeoutError, ConnectionError) as error:
                connection.close()
                await connection.dispose()
                if pause == _MIN_PAUSE:
                    logger.warning("can't subscribe on Redis, trying again: %s", explain(error))
                self._fail_waiting(error)
                await asyncio.sleep(random.uniform(pause / 2, pause))
                pause = min(pause * 2, _MAX_PAUSE)
            except BaseException:
                connection.close()
                await connection.dispose()
                raise
            else:
                return

    async def _subscribe_all(self, connection: PubSubConnection) -> None:
        """Subscribe to what stood before, and to what is waited for, until nothing is left; then it is ours."""
        confirmed: set[str] = set()
        while missing := (self._subscribed_to | self._waiting.keys()) - confirmed:
            await connection.subscribe(missing)
            confirmed |= missing
        if connection.is_lost:
            raise ConnectionError("The connection to Redis was lost.")
        self._connection = connection
        waiting, self._waiting = self._waiting, {}
        for channel, answers in waiting.items():
            self._subscribed_to.add(channel)
            for answer in answers:
                if not answer.done():
                    answer.set_result(None)
        surplus = confirmed - self._subscribed_to
        if surplus:
            await connection.unsubscribe(surplus)
        self._on_open()

    def _lost(self, connection: PubSubConnection) -> None:
        if connection is not self._connection:
            return
        self._connection = None
        self._ended.append(connection)
        self._on_lost()
        self._ensure_receiver()

    async def _dispose_ended(self) -> None:
        ended, self._ended = self._ended, []
        for connection in ended:
            await connection.dispose()

    def _published(self, published: Sequence[Published]) -> None:
        self.channel_layer.published(published)

    def _make_connection(self) -> Any:
        # A pool of its own, so that closing the commands' pool does not cut the subscriptions. RESP2: a PING is
        # answered in order there, and pushes need no second kind of reply.
        if self._pubsub is None:
            # Kept: a Sentinel's connection asks its pool for the master.
            self._pubsub = create_pool({**self.host, "protocol": 2})
        return self._pubsub.make_connection()

    def _fail_waiting(self, error: Exception) -> None:
        waiting, self._waiting = self._waiting, {}
        for answers in waiting.values():
            for answer in answers:
                if not answer.done():
                    answer.set_exception(ConnectionError(repr(error)))


def _with_timeouts(host: dict[str, Any]) -> dict[str, Any]:
    """A host's options with timeouts, and without redis-py's retries: one slow script ran eleven times by them."""
    return {
        "socket_connect_timeout": _CONNECT_TIMEOUT,
        "socket_timeout": _COMMAND_TIMEOUT,
        **host,
        "retry": Retry(NoBackoff(), 0),
    }


def _nothing() -> None:
    """Nobody wants to know."""
