"""Out to the channel layer: one `group_send` per room, whatever the layer."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any
from weakref import WeakKeyDictionary

from channels.exceptions import ChannelFull
from channels.layers import InMemoryChannelLayer, get_channel_layer

from rooms_app.cancelling import within
from rooms_app.conf import rooms_settings
from rooms_app.exceptions import RoomsConfigurationError
from rooms_app.hub import hubs
from rooms_app.layers import RoomsRedisChannelLayer
from rooms_app.rooms import group_name

#: More sends at once than this wait for their turn: redis-py's pool refuses what exceeds its 100 connections.
_AT_ONCE = 64
_gates: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()


def channel_layer() -> Any:
    """The channel layer that carries the rooms. Raises `RoomsConfigurationError` where there is none."""
    alias = rooms_settings().channel_layer
    layer = get_channel_layer(alias)
    if layer is None:
        raise RoomsConfigurationError(f"CHANNEL_LAYERS has no {alias!r}: rooms need a channel layer.")
    return layer


def gate() -> asyncio.Semaphore:
    """What a send passes, so that a thousand at once neither fail nor open a thousand connections."""
    loop = asyncio.get_running_loop()
    if loop not in _gates:
        _gates[loop] = asyncio.Semaphore(_AT_ONCE)
    return _gates[loop]


async def group_send(layer: Any, message: dict[str, Any], *, once: str | None = None) -> None:
    """Send a room message to the group of each of its rooms, within `send_timeout`."""
    async with within(rooms_settings().send_timeout):
        if isinstance(layer, RoomsRedisChannelLayer):
            await layer.here().send_to_rooms(message, once=once)
            return
        for room in message["rooms"]:
            if type(layer) is InMemoryChannelLayer:
                await _send_in_memory(layer, group_name(room), message)
            else:
                await layer.group_send(group_name(room), message)


async def _send_in_memory(layer: InMemoryChannelLayer, group: str, message: dict[str, Any]) -> None:
    """`group_send`, but safe across event loops: each hub's queue is filled in the hub's own loop."""
    loops = {hub.channel: hub.loop for hub in hubs() if hub.layer is layer}
    here = asyncio.get_running_loop()
    for channel in tuple(layer.groups.get(group, ())):
        send = _send_unless_full(layer, channel, message)
        loop = loops.get(channel, here)
        if loop is here:
            await send
        else:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(send, loop))


def _send_unless_full(layer: InMemoryChannelLayer, channel: str, message: dict[str, Any]) -> Coroutine[Any, Any, None]:
    async def send() -> None:
        try:
            await layer.send(channel, message)
        except ChannelFull:
            # As the layer's own group_send: what exceeds the capacity is dropped.
            return

    return send()
