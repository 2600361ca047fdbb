"""`rooms_explain`: may she join, by what the consumers say."""

from __future__ import annotations

import io
from typing import Any

import pytest
from channels.routing import ProtocolTypeRouter, URLRouter
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.urls import path

from rooms_app import RoomConsumer
from rooms_app.routing import websocket_application
from tests.clients import common_endpoint
from tests.conftest import use_layer
from tests.test_commands import printed

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def rooms_layer(request: pytest.FixtureRequest, settings: object) -> None:
    use_layer("rooms", request, settings)


class MembersOnly(RoomConsumer):
    """Lets the user into the room of her own name."""

    async def get_rooms(self) -> list[str]:
        return [f"chat-{self.kwargs['name']}"]

    async def can_join(self, room: str) -> bool:
        return bool(room == f"chat-{self.user.username}")


class Lobby(RoomConsumer):
    """Needs no parameters."""

    async def get_rooms(self) -> list[str]:
        return ["lobby", "user-0"]

    async def can_join(self, room: str) -> bool:
        return True


ROUTES = [
    path("ws/", URLRouter([path("of/<str:name>", MembersOnly.as_asgi())])),
    path("ws/lobby", Lobby.as_asgi()),
    common_endpoint.path,
]
APPLICATION = ProtocolTypeRouter({"websocket": websocket_application(ROUTES)})
LOBBY = ProtocolTypeRouter({"websocket": URLRouter([*ROUTES, path("lobby", Lobby.as_asgi())])})


def nothing() -> None:
    """No application whose routes are to be seen."""


@pytest.mark.parametrize(
    ("room", "at", "may_join", "why"),
    [
        ("chat-ann", "/ws/of/ann", True, "MembersOnly.can_join says yes"),
        ("chat-bob", "/ws/of/bob?since=latest", False, "MembersOnly.can_join('chat-bob') says no"),
        ("chat-bob", "/ws/of/ann", False, "MembersOnly.get_rooms() does not name this room"),
        ("a", "/endpoint/a", None, "common_endpoint decides by calling join: it can't be asked"),
        ("a", "/nowhere", False, "no route leads to /nowhere"),
        # Behind a router that it fits, and that has no route for it.
        ("lobby", "/ws/lobby", False, "user-0 is reserved"),
    ],
)
def test_the_consumer_at_the_path_is_asked(room: str, at: str, may_join: bool | None, why: str, settings: Any) -> None:
    settings.ASGI_APPLICATION = "tests.test_commands_explain.APPLICATION"
    get_user_model().objects.create_user("ann")
    answer = printed("rooms_explain", "ann", room, "--path", at)
    assert [(each["may_join"], each["why"]) for each in answer["may_join"]] == [(may_join, why)]


def test_without_a_path_each_consumer_is_asked_that_can_answer(settings: Any) -> None:
    """A room that is reserved for another user keeps everybody out."""
    settings.ASGI_APPLICATION = "tests.test_commands_explain.LOBBY"
    ann = get_user_model().objects.create_user("ann")
    answer = printed("rooms_explain", f"pk:{ann.pk}", "lobby")
    assert [(each["route"], each["may_join"], each["why"]) for each in answer["may_join"]] == [
        ("ws/of/<str:name>", None, "MembersOnly raised KeyError: 'name'; give --path"),
        ("ws/lobby", False, "user-0 is reserved"),
        ("endpoint/<str:room>", None, "common_endpoint decides by calling join: it can't be asked"),
        ("lobby", False, "user-0 is reserved"),
    ]


def test_where_the_routes_are_hidden_it_says_so(settings: Any) -> None:
    settings.ASGI_APPLICATION = "tests.test_commands_explain.nothing"
    get_user_model().objects.create_user("ann", is_active=False)
    out = io.StringIO()
    call_command("rooms_explain", "ann", "a", stdout=out)
    assert "May ann join a? Can't be told: the routes of ASGI_APPLICATION are not to be seen" in out.getvalue()
    assert "ann is not active" in out.getvalue()
    assert "ann has 0 connections, 0 in a.\na has 0 connections; no message is in its history.\n" in out.getvalue()
