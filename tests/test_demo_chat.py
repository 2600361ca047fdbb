"""The demo's POST: what it answers, who speaks, and what the room then gets."""

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import quote

import pytest
from asgiref.sync import async_to_sync
from channels.layers import BaseChannelLayer, get_channel_layer
from django.contrib.auth import get_user_model
from django.contrib.staticfiles.finders import find
from django.test import AsyncClient, Client

from project.messages import ChatMessage
from project.visitors import COOKIE
from rooms_app import group_name, provide_ws_manager
from rooms_app.manager import ChannelLayerManager

MEMORY = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}


class BrokenLayer(BaseChannelLayer):
    """A channel layer whose Redis is away."""

    extensions = ["groups"]

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        raise ConnectionError("no Redis here")


@pytest.fixture(autouse=True)
def demo(settings: Any) -> None:
    settings.ROOT_URLCONF = "project.urls"
    settings.CHANNEL_LAYERS = MEMORY


@pytest.fixture
def no_errors(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fails the test if anything was logged as an error."""
    with caplog.at_level(logging.WARNING):
        yield
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


def post(client: Client, body: Any, room: str = "lobby") -> Any:
    """What a browser sends: the body as JSON, or as it is if it is bytes."""
    data = body if isinstance(body, bytes) else json.dumps(body)
    return client.post(f"/chat/{room}/message", data, content_type="application/json")


def listen(room: str) -> str:
    """A channel of the layer that is in the room's group."""
    layer = get_channel_layer()
    channel = async_to_sync(layer.new_channel)()
    async_to_sync(layer.group_add)(group_name(room), channel)
    return channel


def heard(channel: str) -> ChatMessage:
    """The message that came to the channel."""
    event = async_to_sync(get_channel_layer().receive)(channel)
    envelope = json.loads(event["text"])
    assert envelope["MESSAGE_ID"] == "chat.message"
    return ChatMessage.model_validate(envelope["message"])


def test_what_a_guest_says_reaches_the_room_with_the_servers_own_time(client: Client, no_errors: None) -> None:
    """No database either: this test may use none."""
    channel = listen("lobby")
    before = datetime.now(UTC)
    answer = post(client, {"content": "hello", "username": "root", "timestamp": "1999-01-01T00:00:00Z"})
    assert (answer.status_code, answer.json()) == (200, {"status": "sent"})
    message = heard(channel)
    assert message.content == "hello"
    assert message.username.startswith("guest-") and message.username[6:].isdigit()
    assert message.user_id == message.username
    assert message.timestamp.utcoffset() == timedelta(0)
    assert before <= message.timestamp <= datetime.now(UTC)


async def test_an_async_client_is_answered_the_same(async_client: AsyncClient) -> None:
    answer = await async_client.post(
        "/chat/lobby/message", json.dumps({"content": "hello"}), content_type="application/json"
    )
    assert (answer.status_code, answer.json()) == (200, {"status": "sent"})


def test_a_guest_keeps_its_name(client: Client) -> None:
    channel = listen("lobby")
    names = []
    for content in ("one", "two"):
        post(client, {"content": content})
        names.append(heard(channel).username)
    assert names[0] == names[1]
    assert client.cookies[COOKIE]["httponly"]


def test_the_page_and_the_post_see_the_same_guest(client: Client) -> None:
    channel = listen("lobby")
    page = client.get("/")
    post(client, {"content": "hello"})
    assert f'data-user-id="{heard(channel).user_id}"' in page.content.decode()


def test_a_guest_cookie_that_was_not_made_here_is_no_name(client: Client) -> None:
    channel = listen("lobby")
    client.cookies = SimpleCookie({COOKIE: "admin:1abc:forged"})
    assert post(client, {"content": "hello"}).status_code == 200
    assert heard(channel).username.startswith("guest-")


@pytest.mark.django_db
def test_who_is_signed_in_speaks_under_the_username(client: Client) -> None:
    user = get_user_model().objects.create_user("ann")
    client.force_login(user)
    channel = listen("lobby")
    answer = post(client, {"content": "hello"})
    assert answer.status_code == 200
    message = heard(channel)
    assert (message.user_id, message.username) == (str(user.pk), "ann")
    assert COOKIE not in answer.cookies


@pytest.mark.parametrize(
    ("body", "path"),
    [
        pytest.param(b"{not json", [], id="not JSON"),
        pytest.param(b"\xff\xfe", [], id="not UTF-8"),
        pytest.param(b"", [], id="no body"),
        pytest.param(["hello"], [], id="not an object"),
        pytest.param({}, ["content"], id="missing"),
        pytest.param({"content": 7}, ["content"], id="a number"),
        pytest.param({"content": None}, ["content"], id="null"),
        pytest.param({"content": {"$ne": ""}}, ["content"], id="an object"),
        pytest.param({"content": ""}, ["content"], id="empty"),
        pytest.param({"content": " \n\t\u00a0"}, ["content"], id="blank"),
        pytest.param({"content": "x" * 4_001}, ["content"], id="over-long"),
    ],
)
def test_a_body_that_does_not_fit_is_a_400_that_names_the_field(
    client: Client, no_errors: None, body: Any, path: list[str]
) -> None:
    answer = post(client, body)
    assert answer.status_code == 400
    [problem] = answer.json()["detail"]
    assert problem["loc"] == path
    assert problem["msg"] and problem["type"]


def test_half_of_a_surrogate_pair_is_a_400(client: Client, no_errors: None) -> None:
    """JSON can write it, UTF-8 can't: no socket could be sent this."""
    assert post(client, b'{"content": "\\ud83d"}').status_code == 400


def test_a_room_name_that_is_too_long_is_a_400_that_names_it(client: Client, no_errors: None) -> None:
    answer = post(client, {"content": "hello"}, room="x" * 256)
    assert answer.status_code == 400
    assert [problem["loc"] for problem in answer.json()["detail"]] == [["room_id"]]


@pytest.mark.parametrize("content", ["x", "x" * 4_000, "\N{GRINNING FACE}" * 4_000, "<b>no markup</b>", "a\nb\0c"])
def test_up_to_4000_characters_of_any_text_arrive_as_they_are(client: Client, content: str) -> None:
    channel = listen("lobby")
    assert post(client, {"content": content}).status_code == 200
    assert heard(channel).content == content


@pytest.mark.parametrize("room", ["a/b", "日本 語", "a?b#c%2F", "message", "x/message", "é" * 255])
def test_a_room_may_have_any_name(client: Client, room: str) -> None:
    channel = listen(room)
    assert post(client, {"content": "hello"}, room=quote(room, safe="")).status_code == 200
    assert heard(channel).content == "hello"


@pytest.mark.parametrize("room", ["user-1", "user-", "*"])
def test_nobody_sends_to_a_reserved_room(client: Client, no_errors: None, room: str) -> None:
    channel = listen(room)
    answer = post(client, {"content": "hello"}, room=room)
    assert answer.status_code == 403
    assert "reserved" in answer.json()["detail"]
    assert channel not in get_channel_layer().channels  # the layer makes a channel's queue with its first message


def test_a_message_that_the_channel_layer_does_not_take_is_a_503(client: Client, settings: Any) -> None:
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": f"{__name__}.BrokenLayer"}}
    # A manager of its own: after a failure one fails for a while, and the next test's sends with it.
    with provide_ws_manager(ChannelLayerManager()):
        answer = post(client, {"content": "hello"})
    assert answer.status_code == 503
    assert set(answer.json()) == {"detail"} and answer.json()["detail"]


@pytest.mark.django_db
def test_who_is_signed_in_needs_a_csrf_token_and_the_page_has_one() -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(get_user_model().objects.create_user("ann"))
    refused = post(client, {"content": "hello"})
    assert refused.status_code == 403 and "CSRF" in refused.json()["detail"]
    client.get("/")
    token = client.cookies["csrftoken"].value
    answer = client.post(
        "/chat/lobby/message",
        json.dumps({"content": "hello"}),
        content_type="application/json",
        headers={"X-CSRFToken": token},
    )
    assert answer.status_code == 200


def test_the_page_shows_its_room_as_text(client: Client) -> None:
    page = client.get("/", {"room": "<script>alert(1)</script>"})
    assert page.status_code == 200
    assert b"<script>alert" not in page.content
    assert "<title>&lt;script&gt;" in page.content.decode()


def test_the_page_runs_scripts_from_its_own_server_only(client: Client) -> None:
    assert "default-src 'self'" in client.get("/")["Content-Security-Policy"]


def test_a_page_that_names_no_icon_finds_one(client: Client) -> None:
    """As the admin's: else each of them logs an error in the browser."""
    answer = client.get("/favicon.ico")
    assert answer.status_code == 302
    assert find(answer.headers["Location"].removeprefix("/static/")) is not None
