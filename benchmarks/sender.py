"""The sending side, a process of its own, so that its CPU is not the servers'.

    python -m benchmarks.sender rooms|stock|floor|floor-redis NUMBER [CONTROL_SOCKET …]

It sends through the real API of its system, one message after the other, as fast as that goes or at a steady rate.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from benchmarks.wire import floor_record, rooms_overhead, rooms_text, stamp, stock_overhead

#: To so many rooms a burst is sent at once.
_AT_ONCE = 20

#: Sends a message to a room, given its number in that room.
Send = Callable[[str, int], Awaitable[None]]


def rooms_send(sender: int) -> Send:
    """`message.send(room)` of rooms_app."""
    _set_up_django()
    from benchmarks.app.messages import BenchMessage

    overhead = rooms_overhead(has_id=os.environ["BENCH_LAYER"] == "rooms")

    async def send(room: str, number: int) -> None:
        # A failed send must show as such, not as a message lost on the way.
        await BenchMessage(content=stamp(number, sender=sender, overhead=overhead)).send(room, robust=False)

    return send


def stock_send(sender: int) -> Send:
    """`group_send` of the channel layer, as the tutorial's consumer calls it."""
    _set_up_django()
    from channels.layers import get_channel_layer

    layer = get_channel_layer()
    overhead = stock_overhead()

    async def send(room: str, number: int) -> None:
        message = {"type": "chat.message", "message": stamp(number, sender=sender, overhead=overhead)}
        await layer.group_send(f"chat_{room}", message)

    return send


def floor_send(sender: int, controls: list[str]) -> Send:
    """A record into the unix socket of each server."""
    connections = []
    for control in controls:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(control)
        connections.append(connection)
    overhead = rooms_overhead()

    async def send(room: str, number: int) -> None:
        record = floor_record(room, rooms_text(room, stamp(number, sender=sender, overhead=overhead)))
        for connection in connections:
            connection.sendall(record)

    return send


def floor_redis_send(sender: int) -> Send:
    """A bare `publish` of the text."""
    import redis

    client = redis.Redis.from_url(os.environ["REDIS_URL"])
    overhead = rooms_overhead()

    async def send(room: str, number: int) -> None:
        client.publish(room, rooms_text(room, stamp(number, sender=sender, overhead=overhead)))

    return send


class Sender:
    """Sends runs of messages."""

    def __init__(self, send: Send) -> None:
        self._send = send

    async def burst(self, *, rooms: list[str], messages: int) -> dict[str, Any]:
        """Send so many messages to each of the rooms in turn; to a room each as soon as the one before is sent."""
        send = self._send
        began, cpu = time.monotonic_ns(), time.process_time()
        for number in range(messages):
            for start in range(0, len(rooms), _AT_ONCE):
                page = rooms[start : start + _AT_ONCE]
                if len(page) == 1:
                    await send(page[0], number)
                else:
                    await asyncio.gather(*(send(room, number) for room in page))
        seconds = (time.monotonic_ns() - began) / 1e9
        cpu = time.process_time() - cpu
        return {"sends": messages * len(rooms), "began_ns": began, "seconds": seconds, "cpu_seconds": cpu}

    async def steady(self, *, room: str, messages: int, rate: float) -> dict[str, Any]:
        """Send so many messages to a room, so many per second."""
        began, cpu = time.monotonic_ns(), time.process_time()
        for number in range(messages):
            await asyncio.sleep((began + number / rate * 1e9 - time.monotonic_ns()) / 1e9)
            await self._send(room, number)
        seconds = (time.monotonic_ns() - began) / 1e9
        cpu = time.process_time() - cpu
        return {"sends": messages, "began_ns": began, "seconds": seconds, "cpu_seconds": cpu}


def _set_up_django() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.app.settings")
    import django

    django.setup()


async def _serve(sender: Sender) -> None:
    """As `processes.serve_commands`, in the event loop that the channel layer's connection lives in."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        name, arguments = json.loads(line)
        try:
            answer = await getattr(sender, name)(**arguments)
        except Exception as error:
            answer = {"error": repr(error)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    kind, own_number, *controls = sys.argv[1:]
    kinds = {
        "rooms": rooms_send,
        "stock": stock_send,
        "floor": partial(floor_send, controls=controls),
        "floor-redis": floor_redis_send,
    }
    asyncio.run(_serve(Sender(kinds[kind](int(own_number)))))
