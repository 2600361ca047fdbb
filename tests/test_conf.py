"""The settings and the system checks."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
from django.apps import apps
from django.core.checks import run_checks
from redis.asyncio import ConnectionPool

from rooms_app.advice import advice
from rooms_app.apps import _import_messages
from rooms_app.conf import rooms_settings
from rooms_app.exceptions import RoomsConfigurationError
from rooms_app.layers import channel_layer, redis_host
from rooms_app.registry import registry
from rooms_app.routing import websocket_application


def ids() -> set[str]:
    return {
        message.id
        for message in run_checks(app_configs=[apps.get_app_config("rooms_app")], databases=[])
        if message.id and message.id.startswith("rooms.")
    }


@pytest.fixture(autouse=True)
def _sound(settings: Any) -> None:
    settings.DEBUG = True
    settings.CHANNEL_LAYERS = {"default": channel_layer("rooms", "redis://localhost:1")}


def test_sound_settings_pass_all_checks() -> None:
    """Nothing to say."""
    assert ids() == set()


def test_settings_are_read_at_use(settings: Any) -> None:
    """So that `override_settings` works; what is not given has its default."""
    assert rooms_settings().max_age == 12 * 3600
    settings.ROOMS = {"max_age": 5}
    assert rooms_settings().max_age == 5
    assert rooms_settings().ping == 25


@pytest.mark.parametrize(
    ("rooms", "said"),
    [
        ({"max_agee": 5}, "Did you mean 'max_age'"),
        ({"max_age": "5"}, "must be a number"),
        ({"max_age": 0}, "greater than 0"),
        ({"max_rooms": 1.5}, "whole number"),
        ({"ping": True}, "must be a number"),
        ({"channel_layer": None}, "must be a text"),
        ({"embedded_directory": 7}, "must be a path"),
        ({"history": {"chat-*": 5}}, "messages, seconds"),
        ({"history": {"chat-*": (5, 0)}}, "messages, seconds"),
        ({"history": {"chat-*": (-1, 60)}}, "messages, seconds"),
        ({"history": {"chat-*": ("5", 60)}}, "messages, seconds"),
        ({"history": {7: (5, 60)}}, "messages, seconds"),
        ({"history": [("chat-*", 5, 60)]}, "messages, seconds"),
        ({"history_messages": -1}, "greater than 0"),
        ({"history_seconds": 0}, "greater than 0"),
        (["max_age"], "must be a dict"),
    ],
)
def test_a_key_that_can_not_be_used_is_named(settings: Any, rooms: Any, said: str) -> None:
    """By the system check, and at use where no check has run."""
    settings.ROOMS = rooms
    assert "rooms.E001" in ids()
    with pytest.raises(RoomsConfigurationError, match=said):
        rooms_settings()


def test_sizes_of_history_can_be_given_by_pattern_and_none_at_all(settings: Any) -> None:
    """0 messages: the rooms go without."""
    settings.ROOMS = {"history_messages": 0, "history": {"chat-*": (5_000, 3600), "log-*": [0, 0], "*": (1, 0.5)}}
    assert ids() == set()
    assert rooms_settings().history["chat-*"] == (5_000, 3600)


@pytest.mark.parametrize("kind", ["pubsub", "classic"])
def test_a_redis_layer_without_history_is_a_warning(settings: Any, kind: str) -> None:
    """Delivery is at most once there. The in-memory layer has a warning of its own."""
    settings.CHANNEL_LAYERS = {"default": channel_layer(kind, "redis://localhost:1")}
    assert ids() == {"rooms.W005"}
    settings.CHANNEL_LAYERS = {
        "default": channel_layer(kind, "redis://localhost:1"),
        "other": channel_layer("rooms", "redis://localhost:1"),
    }
    settings.ROOMS = {"channel_layer": "other"}
    assert ids() == set()
    settings.CHANNEL_LAYERS = {"other": channel_layer("memory", "")}
    assert ids() == set()


@pytest.mark.parametrize("module", ["rooms_app.layers", "rooms_app.layers.history_layer"])
def test_several_hosts_are_a_warning_on_the_layer_with_history(settings: Any, module: str) -> None:
    """It goes without, then. One Sentinel master is one host."""
    sentinel = {"sentinels": [("a", 26379), ("b", 26379)], "master_name": "main"}
    for hosts, said in (
        (["redis://a", "redis://b"], {"rooms.W006"}),
        (["redis://a"], set()),
        ([sentinel], set()),
        (None, set()),
    ):
        config = {"hosts": hosts} if hosts else {}
        settings.CHANNEL_LAYERS = {"default": {"BACKEND": f"{module}.RoomsRedisChannelLayer", "CONFIG": config}}
        assert ids() == said


def test_a_missing_channel_layer_is_an_error(settings: Any) -> None:
    """Rooms need one."""
    settings.CHANNEL_LAYERS = {}
    assert "rooms.E002" in ids()


@pytest.mark.parametrize("kind", ["memory", "classic"])
def test_a_low_capacity_is_a_warning(settings: Any, kind: str) -> None:
    """These layers silently drop what exceeds it, and one channel carries all rooms of a process."""
    entry = channel_layer(kind, "redis://localhost:1")
    settings.CHANNEL_LAYERS = {"default": entry}
    assert "rooms.W001" not in ids()
    del entry["CONFIG"]["capacity"]
    settings.CHANNEL_LAYERS = {"default": entry}
    assert "rooms.W001" in ids()


def test_the_in_memory_layer_is_a_warning_in_production(settings: Any) -> None:
    """It reaches one process only."""
    settings.CHANNEL_LAYERS = {"default": channel_layer("memory", "")}
    settings.DEBUG = False
    assert "rooms.W003" in ids()


@pytest.mark.parametrize(
    "hosts", [None, ["redis://localhost"], [{"address": "redis://localhost", "socket_timeout": 5}]]
)
def test_a_timeout_that_kills_idle_readers_is_a_warning(settings: Any, hosts: Any) -> None:
    """On the classic layer, whose reads block for 5 s."""
    config = {"capacity": 10_000} | ({"hosts": hosts} if hosts else {})
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": config}}
    assert "rooms.W002" in ids()
    settings.CHANNEL_LAYERS["default"]["CONFIG"] = {**config, "hosts": [redis_host("redis://localhost")]}
    assert "rooms.W002" not in ids()


def test_the_bundled_redis_is_a_warning_in_production(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless REDIS_URL names another; an empty one names none."""
    monkeypatch.delenv("REDIS_URL", raising=False)
    settings.DEBUG = False
    assert "rooms.W004" in ids()
    monkeypatch.setenv("REDIS_URL", "")
    assert "rooms.W004" in ids()
    monkeypatch.setenv("REDIS_URL", "redis://localhost")
    assert "rooms.W004" not in ids()


