"""`manage.py runserver`, which brings the bundled Redis along."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from rooms_app.embedded import EmbeddedRedis
from tests.commands import (
    READY,
    Family,
    answers,
    bundled,
    checkout,
    children_of,
    family,
    needs_proc,
    new_checkout,
    ports,
)
from tests.waiting import wait_until

__all__ = ["checkout", "family", "new_checkout", "ports"]

pytestmark = [needs_proc, pytest.mark.slow]


@pytest.mark.parametrize("options", [(), ("--noreload",)], ids=["reload", "noreload"])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_runserver_brings_the_bundled_redis_and_takes_it_along(
    options: tuple[str, ...], signum: int, checkout: Path, ports: list[str], family: Family
) -> None:
    """No signal leaves it, or the autoreloader's inner process, behind."""
    runserver = family.start(checkout, "runserver", ports[0], *options)
    wait_until(lambda: answers(ports[0]), what="an answer of runserver", timeout=30)
    assert bundled(checkout).ping()
    assert runserver.child("redis.sock")
    assert len(children_of(runserver.process.pid)) == (1 if options else 2)
    assert runserver.end(signum) == (-signum if signum == signal.SIGKILL else 0), runserver.output()
    if signum != signal.SIGKILL:
        assert family.left() == []
    wait_until(lambda: family.left() == [], timeout=2, what="the end of all children")


def test_a_reload_keeps_the_bundled_redis(checkout: Path, ports: list[str], family: Family) -> None:
    """Only the inner process is a new one."""
    runserver = family.start(checkout, "runserver", ports[0])
    wait_until(lambda: answers(ports[0]), what="an answer of runserver", timeout=30)
    server, inner = runserver.child("redis.sock"), runserver.child("manage.py")

    def reloaded() -> bool:
        # More than once, since a change before the reloader's first look at the file is none to it.
        (checkout / "project" / "urls.py").touch()
        return inner not in children_of(runserver.process.pid)

    wait_until(reloaded, what="a reload", timeout=30)
    wait_until(lambda: answers(ports[0]), what="an answer after it", timeout=30)
    assert runserver.child("redis.sock") == server


def test_runserver_uses_the_redis_of_a_running_demo(checkout: Path, ports: list[str], family: Family) -> None:
    """And leaves it running."""
    demo = family.start(checkout, "demo", "--ports", ports[0])
    demo.wait_for(READY)
    runserver = family.start(checkout, "runserver", ports[1], "--noreload")
    wait_until(lambda: answers(ports[1]), what="an answer of runserver", timeout=30)
    assert children_of(runserver.process.pid) == {}
    runserver.end(signal.SIGTERM)
    assert bundled(checkout).ping()
    assert demo.end(signal.SIGTERM) == 0


def test_runserver_starts_no_redis_where_the_environment_names_one(
    checkout: Path, ports: list[str], family: Family, tmp_path: Path
) -> None:
    """REDIS_URL wins."""
    with EmbeddedRedis(tmp_path / "own") as server:
        runserver = family.start(checkout, "runserver", ports[0], "--noreload", REDIS_URL=server.url)
        wait_until(lambda: answers(ports[0]), what="an answer of runserver", timeout=30)
        assert children_of(runserver.process.pid) == {}
