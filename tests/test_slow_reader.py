"""A client that stops reading costs its neighbours nothing, and the server little, for a short time."""

from __future__ import annotations

import asyncio
import hashlib
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import websockets

from tests.outlets import (
    CLOSE,
    DEFLATE,
    KINDS,
    Neighbour,
    OutletServer,
    RawClient,
    TlsServer,
    neighbours,
    notes,
    serving,
)
from tests.waiting import until

MAX_UNSENT = 262_144
GRACE = 2.0
BOUNDS: dict[str, Any] = {
    "max_unsent_bytes": MAX_UNSENT,
    "max_unsent_messages": 100_000,
    "slow_grace": GRACE,
}
#: The server's own buffer, one joined write, and change.
MOST_UNSENT = MAX_UNSENT + 64 * 1024 + 256 * 1024 + 64 * 1024


@dataclass(frozen=True)
class Way:
    """A server, and what makes its slow client take one path or the other."""

    kind: str
    path: str
    headers: str = ""
    is_tls: bool = False

    def __str__(self) -> str:
        return f"{self.kind}-{self.path}{'-tls' if self.is_tls else ''}{'-deflate' if self.headers else ''}"


#: daphne's portable path is not among them: behind its `send` nobody sees what waits.
WAYS = [
    Way("daphne", "daphne"),
    Way("uvicorn", "uvicorn"),
    Way("uvicorn", "asgi", headers=DEFLATE),
]
with_ways = pytest.mark.parametrize("way", [*WAYS, Way("uvicorn", "asgi", is_tls=True)], ids=str)


@pytest.fixture
def server(way: Way, tmp_path: Path) -> Iterator[OutletServer]:
    """A server with small bounds, whose log must be free of errors at the end."""
    kind = TlsServer if way.is_tls else OutletServer
    with serving(kind(way.kind, directory=tmp_path, **BOUNDS)) as running:
        yield running
        assert running.complaints() == []


def stalled_client(server: OutletServer, way: Way, path: str = "/rooms/r") -> RawClient:
    """A client that does not read, with as little room in the kernel as it gives."""
    return RawClient(server, path, headers=way.headers, is_tls=way.is_tls, receive_buffer=4096)


def numbers_of(client: RawClient, way: Way) -> tuple[list[int], int, str]:
    """The numbers of the notes that a client still gets, then the close code and reason."""
    if not way.headers:
        messages, code, reason = client.until_close()
        return [message["message"]["number"] for message in messages], code, reason
    inflate, numbers = zlib.decompressobj(-15), []
    while True:
        opcode, payload = client.frame()
        if opcode == CLOSE:
            return numbers, int.from_bytes(payload[:2], "big"), payload[2:].decode()
        text = inflate.decompress(payload + b"\x00\x00\xff\xff")
        numbers.append(int(text.partition(b'"number":')[2].partition(b",")[0]))


def overflow(server: OutletServer) -> tuple[int, float]:
    """Send to the room until its stalled client is closed: how many notes, and a time before which it was not."""
    sent, before = 0, time.monotonic()
    while server.state()["slow"] == 0:
        before = time.monotonic()
        server.send("r", first=sent, count=20, size=8000)
        sent += 20
        assert sent < 10_000
    return sent, before


@with_ways
def test_who_never_reads_is_reset_and_leaves(server: OutletServer, way: Way) -> None:
    """The application ends, the rooms are left, and what was unsent is freed, all soon after the grace."""
    with stalled_client(server, way) as stalled:
        assert server.wait_for("the join", connections=1)["counts"][f"path_{way.path}"] == 1
        _, before = overflow(server)
        assert server.state()["unsent"] <= MOST_UNSENT
        assert stalled.is_reset(timeout=GRACE + 5)
        assert time.monotonic() - before >= GRACE, "reset too early: a client was promised so long to read"
        state = server.wait_for("it to leave", connections=0, running=0, rooms=[])
        assert state["closings"] == [4008]
        assert state["transports"] == 0


