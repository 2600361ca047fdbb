"""Servers for a run from the command line: started where none were named, and ended with it."""

from __future__ import annotations

import contextlib
import uuid
from pathlib import Path
from typing import Any

import psycopg

from tests.bus_chaos_project.stage import Stage
from tests.live import RedisServer, short_directory
from tests.postgres import Postgres, find_postgres, unprivileged
from tests.rabbitmq import RabbitMQ, find_rabbitmq


class Missing(Exception):  # noqa: N818 - reads as the sentence it is
    """A server that is asked for isn't installed."""


def new_stage(
    stack: contextlib.ExitStack,
    *,
    broker: str = "redis",
    broker_url: str | None = None,
    database: str = "sqlite",
    database_port: int | None = None,
    **options: Any,
) -> Stage:
    """A stage with empty tables; the rest is the `Stage`'s. Raises `Missing`."""
    directory = stack.enter_context(short_directory())
    layer = RedisServer(directory / "layer")
    stack.callback(layer.stop)
    layer.start()
    if broker == "redis":
        # Not the layer's: what one of them is asked is of no concern to the other.
        broker_server = RedisServer(directory / "broker")
        stack.callback(broker_server.stop)
        broker_url = broker_server.start().url
    elif broker_url is None:
        broker_url = _rabbitmq(stack, directory)
    entry = sqlite(directory)
    if database == "postgresql":
        entry = postgresql(_postgres(stack) if database_port is None else database_port)
    stage = Stage(directory=directory, layer=layer.url, broker=broker_url, database=entry, **options)
    stack.callback(stage.kill)
    stage.migrate()
    return stage


def sqlite(directory: Path) -> dict[str, Any]:
    """An entry of DATABASES: a file, as several processes should use one."""
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(directory / "chaos.sqlite3"),
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        },
    }


def postgresql(port: int) -> dict[str, Any]:
    """An entry of DATABASES: a new database."""
    entry = {"ENGINE": "django.db.backends.postgresql", "HOST": "127.0.0.1", "PORT": port, "USER": "rooms"}
    name = f"chaos_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(host="127.0.0.1", port=port, user="rooms", dbname="postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return {**entry, "NAME": name}


def _rabbitmq(stack: contextlib.ExitStack, directory: Path) -> str:
    program = find_rabbitmq()
    if program is None:
        raise Missing("RabbitMQ is not installed (Debian: apt install rabbitmq-server)")
    server = RabbitMQ(directory / "rabbitmq", program=program)
    stack.callback(server.stop)
    return server.start().url


def _postgres(stack: contextlib.ExitStack) -> int:
    programs, as_user = find_postgres(), unprivileged()
    if programs is None or as_user is None:
        raise Missing("PostgreSQL is not installed (Debian: apt install postgresql), or there is no user for it")
    server = Postgres(stack.enter_context(short_directory()), programs=programs, as_user=as_user)
    stack.callback(server.stop)
    return server.start().port
