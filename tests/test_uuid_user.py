"""A project's own user model, with a UUID for its primary key: rooms, sign-outs, commands and broadcasts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.devices import Device, close_code
from tests.live import DemoServers, demo_servers

CREATE = """
from tests.uuid_user.models import Person
for name in ("ann", "bob"):
    Person.objects.create_user(name, password="pw", is_staff=True)
print(Person.objects.get(username="ann").pk)
"""

BROADCAST = """
from rooms_app.broadcasts import send_now
from rooms_app.models import Broadcast
from tests.uuid_user.models import Person
ann = Person.objects.get(username="ann")
payload = {"user_id": "0", "username": "staff", "content": "to you", "timestamp": "2026-01-01T00:00:00Z"}
broadcast = Broadcast.objects.create(message_type="chat.message", payload=payload, audience="users", user_query="ann")
assert send_now(broadcast.pk, ann)
broadcast.refresh_from_db()
print(broadcast.state, broadcast.reached)
"""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoServers]:
    """Two processes of a project with that user model, whose app is loaded after rooms_app."""
    env = {"DJANGO_SETTINGS_MODULE": "tests.uuid_user.settings"}
    with demo_servers("daphne", "uvicorn", directory=tmp_path_factory.mktemp("uuid"), env=env) as servers:
        yield servers


async def manage(demo: DemoServers, *arguments: str) -> str:
    """What a command prints last."""
    done = await asyncio.to_thread(demo.manage, *arguments)
    return done.stdout.strip().splitlines()[-1]


async def test_a_user_with_a_uuid_is_sent_to_told_of_and_signed_out(demo: DemoServers) -> None:
    """In both processes, and nobody else is."""
    ann_pk = await manage(demo, "shell", "-c", CREATE)
    ann, bob = await Device.sign_in(demo, "ann"), await Device.sign_in(demo, "bob")
    hers = [await ann.open(0), await ann.open(1)]
    his = await bob.open(1)

    async def contents() -> list[Any]:
        frames = [json.loads(await asyncio.wait_for(socket.recv(), 5)) for socket in hers]
        assert {frame["room"] for frame in frames} == {f"user-{ann_pk}"}
        return [frame["message"]["content"] for frame in frames]

    fields = ("user_id=0", "username=ops", "content=hello", "timestamp=2026-01-01T00:00:00Z")
    given = [word for field in fields for word in ("--set", field)]
    await manage(demo, "rooms_send", "chat.message", "--user", f"pk:{ann_pk}", *given)
    assert await contents() == ["hello"] * 2
    assert await manage(demo, "shell", "-c", BROADCAST) == "sent 2"
    assert await contents() == ["to you"] * 2
    told = json.loads(await manage(demo, "rooms_explain", "ann", "lobby", "--json"))
    assert len(told["connections"]) == 2
    await ann.sign_out()
    assert [await close_code(socket, within=1) for socket in hers] == [4005, 4005]
    await manage(demo, "rooms_kick", "--user", "bob")
    assert await close_code(his, within=1) == 4503
    for device in (ann, bob):
        await device.end()
