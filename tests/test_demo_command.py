"""`manage.py demo`, started and ended as in a terminal."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import redis
from websockets.sync.client import connect

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

pytestmark = needs_proc


def password_in(output: str) -> list[str]:
    return re.findall(r"password (\S+) \(shown", output)


@pytest.mark.parametrize("server", [pytest.param("daphne", marks=pytest.mark.slow), "uvicorn"])
@pytest.mark.parametrize("signum", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_the_demo_serves_on_both_ports_until_a_signal_ends_everything(
    server: str, signum: int, checkout: Path, ports: list[str], family: Family
) -> None:
    """It shows its steps and its URLs; Ctrl-C is no failure."""
    demo = family.start(checkout, "demo", "--server", server, "--ports", *ports)
    demo.wait_for(READY)
    assert all(answers(port) for port in ports)
    assert bundled(checkout).ping()
    with connect(f"ws://127.0.0.1:{ports[1]}/ws/lobby") as socket:
        url = f"http://127.0.0.1:{ports[0]}/chat/lobby/message"
        assert httpx.post(url, json={"content": "across"}).json() == {"status": "sent"}
        assert json.loads(socket.recv(timeout=5))["message"]["content"] == "across"
    assert all(f"http://127.0.0.1:{port}/\n" in demo.output() for port in ports)
    assert "Starting the bundled Redis … ok\n" in demo.output()
    assert all(f"Starting {server} on port {port} … ok\n" in demo.output() for port in ports)
    assert "Starting the worker … ok\n" in demo.output()
    assert demo.end(signum) == 0
    assert demo.output().endswith("Everything is stopped.\n")
    assert family.left() == []
    assert not (checkout / ".rooms" / "redis.sock").exists()


@pytest.mark.slow
def test_a_killed_demo_leaves_no_process(checkout: Path, ports: list[str], family: Family) -> None:
    """Within 2 s of SIGKILL the servers and the bundled Redis are gone, and a new demo starts at once."""
    demo = family.start(checkout, "demo", "--ports", *ports)
    demo.wait_for(READY)
    # The two servers, the worker, the bundled Redis and the scheduler.
    assert len(children_of(demo.process.pid)) == 5
    demo.process.kill()
    wait_until(lambda: family.left() == [], timeout=2, what="the end of all children")
    again = family.start(checkout, "demo", "--ports", *ports)
    again.wait_for(READY)
    assert again.end(signal.SIGTERM) == 0


@pytest.mark.slow
@pytest.mark.parametrize("step", ["Starting the bundled Redis", "Migrating", "Starting daphne"])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_it_starts_ends_everything_too(
    step: str, signum: int, checkout: Path, ports: list[str], family: Family
) -> None:
    """Whichever step it meets, and without a traceback."""
    demo = family.start(checkout, "demo", "--ports", *ports)
    demo.wait_for(step)
    assert demo.end(signum) == 0
    assert family.left() == []
    assert "Traceback" not in demo.output()
    assert READY not in demo.output()


@pytest.mark.slow
def test_the_admins_password_is_printed_once_and_kept_nowhere(checkout: Path, ports: list[str], family: Family) -> None:
    """The first start makes the superuser; later ones neither change nor repeat its password."""
    first = family.start(checkout, "demo", "--ports", *ports)
    first.wait_for(READY)
    (password,) = password_in(first.output())
    with httpx.Client(base_url=f"http://127.0.0.1:{ports[1]}") as client:
        client.get("/admin/login/")
        form = {"username": "admin", "password": password, "csrfmiddlewaretoken": client.cookies["csrftoken"]}
        assert client.post("/admin/login/?next=/admin/", data=form).headers.get("location") == "/admin/"
    assert first.end(signal.SIGINT) == 0
    second = family.start(checkout, "demo", "--ports", *ports)
    second.wait_for(READY)
    assert password_in(second.output()) == []
    assert second.end(signal.SIGINT) == 0
    (checkout / "demo.log").unlink()
    holding = [file for file in checkout.rglob("*") if file.is_file() and password.encode() in file.read_bytes()]
    assert holding == []


@pytest.mark.slow
def test_demos_in_two_checkouts_do_not_meet(
    new_checkout: Callable[[str], Path], ports: list[str], family: Family
) -> None:
    """Each has its own Redis and database, and the end of one is nothing to the other."""
    one, two = new_checkout("one"), new_checkout("two")
    first = family.start(one, "demo", "--ports", ports[0])
    second = family.start(two, "demo", "--ports", ports[1])
    first.wait_for(READY)
    second.wait_for(READY)
    bundled(one).set("here", "one")
    assert bundled(two).get("here") is None
    assert password_in(first.output()) != password_in(second.output())
    assert first.end(signal.SIGTERM) == 0
    assert answers(ports[1])
    assert bundled(two).ping()
    assert second.end(signal.SIGTERM) == 0


@pytest.mark.slow
@pytest.mark.parametrize("own_redis", [False, True])
def test_a_second_demo_in_one_checkout_says_so(
    own_redis: bool, checkout: Path, ports: list[str], family: Family, tmp_path: Path
) -> None:
    """Also where REDIS_URL makes do without the bundled Redis, which then does not run; the first goes on."""
    with EmbeddedRedis(tmp_path / "own") if own_redis else contextlib.nullcontext() as server:
        # With a key given, settings make no directory for one.
        env = {"REDIS_URL": server.url, "DJANGO_SECRET_KEY": "only-for-tests"} if server else {}
        first = family.start(checkout, "demo", "--ports", ports[0], **env)
        first.wait_for(READY)
        for port in ports:
            second = family.start(checkout, "demo", "--ports", port, **env)
            assert second.wait_for_exit() == 1
            assert f"already running, as process {first.process.pid} (manage.py demo)" in second.output()
        assert answers(ports[0])
        assert (checkout / ".rooms" / "redis.sock").exists() != own_redis
        assert first.end(signal.SIGTERM) == 0
        if server:
            assert redis.Redis.from_url(server.url).ping()


def test_a_port_in_use_is_named_before_anything_starts(checkout: Path, ports: list[str], family: Family) -> None:
    """And so is the option that chooses another."""
    with socket.create_server(("127.0.0.1", int(ports[1]))):
        demo = family.start(checkout, "demo", "--ports", *ports)
        assert demo.wait_for_exit() == 1
    assert f"Port {ports[1]} on 127.0.0.1 is not free" in demo.output()
    assert "--ports" in demo.output()
    assert "Starting" not in demo.output()


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["daphne", "redis.sock"])
def test_what_dies_unexpectedly_ends_the_demo_and_is_named(
    victim: str, checkout: Path, ports: list[str], family: Family
) -> None:
    """Half a demo would only puzzle."""
    demo = family.start(checkout, "demo", "--ports", ports[0])
    demo.wait_for(READY)
    os.kill(demo.child(victim), signal.SIGKILL)
    assert demo.wait_for_exit() == 1
    name = f"daphne on port {ports[0]}" if victim == "daphne" else "The bundled Redis"
    assert f"{name} ended unexpectedly, by SIGKILL" in demo.output()
    assert family.left() == []


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_of_a_report_ends_the_demo_and_keeps_the_report(
    checkout: Path, ports: list[str], family: Family
) -> None:
    """The next demo's broker still has it, for its worker."""
    demo = family.start(checkout, "demo", "--ports", ports[0])
    demo.wait_for(READY)
    (pid,) = re.findall(r"Worker: process (\d+)\n", demo.output())
    with httpx.Client(base_url=f"http://127.0.0.1:{ports[0]}") as visitor:
        visitor.get("/")
        cookies = {"Cookie": f"guest={visitor.cookies['guest']}"}
        with connect(f"ws://127.0.0.1:{ports[0]}/ws/lobby", additional_headers=cookies) as socket:
            visitor.post("/report").raise_for_status()
            assert json.loads(socket.recv(timeout=5))["MESSAGE_ID"] == "report.progress"
            os.kill(int(pid), signal.SIGKILL)
            assert demo.wait_for_exit() == 1
    assert "celery worker ended unexpectedly, by SIGKILL" in demo.output()
    assert family.left() == []
    again = family.start(checkout, "demo", "--ports", ports[0])
    again.wait_for(READY)
    assert bundled(checkout).hlen("rooms-demo:bus:unacked") == 1
    assert again.end(signal.SIGINT) == 0