def test_an_ill_defined_message_is_told_and_stops_the_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """By the system check; and by `websocket_application`, since plain daphne runs no checks."""
    (tmp_path / "ill_defined.py").write_text(
        "from rooms_app import WebSocketMessage\nclass Nameless(WebSocketMessage):\n    x: int\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    monkeypatch.setattr(registry, "errors", [])
    _import_messages("ill_defined")
    assert "rooms.E003" in ids()
    with pytest.raises(RoomsConfigurationError, match="Nameless"):
        websocket_application([])
    assert "Nameless" in caplog.text


def test_a_channel_layer_of_another_kind_is_an_error() -> None:
    """The error names the kinds there are."""
    with pytest.raises(ValueError, match="rooms, pubsub, classic, memory"):
        channel_layer("kafka", "")


@pytest.mark.parametrize("url", ["unix:///tmp/a.sock", "redis://localhost", "rediss://localhost"])
def test_a_redis_host_suits_every_kind_of_connection(url: str) -> None:
    """A unix socket takes no keep-alive: redis-py refuses the option."""
    address = redis_host(url)
    connection = ConnectionPool.from_url(address.pop("address"), **address).make_connection()
    assert connection.socket_timeout == 15


def test_the_log_says_how_to_start_the_bundled_redis(
    settings: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where that is what is missing: REDIS_URL names no other, as also an empty one."""
    monkeypatch.delenv("REDIS_URL", raising=False)
    settings.ROOMS = {}
    assert advice() == ""
    settings.ROOMS = {"embedded_directory": tmp_path}
    assert "manage.py demo" in advice()
    monkeypatch.setenv("REDIS_URL", "redis://localhost")
    assert advice() == ""
    monkeypatch.setenv("REDIS_URL", "")
    assert "manage.py demo" in advice()
    (tmp_path / "redis.sock").touch()
    assert advice() == ""
