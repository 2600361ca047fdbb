"""The floor: a bare picows server on uvloop that writes the ready frame to each connection of a room, and no more.

    python -m benchmarks.floor PORT CONTROL_SOCKET
    python -m benchmarks.floor PORT redis://…

It has no Django, no checks and no limits. Messages come over a unix socket, which is the leanest way in: reading one
is a slice of what the publisher wrote. Each delivery is one `send`, which picows makes one system call.

With a Redis URL they come from Redis instead, one channel per room, through hiredis and nothing else: as lean as a
server can be that takes messages from other processes.
"""

from __future__ import annotations

import asyncio
import struct
import sys
from urllib.parse import urlsplit

import hiredis
import picows
import uvloop

from benchmarks.wire import room_name

_ROOM_BYTES = len(room_name(0))


class Rooms:
    """The connections of each room."""

    def __init__(self) -> None:
        self._members: dict[bytes, list[picows.WSTransport]] = {}
        #: Set where rooms come from Redis.
        self.subscriber: Subscriber | None = None

    def add(self, room: bytes, transport: picows.WSTransport) -> None:
        members = self._members.setdefault(room, [])
        if not members and self.subscriber is not None:
            self.subscriber.subscribe(room)
        members.append(transport)

    def remove(self, room: bytes, transport: picows.WSTransport) -> None:
        self._members[room].remove(transport)

    def write(self, room: bytes, text: bytes) -> None:
        kind = picows.WSMsgType.TEXT
        for transport in self._members.get(room, ()):
            transport.send(kind, text)


class Connection(picows.WSListener):
    """One socket: in the room of its path until it ends."""

    def __init__(self, rooms: Rooms, room: bytes) -> None:
        super().__init__()
        self._rooms = rooms
        self._room = room

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        self._rooms.add(self._room, transport)

    def on_ws_disconnected(self, transport: picows.WSTransport) -> None:
        self._rooms.remove(self._room, transport)


class Control(asyncio.Protocol):
    """The publisher's connection: records of `wire.floor_record`."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        position = 0
        while len(data) - position >= 4:
            (size,) = struct.unpack_from("!I", data, position)
            start = position + 4
            if len(data) - start < size:
                break
            text = start + _ROOM_BYTES
            position = start + size
            self._rooms.write(data[start:text], data[text:position])
        self._rest = data[position:]


class Subscriber(asyncio.Protocol):
    """The connection to Redis: subscribes to rooms, and never leaves one."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._reader = hiredis.Reader()
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def subscribe(self, room: bytes) -> None:
        if self._transport is not None:
            self._transport.write(hiredis.pack_command(("SUBSCRIBE", room)))

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        reader.feed(data)
        while (reply := reader.gets()) is not False:
            if reply[0] == b"message":
                self._rooms.write(reply[1], reply[2])


async def serve(port: int, control: str) -> None:
    """Serve until killed."""
    rooms = Rooms()
    loop = asyncio.get_running_loop()
    publishers: asyncio.Server | None = None
    if control.startswith("redis:"):
        address = urlsplit(control)
        _, rooms.subscriber = await loop.create_connection(lambda: Subscriber(rooms), address.hostname, address.port)
    else:
        # Kept in a name: uvloop closes a server that nobody holds.
        publishers = await loop.create_unix_server(lambda: Control(rooms), control)
    server = await picows.ws_create_server(
        lambda request: Connection(rooms, request.path.split(b"/")[2]),
        "127.0.0.1",
        port,
        backlog=2048,
    )
    await asyncio.gather(*(each.serve_forever() for each in (server, publishers) if each is not None))


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), sys.argv[2]))