@pytest.mark.slow
def test_a_server_that_can_not_start_shows_why(checkout: Path, ports: list[str], family: Family) -> None:
    """Its own output, after its name, and then nothing is left running."""
    (checkout / "project" / "asgi.py").write_text("raise RuntimeError('broken on purpose')\n")
    demo = family.start(checkout, "demo", "--ports", *ports)
    assert demo.wait_for_exit() == 1
    assert re.search(r"daphne on port \d+: RuntimeError: broken on purpose", demo.output())
    assert "ended unexpectedly, with exit code 1" in demo.output()
    assert family.left() == []


@pytest.mark.slow
def test_visitors_do_not_fill_the_demos_output(checkout: Path, ports: list[str], family: Family) -> None:
    """Its servers write no access logs."""
    demo = family.start(checkout, "demo", "--ports", *ports)
    demo.wait_for(READY)
    assert all(answers(port) for port in ports)
    assert demo.end(signal.SIGTERM) == 0
    assert "health" not in demo.output()


def test_the_help_has_an_example(checkout: Path, family: Family) -> None:
    """For those who don't read on."""
    demo = family.start(checkout, "demo", "--help")
    assert demo.wait_for_exit() == 0
    output = " ".join(demo.output().split())
    assert "Example: python manage.py demo --ports" in output
    assert "python manage.py demo --restart 8010" in output
    assert "a Celery worker" in output
