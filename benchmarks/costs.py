"""Scenario F: what a send costs in a plain script, beside a bare `publish` of the same bytes in the same process.

    python -m benchmarks.costs 300

Prints a JSON object: the median time and CPU of each way to send, in µs. Nobody listens, so it is the senders'
cost alone.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from benchmarks.figures import percentile
from benchmarks.wire import room_name, rooms_overhead, stamp, stock_overhead

#: The ways alternate after so many sends: what disturbs the machine disturbs all.
_BLOCK = 20


def measure(sends: int) -> dict[str, dict[str, float]]:
    """The cost of each way to send, by its name."""
    import django

    django.setup()
    import redis
    from asgiref.sync import async_to_sync
    from channels.layers import get_channel_layer

    from benchmarks.app.messages import BenchMessage
    from rooms_app import envelope, group_name

    room = room_name(0)
    layer: Any = get_channel_layer()
    client = redis.Redis.from_url(os.environ["REDIS_URL"])

    def message() -> BenchMessage:
        return BenchMessage(content=stamp(0, overhead=rooms_overhead()))

    payload = layer.serialize(envelope.room_message([room], envelope.encode(message())))
    channel = f"bench__group__{group_name(room)}"
    stock = {"type": "chat.message", "message": stamp(0, overhead=stock_overhead())}
    group_send = async_to_sync(layer.group_send)
    ways: dict[str, Callable[[], object]] = {
        "publish": lambda: client.publish(channel, payload),
        "send_sync": lambda: message().send_sync(room),
        "stock async_to_sync(group_send)": lambda: group_send(f"chat_{room}", stock),
    }
    times: dict[str, list[float]] = {name: [] for name in (*ways, "send", "stock group_send")}
    cpu: dict[str, list[float]] = {name: [] for name in times}
    with asyncio.Runner() as runner:
        coroutines: dict[str, Callable[[], Any]] = {
            "send": lambda: message().send(room),
            "stock group_send": lambda: layer.group_send(f"chat_{room}", stock),
        }

        async def block(name: str) -> None:
            for _ in range(_BLOCK):
                began, used = time.perf_counter_ns(), time.process_time_ns()
                await coroutines[name]()
                _note(times[name], cpu[name], began, used)

        # The first round connects, and is not counted.
        for round_ in range(sends // _BLOCK + 1):
            for name, way in ways.items():
                for _ in range(_BLOCK):
                    began, used = time.perf_counter_ns(), time.process_time_ns()
                    way()
                    _note(times[name], cpu[name], began, used)
            for name in coroutines:
                runner.run(block(name))
            if round_ == 0:
                for series in (*times.values(), *cpu.values()):
                    series.clear()
    return {
        name: {
            "p50_us": percentile(times[name], 0.5),
            "p99_us": percentile(times[name], 0.99),
            "cpu_us": median(cpu[name]),
        }
        for name in times
    }


def _note(times: list[float], cpu: list[float], began: int, used: int) -> None:
    times.append((time.perf_counter_ns() - began) / 1e3)
    cpu.append((time.process_time_ns() - used) / 1e3)


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))
