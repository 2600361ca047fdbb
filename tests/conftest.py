"""Fixtures: a real Redis per test process, real servers, and channel layers of every kind."""

from __future__ import annotations

import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_django

from rooms_app.layers import channel_layer
from tests import live
from tests.postgres import Postgres, running_postgres

if TYPE_CHECKING:
    from tests.outbox_rows import Carried


def pytest_configure(config: pytest.Config) -> None:
    """Have Ctrl-C reach the servers that tests start: a shell has its background ignore it, children included."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[live.RedisServer]:
    """A Redis that the tests of this process share; a test that stops it starts one of its own."""
    server = live.RedisServer(tmp_path_factory.mktemp("redis"))
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[live.RedisServer]:
    """A Redis for one test, which may stop, hold back and restart it."""
    server = live.RedisServer(tmp_path / "redis")
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL that the tests of this process share."""
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="module")
def demo_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[live.DemoServers]:
    """The demo on two processes, one daphne and one uvicorn, and a Redis."""
    with live.demo_servers("daphne", "uvicorn", directory=tmp_path_factory.mktemp("demo")) as demo:
        yield demo


LAYERS = ("memory", "pubsub", "classic", "rooms")


@pytest.fixture(params=LAYERS)
def layer(
    request: pytest.FixtureRequest, settings: pytest_django.fixtures.SettingsWrapper
) -> Iterator[dict[str, object]]:
    """Each channel layer in turn, in force as CHANNEL_LAYERS; the Redis ones on a prefix of the test's own."""
    yield use_layer(request.param, request, settings)


def use_layer(kind: str, request: pytest.FixtureRequest, settings: object, **config: object) -> dict[str, object]:
    """Put a channel layer of this kind in force for the test, and return its entry of CHANNEL_LAYERS."""
    url = "" if kind == "memory" else request.getfixturevalue("redis_server").url
    entry = channel_layer(kind, url, prefix=f"test-{uuid.uuid4().hex[:8]}", **config)
    settings.CHANNEL_LAYERS = {"default": entry}  # type: ignore[attr-defined]
    return entry


@pytest.fixture
def carried() -> Iterator[Carried]:
    """What has left the outbox, of the kind of the tests."""
    # Not at the top: the models need settings, which pytest-django finds later.
    from rooms_app.carrying import forget_carrier, register_carrier
    from tests.outbox_rows import KIND, Carried

    carrier = Carried()
    register_carrier(KIND, carrier)
    yield carrier
    forget_carrier(KIND)
