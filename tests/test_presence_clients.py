"""Whatever comes and goes, and however it crosses: in the end each client has the list that readers get."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from typing import Any

import pytest
from django.contrib.auth.models import User

from rooms_app import presence
from tests.clients import Client, client, signed_in
from tests.live import RedisServer
from tests.redis_faults import kill_pubsub
from tests.test_presence import Rooms
from tests.waiting import until

USERS = [User(pk=number, username=f"user{number}") for number in range(1, 13)]
#: So many come or go, each within so many seconds after the one before.
CHANGES = 150
PAUSE = 0.02


class Page:
    """A client with the three lines of the docs."""

    def __init__(self, user: User, options: str) -> None:
        self.user = str(user.pk)
        self.client: Client = client(f"/{options}", application=signed_in(Rooms, user, rooms=["a"]))
        self.online: set[str] = set()
        self.has_state = False
        self._reading: asyncio.Task[None] | None = None

    async def open(self) -> None:
        await self.client.open()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while True:
            event = await self.client.output_queue.get()
            if event["type"] != "websocket.send":
                continue
            frame: dict[str, Any] = json.loads(event["text"])
            members = {member["id"] for member in frame["message"].get("members", ())}
            if frame["MESSAGE_ID"] == "presence.state":
                self.online, self.has_state = members, True
            elif frame["MESSAGE_ID"] == "presence.joined":
                self.online |= members
            elif frame["MESSAGE_ID"] == "presence.left":
                self.online -= members

    async def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reading
        await self.client.disconnect(timeout=10)


@pytest.mark.parametrize("layer", ["rooms"], indirect=True)
@pytest.mark.usefixtures("layer")
async def test_each_client_ends_up_with_the_list_of_readers(settings: Any, redis_server: RedisServer) -> None:
    """Also where the subscribed connection is lost now and then."""
    chance = random.Random(7)
    settings.ROOMS = {"presence_grace": 0.1}
    stays = Page(User(pk=99, username="stays"), "?since=latest")
    await stays.open()
    pages: list[Page] = []
    for number in range(CHANGES):
        if pages and chance.random() < 0.45:
            await pages.pop(chance.randrange(len(pages))).close()
        else:
            pages.append(Page(chance.choice(USERS), chance.choice(["", "?since=latest"])))
            await pages[-1].open()
        if number % 50 == 25:
            kill_pubsub(redis_server.client)
        await asyncio.sleep(chance.uniform(0, PAUSE))
    pages.append(stays)
    there = {page.user for page in pages}
    await until(lambda: all(page.has_state and page.online == there for page in pages), what=f"all to see {there}")
    assert {member.id for member in await presence.members("a")} == there
    await asyncio.gather(*(page.close() for page in pages))
