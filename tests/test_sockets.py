"""What can be done to the TCP connection under a transport: bound its buffer, and reset it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from rooms_app.servers.sockets import Tcp


class Side(asyncio.Protocol):
    """The server's side of a connection, and the client's socket."""

    client: socket.socket
    transport: asyncio.Transport

    def __init__(self) -> None:
        self.is_made = asyncio.Event()
        self.is_lost = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.is_made.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.is_lost.set()

    @property
    def send_buffer(self) -> int:
        tcp = self.transport.get_extra_info("socket")
        return int(tcp.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF))


@pytest.fixture
async def side() -> AsyncIterator[Side]:
    """A connection within this process."""
    side = Side()
    server = await asyncio.get_running_loop().create_server(lambda: side, "127.0.0.1", 0)
    async with server:
        with socket.create_connection(server.sockets[0].getsockname()) as side.client:
            side.client.setblocking(False)
            await asyncio.wait_for(side.is_made.wait(), 5)
            yield side
            side.transport.abort()


async def test_the_kernels_part_is_bounded_unless_it_is_0(side: Side) -> None:
    """Linux doubles it, for its own needs."""
    before = side.send_buffer
    tcp = Tcp(side.transport)
    tcp.bound_send_buffer(0)
    assert side.send_buffer == before
    tcp.bound_send_buffer(100_000)
    assert 100_000 <= side.send_buffer <= 200_000


async def test_a_reset_drops_what_is_unsent(side: Side) -> None:
    """The client's kernel is told so: it does not look like a normal end."""
    side.transport.write(bytes(20_000_000))
    Tcp(side.transport).reset()
    await asyncio.wait_for(side.is_lost.wait(), 5)
    with pytest.raises(ConnectionResetError):
        while True:
            await asyncio.wait_for(asyncio.get_running_loop().sock_recv(side.client, 1 << 20), 5)


async def test_after_the_end_nothing_is_done_any_more(side: Side) -> None:
    """The file descriptor may be another connection's by then."""
    tcp = Tcp(side.transport)
    side.transport.close()
    await asyncio.wait_for(side.is_lost.wait(), 5)
    await asyncio.sleep(0)
    tcp.bound_send_buffer(100_000)
    tcp.reset()
    assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(side.client, 1), 5) == b""


def test_a_transport_without_a_socket_is_left_alone() -> None:
    """Such as a pipe."""
    tcp = Tcp(asyncio.Transport())
    tcp.bound_send_buffer(100_000)
    tcp.reset()
