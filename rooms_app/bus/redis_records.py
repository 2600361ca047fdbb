"""What makes Redis a broker that loses nothing: each bus message in a queue is on record.

Celery's transport takes a message from its queue (BRPOP), and notes in a second command that this worker has it. A
worker that dies between the two takes the message along: https://github.com/celery/celery/issues/4354. So whoever puts
a message into a queue, to publish it or to give it back, writes that note ahead, under the tag by which the worker then
overwrites and at last deletes it. What is in no queue, and noted by nobody else, was taken by one that died:
`redis_recovery` puts it back.
"""

from __future__ import annotations

import json
import time
from typing import Any

from kombu import Connection
from kombu.connection import ConnectionPool, PooledConnection
from kombu.transport import redis as stock
from kombu.utils.json import dumps

from rooms_app.bus.delivery import TASK

#: How far ahead of its time such a note is, in seconds, some 63 years: the transport, which puts back what was noted
#: long ago, never looks at it.
AHEAD = 2e9


class RecordsMessages:
    """A channel whose bus messages are on record before anybody takes them; of others they need not be."""

    def _put(self: Any, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        if kwargs.get("_publish_batch") is not None or not self._is_recorded(message):
            super()._put(queue, message, **kwargs)  # type: ignore[misc]
            return
        expires = getattr(self, "_expires", {}).get(queue)
        with self.conn_or_acquire() as client, client.pipeline() as pipe:
            pipe.lpush(list_name(self, queue, message), dumps(message))
            self._note(pipe, queue, message)
            for priority in self.priority_steps if expires else ():
                pipe.pexpire(self._q_for_pri(queue, priority), expires)
            pipe.execute()

    def _do_restore_message(
        self: Any, payload: dict[str, Any], exchange: str, routing_key: str, pipe: Any, leftmost: bool = False
    ) -> None:
        # Within the transaction that takes it off the record of the worker that had it.
        super()._do_restore_message(payload, exchange, routing_key, pipe, leftmost)  # type: ignore[misc]
        if self._is_recorded(payload):
            for queue in self._lookup(exchange, routing_key):
                self._note(pipe, queue, payload)

    def _is_recorded(self: Any, message: dict[str, Any]) -> bool:
        return bool(self.ack_emulation and message.get("headers", {}).get("task") == TASK)

    def _note(self: Any, pipe: Any, queue: str, message: dict[str, Any]) -> None:
        tag = message["properties"]["delivery_tag"]
        # As the transport writes it: message, exchange, routing key. The default exchange leads to this queue.
        pipe.hset(self.unacked_key, tag, f'[{dumps(message)}, "", {json.dumps(queue)}]')
        pipe.zadd(self.unacked_index_key, {tag: time.time() + AHEAD})


class RecordingChannel(RecordsMessages, stock.Channel):
    """One of a Redis."""


class RecordingSentinelChannel(RecordsMessages, stock.SentinelChannel):
    """One of a Redis that Sentinel tells of."""


class RecordingTransport(stock.Transport):
    """The transport with such channels."""

    Channel = RecordingChannel


class RecordingSentinelTransport(stock.SentinelTransport):
    """The same with Sentinel."""

    Channel = RecordingSentinelChannel


_RECORDING: dict[Any, Any] = {stock.Transport: RecordingTransport, stock.SentinelTransport: RecordingSentinelTransport}


class _Records:
    """A connection with such a transport on a Redis; all else is as in any connection."""

    # Not its argument `transport`: where the URL names one as well, and after a failover, that is not heeded.
    def get_transport_cls(self) -> Any:
        transport = super().get_transport_cls()  # type: ignore[misc]
        return _RECORDING.get(transport, transport)


class RecordingConnection(_Records, Connection):
    """One that workers read by."""


class _PooledRecordingConnection(_Records, PooledConnection):
    """One to publish by."""


class RecordingPool(ConnectionPool):
    """A pool of connections to publish by."""

    def new(self) -> Any:
        """One more, like the one that the pool was made of."""
        return _PooledRecordingConnection(self, **self.connection.info())


def list_name(channel: Any, queue: str, message: dict[str, Any]) -> str:
    """The name of the Redis list that a message is in: a queue has one for each priority."""
    return str(channel._q_for_pri(queue, channel._get_message_priority(message, reverse=False)))