@with_ways
def test_who_reads_again_in_time_finds_the_close_behind_all_that_was_unsent(server: OutletServer, way: Way) -> None:
    """In order, with no gap: what came after is what it missed. Then it closes normally."""
    with stalled_client(server, way) as stalled:
        server.wait_for("the join", connections=1)
        sent, _ = overflow(server)
        numbers, code, reason = numbers_of(stalled, way)
        assert (code, reason) == (4008, "slow")
        assert numbers == list(range(len(numbers)))
        assert 0 < len(numbers) <= sent
        stalled.send(CLOSE, code.to_bytes(2, "big"))
        if way.kind == "uvicorn":
            # No second close frame, and no reset.
            assert stalled.rest() == b""
        state = server.wait_for("it to leave", connections=0, running=0, rooms=[])
        assert state["closings"] == [4008]


async def arrived(clients: list[Neighbour], length: int) -> None:
    """Wait until each of them has so many bytes."""
    await until(lambda: all(client.received >= length for client in clients), what="a burst", timeout=30)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS, ids=str)
async def test_two_hundred_neighbours_lose_nothing(server: OutletServer, way: Way) -> None:
    """Each gets every byte, in order; the library's clients agree; the stalled one is closed meanwhile."""
    size, bursts, burst = 4000, 60, 15
    async with neighbours(server, "/rooms/r", 200) as others:
        reader = await websockets.connect(f"{server.ws_url}/rooms/r", compression=None)
        with stalled_client(server, way) as stalled:
            await server.soon("the joins", connections=202)
            expected = hashlib.sha256()
            length = most = 0
            for number in range(bursts):
                # Together, as requests of several users would be.
                first = number * burst
                await asyncio.to_thread(server.send, "r", first=first, count=burst, size=size)
                wire = notes("r", first=first, count=burst, size=size)
                expected.update(wire)
                length += len(wire)
                await arrived(others, length)
                most = max(most, (await asyncio.to_thread(server.state))["unsent"])
                for each in range(burst):
                    assert f'"number":{first + each},' in await reader.recv()
            assert {each.digest.digest() for each in others} == {expected.digest()}
            assert not any(each.is_lost for each in others)
            assert most <= MOST_UNSENT
            assert await asyncio.to_thread(stalled.is_reset, GRACE + 10)
            state = await server.soon("the stalled one to leave", connections=201, running=201)
            assert state["closings"] == [4008]
        await reader.close()


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS, ids=str)
async def test_memory_stays_bounded(server: OutletServer, way: Way) -> None:
    """Over 100 MB to a room where one after the other stops reading: none of it is kept for them."""
    size, burst, bursts = 60_000, 4, 450
    async with neighbours(server, "/rooms/r", 3) as others:
        stalled: list[RawClient] = []
        length = before = 0
        try:
            for number in range(bursts):
                if number % 15 == 5:
                    stalled.append(stalled_client(server, way))
                first = number * burst
                await asyncio.to_thread(server.send, "r", first=first, count=burst, size=size)
                length += len(notes("r", first=first, count=burst, size=size))
                await arrived(others, length)
                # What a process that has just started allocates once is none of this.
                before = before or server.state()["rss"]
            growth = server.state()["rss"] - before
        finally:
            for client in stalled:
                client.reset()
        assert length > 100_000_000
        assert growth < 64_000_000
        await server.soon("the stalled ones to leave", connections=3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prefix", ["", "/hidden"], ids=["direct", "portable"])
async def test_clients_that_vanish_in_mid_fan_out_disturb_no_one(kind: str, prefix: str, tmp_path: Path) -> None:
    """Reset while frames are under way: no error in the log, and those who stay get all."""
    size, count = 2000, 50
    with serving(OutletServer(kind, directory=tmp_path, **BOUNDS)) as server:
        async with neighbours(server, f"{prefix}/rooms/r", 60) as others:
            vanishing = [RawClient(server, f"{prefix}/rooms/r", receive_buffer=[None, 4096][n % 2]) for n in range(40)]
            await server.soon("the joins", connections=100)
            for number in range(20):
                sending = asyncio.create_task(
                    asyncio.to_thread(server.send, "r", first=number * count, count=count, size=size)
                )
                await asyncio.sleep(0)
                for client in vanishing[number * 2 : number * 2 + 2]:
                    client.reset()
                await sending
                length = len(notes("r", count=(number + 1) * count, size=size))
                await arrived(others, length)
            expected = hashlib.sha256(notes("r", count=20 * count, size=size)).digest()
            assert {each.digest.digest() for each in others} == {expected}
            await server.soon("the others to leave", connections=60, running=60)
        await server.soon("all to leave", connections=0, running=0, rooms=[])
        assert server.complaints() == []
