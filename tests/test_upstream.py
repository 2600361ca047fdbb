"""Faults of other libraries that rooms_app works around: each test fails when its fault is mended."""

from __future__ import annotations

import asyncio
import contextlib

from channels_redis.core import RedisChannelLayer
from redis.asyncio import ConnectionPool, Redis

from rooms_app.cancelling import end
from tests.live import RedisServer


async def test_redis_py_loses_cancellations(redis_server: RedisServer) -> None:
    """Why `cancelling.end` cancels again: https://github.com/python/cpython/issues/134471"""
    lost = 0
    for steps in range(100):
        client = Redis(connection_pool=ConnectionPool.from_url(redis_server.url))

        async def read_for_ever(client: Redis = client) -> None:
            while True:
                await client.get("nothing")

        task = asyncio.create_task(read_for_ever())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=0.1)
        lost += not done
        await end(task)
        await client.aclose()
    assert lost > 0, "mended: a single task.cancel() is enough again"


async def test_the_classic_layer_keeps_the_buffer_of_a_cancelled_receive(redis_server: RedisServer) -> None:
    """Why the hub drops its own: https://github.com/django/channels_redis/pull/426"""
    layer = RedisChannelLayer(hosts=[{"address": redis_server.url, "socket_timeout": 15}], prefix="upstream")
    channel = await layer.new_channel()
    receiver = asyncio.create_task(layer.receive(channel))
    while not await _is_reading(redis_server):
        await asyncio.sleep(0.01)
    receiver.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await receiver
    assert channel in layer.receive_buffer, "mended: the buffer goes with the receive"
    await layer.flush()


async def _is_reading(server: RedisServer) -> bool:
    clients = await asyncio.to_thread(server.client.client_list)
    return any(client["cmd"] == "bzpopmin" for client in clients)
