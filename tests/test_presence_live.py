"""Presence over real server processes: each sees the other's members, and a killed one's are gone with its lease."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator

import pytest
import websockets
from websockets.asyncio.client import ClientConnection

from rooms_app.layers import RoomsRedisChannelLayer
from rooms_app.ledger import LEASE
from rooms_app.whereabouts import RedisWhereabouts
from tests.live import DemoServers, demo_servers


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoServers]:
    """Two processes; one is killed, then the other one stopped."""
    directory = tmp_path_factory.mktemp("presence")
    with demo_servers(
        "daphne", "uvicorn", directory=directory, application="tests.app.asgi_presence:application"
    ) as it:
        yield it


class Guest:
    """A client, and whom it takes for present, by the three lines of the docs."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self.online: set[str] = set()
        self.left: list[str] = []

    @classmethod
    async def comes(cls, demo: DemoServers, process: int, name: str) -> Guest:
        return cls(await websockets.connect(f"{demo.ws_urls[process]}/presence/a/{name}"))

    async def sees(self, *names: str, within: float = 5) -> None:
        """Return once these are present and nobody else is."""
        async with asyncio.timeout(within):
            while self.online != set(names):
                frame = json.loads(await self._socket.recv())
                members = {member["id"] for member in frame["message"]["members"]}
                if frame["MESSAGE_ID"] == "presence.state":
                    self.online = members
                elif frame["MESSAGE_ID"] == "presence.joined":
                    self.online |= members
                else:
                    self.online -= members
                    self.left += sorted(members)

    async def goes(self) -> None:
        await self._socket.close()


@pytest.mark.slow
async def test_processes_share_their_members_and_outlive_each_other(demo: DemoServers) -> None:
    """A killed one's are gone within the lease and a second, for readers and for the survivors' clients."""
    record = RedisWhereabouts(RoomsRedisChannelLayer(hosts=[demo.redis.url], prefix="rooms-demo"))

    async def present() -> set[str]:
        return {member.id for member in (await record.read("a")).members}

    ann = await Guest.comes(demo, 0, "ann")
    await ann.sees("ann")
    bob, cay = await Guest.comes(demo, 1, "bob"), await Guest.comes(demo, 1, "cay")
    other_cay = await Guest.comes(demo, 0, "cay")
    for guest in (ann, bob, cay, other_cay):
        await guest.sees("ann", "bob", "cay")
    assert await present() == {"ann", "bob", "cay"}
    demo.servers[1].kill()
    killed_at = time.monotonic()
    await asyncio.gather(*(guest.sees("ann", "cay", within=LEASE + 1) for guest in (ann, other_cay)))
    assert await present() == {"ann", "cay"}
    assert time.monotonic() - killed_at <= LEASE + 1
    assert (ann.left, other_cay.left) == (["bob"], ["bob"])
    # Bob comes back elsewhere, and an orderly end leaves everybody the grace to do so.
    bob = await Guest.comes(demo, 0, "bob")
    await bob.sees("ann", "bob", "cay")
    await asyncio.to_thread(demo.stop, 0)
    assert await present() == {"ann", "bob", "cay"}
