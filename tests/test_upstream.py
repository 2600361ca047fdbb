"""Faults of other libraries that rooms_app works around: each test fails when its fault is mended."""

from __future__ import annotations

import asyncio
import contextlib

from channels_redis.core import RedisChannelLayer

from tests.live import RedisServer


async def test_a_timeout_of_zero_swallows_a_cancellation() -> None:
    """Why `cancelling.end` cancels again, and `within` twice: redis-py looks for unread data under such a timeout.

    https://github.com/python/cpython/issues/134471
    """

    async def look_for_data() -> str:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0):
                await asyncio.sleep(1)
        return "goes on"

    async def cancelled_before() -> str:
        current = asyncio.current_task()
        assert current is not None
        current.cancel()
        return await look_for_data()

    assert await asyncio.create_task(cancelled_before()) == "goes on", "mended: one cancellation is enough again"


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
