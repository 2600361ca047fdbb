"""`RoomsRedisChannelLayer`: channels_redis's pub/sub layer, with a history of each room.

What it adds is for hubs and senders of rooms_app; as a channel layer it is a drop-in, and understands what stock
layers of the same prefix publish.
"""

from __future__ import annotations

import asyncio
import secrets
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from channels_redis.pubsub import RedisPubSubChannelLayer, RedisPubSubLoopLayer
from channels_redis.utils import _wrap_close, decode_hosts
from redis.exceptions import ConnectionError as RedisConnectionError

from rooms_app import envelope
from rooms_app.cursor import unstamp
from rooms_app.exceptions import InvalidRoom
from rooms_app.layers.pubsub import Published
from rooms_app.layers.scripts import Call, Calls
from rooms_app.layers.sending import as_call
from rooms_app.layers.shard import RoomsShard
from rooms_app.rooms import group_name

#: What a message to one channel of a process begins with, on the one Redis channel that all of them share.
_DIRECT = b"\xc1>"


class RoomsRedisChannelLayer(RedisPubSubChannelLayer):  # type: ignore[misc]  # untyped
    """A drop-in for `RedisPubSubChannelLayer`, with ids, history and repair for rooms.

    History needs one host, or one Sentinel master; with several hosts rooms go without it.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.prefix: str = kwargs.get("prefix", "asgi")
        self.hosts: list[dict[str, Any]] = decode_hosts(kwargs.get("hosts", args[0] if args else None))
        self.calls = Calls(self.prefix)

    @property
    def has_history(self) -> bool:
        """Whether rooms have a history: ids of several hosts would have no order."""
        return len(self.hosts) == 1

    def here(self) -> RoomsLoopLayer:
        """The layer's part in the running event loop."""
        return self._get_layer()

    def _get_layer(self) -> RoomsLoopLayer:
        loop = asyncio.get_running_loop()
        layer: RoomsLoopLayer | None = self._layers.get(loop)
        if layer is None:
            layer = self._layers[loop] = RoomsLoopLayer(*self._args, **self._kwargs, channel_layer=self)
            _wrap_close(self, loop)
        return layer


class RoomsLoopLayer(RedisPubSubLoopLayer):  # type: ignore[misc]  # untyped
    """The layer in one event loop."""

    def __init__(self, hosts: Any = None, **kwargs: Any) -> None:
        super().__init__(hosts=hosts, **kwargs)
        self._shards = [RoomsShard(host, self) for host in decode_hosts(hosts)]
        #: The Redis channel that all of this loop's own channels share.
        self._process_channel = f"{self.prefix}__process__{secrets.token_hex(8)}"
        #: Who takes what is published on which Redis channel, past the queues of channels: the hub.
        self._takers: dict[bytes, Callable[[Sequence[Published]], None]] = {}

    @property
    def shard(self) -> RoomsShard:
        """The one host that history needs."""
        shard: RoomsShard = self._shards[0]
        return shard

    # Channels' own API, where it differs from channels_redis's

    async def new_channel(self, prefix: str = "specific.") -> str:
        channel = f"{self.prefix}{prefix}{uuid.uuid4().hex}!{self._process_channel.rpartition('__')[2]}"
        self.channels[channel] = asyncio.Queue()
        try:
            await self._get_shard(self._process_channel).subscribe(self._process_channel)
        except BaseException:
            self.channels.pop(channel, None)
            raise
        return channel

    async def send(self, channel: str, message: Any) -> None:
        payload = self.channel_layer.serialize(message)
        name, is_direct, process = channel.rpartition("!")
        if is_direct and name:
            process_channel = f"{self.prefix}__process__{process}"
            payload = _DIRECT + channel.encode() + b"\n" + payload
            await self._get_shard(process_channel).publish(process_channel, payload)
        else:
            await self._get_shard(channel).publish(channel, payload)

    async def group_send(self, group: str, message: Any) -> None:
        if _is_for_room(group, message):
            await self.send_to_rooms(message)
        else:
            await super().group_send(group, message)

    async def send_to_rooms(self, message: Mapping[str, Any], *, once: str | None = None) -> None:
        """Send a `room.message` to all of its rooms at once, into their histories too; once for each key."""
        payload = self.channel_layer.serialize(message)
        if self.channel_layer.has_history:
            call = as_call(self.channel_layer.calls, message, payload, once=once)
            if call is not None:
                await self._call_again_if_lost(call)
                return
        for room in message["rooms"]:
            channel = self._get_group_channel_name(group_name(room))
            await self._get_shard(channel).publish(channel, payload)

    async def _call_again_if_lost(self, call: Call) -> None:
        try:
            await self.shard.call(call)
        except RedisConnectionError:
            # Redis may have carried it out, and then it knows it by its uid.
            await self.shard.call(call)

    # What the hub takes for itself

    async def take(self, group: str, taker: Callable[[Sequence[Published]], None]) -> None:
        """Have a group's messages told to the taker; returns when Redis has confirmed the subscription."""
        channel = self._get_group_channel_name(group)
        self._takers[channel.encode()] = taker
        try:
            await self._get_shard(channel).subscribe(channel)
        except BaseException:
            await self.release(group)
            raise

    async def release(self, group: str) -> None:
        """Have a group's messages told no more."""
        channel = self._get_group_channel_name(group)
        self._takers.pop(channel.encode(), None)
        if channel not in self.groups:
            await self._get_shard(channel).unsubscribe(channel)

    async def group_discard(self, group: str, channel: str) -> None:
        group_channel = self._get_group_channel_name(group)
        members = self.groups.get(group_channel, set())
        members.discard(channel)
        if members or self.groups.pop(group_channel, None) is None:
            return
        if group_channel.encode() not in self._takers:
            await self._get_shard(group_channel).unsubscribe(group_channel)

    def published(self, published: Sequence[Published]) -> None:
        """Hand on what one read brought, in order."""
        taken: list[Published] = []
        taker: Callable[[Sequence[Published]], None] | None = None
        for item in published:
            mine = self._takers.get(item[0])
            if mine is not None:
                taker = mine
                taken.append(item)
            if mine is None or self.groups:
                self._put(*item)
        if taker is not None:
            taker(taken)

    def _put(self, name: bytes, data: bytes) -> None:
        """Into the queues of this loop's channels, as channels_redis does."""
        channel = name.decode()
        if channel == self._process_channel:
            if data.startswith(_DIRECT):
                target, _, payload = data[len(_DIRECT) :].partition(b"\n")
                self._queue(target.decode(), payload)
        elif channel in self.channels:
            self._queue(channel, data)
        else:
            for member in self.groups.get(channel, ()):
                self._queue(member, unstamp(data).payload)

    def _queue(self, channel: str, payload: bytes) -> None:
        queue = self.channels.get(channel)
        if queue is not None:
            queue.put_nowait(payload)


def _is_for_room(group: str, message: Any) -> bool:
    """Whether this is a room's message, on its way to that room; one that goes elsewhere is as any other."""
    if not isinstance(message, dict) or message.get("type") != envelope.ROOM_MESSAGE:
        return False
    received = envelope.parse(message)
    try:
        return received is not None and received.uid is not None and group in map(group_name, received.rooms)
    except InvalidRoom:
        return False
