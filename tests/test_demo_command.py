"""`manage.py demo` and `manage.py runserver`, started and ended as in a terminal, each in a new checkout."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import redis
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from rooms_app.embedded import EmbeddedRedis
from tests.live import ROOT, free_port
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")

READY = "Ctrl-C stops everything."
_PR_SET_CHILD_SUBREAPER = 36


def children_of(parent: int) -> dict[int, str]:
    """The children of a process with their command lines, which are empty for those that have ended."""
    found = {}
    for directory in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if directory.name.isdecimal():
                # After the command, which stands in parentheses and may hold anything: state, parent, …
                state, of, *_ = (directory / "stat").read_text().rpartition(")")[2].split()
                if int(of) == parent:
                    line = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    found[int(directory.name)] = "" if state in "ZX" else line
    return found


class Command:
    """A management command that runs in a checkout, and what it has written."""

    def __init__(self, checkout: Path, arguments: tuple[str, ...], env: dict[str, str]) -> None:
        self.checkout = checkout
        self._log = checkout / f"{arguments[0]}.log"
        self._start = self._log.stat().st_size if self._log.exists() else 0
        ours = ("DJANGO_", "REDIS_", "CHANNEL_", "DATABASE_", "RUN_MAIN", "ROOMS_")
        environment = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", *arguments],
                cwd=checkout,
                env={**environment, **env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def output(self) -> str:
        return self._log.read_bytes()[self._start :].decode()

    def wait_for(self, text: str) -> None:
        """Until it has written this."""
        wait_until(lambda: text in self.output() or self.process.poll() is not None, what=text, timeout=30)
        assert text in self.output(), self.output()

    def wait_for_exit(self) -> int:
        return self.process.wait(timeout=20)

    def end(self, signum: int) -> int:
        self.process.send_signal(signum)
        return self.wait_for_exit()

    def child(self, part: str) -> int:
        """The pid of the child that has this in its command line."""
        (found,) = [pid for pid, line in children_of(self.process.pid).items() if part in line]
        return found


class Family:
    """What a test starts, and what that starts in turn: who loses its parent becomes the test's child."""

    def __init__(self) -> None:
        self._before = children_of(os.getpid())
        self._commands: list[Command] = []

    def start(self, checkout: Path, *arguments: str, **env: str) -> Command:
        self._commands.append(Command(checkout, arguments, env))
        return self._commands[-1]

    def left(self) -> list[str]:
        """The command lines of those that still run."""
        return [line for pid, line in self._all().items() if line]

    def end(self) -> None:
        while everyone := self._all():
            for pid, line in everyone.items():
                if line:
                    os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)

    def _all(self) -> dict[int, str]:
        for command in self._commands:
            command.process.poll()
        return {pid: line for pid, line in children_of(os.getpid()).items() if pid not in self._before}


@pytest.fixture
def family() -> Iterator[Family]:
    """Starts commands, and ends all that is left of them."""
    prctl = ctypes.CDLL(None).prctl
    prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    started = Family()
    yield started
    started.end()
    prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@pytest.fixture
def new_checkout(tmp_path: Path) -> Callable[[str], Path]:
    """Makes copies of the project as a fresh clone has it: no database, nothing in .rooms."""

    def make(name: str) -> Path:
        for part in ("project", "rooms_app"):
            shutil.copytree(ROOT / part, tmp_path / name / part)
        shutil.copy2(ROOT / "manage.py", tmp_path / name)
        return tmp_path / name

    return make


@pytest.fixture
def checkout(new_checkout: Callable[[str], Path]) -> Path:
    return new_checkout("checkout")


@pytest.fixture
def ports() -> list[str]:
    return [str(free_port()), str(free_port())]


def answers(port: str) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health/live", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def process_at(port: str) -> str:
    """The id of the process that serves there."""
    return str(httpx.get(f"http://127.0.0.1:{port}/health/live", timeout=5).json()["process"])


def bundled(checkout: Path) -> redis.Redis:
    """The bundled Redis of a checkout."""
    return redis.Redis.from_url(EmbeddedRedis(checkout / ".rooms").url)


def password_in(output: str) -> list[str]:
    return re.findall(r"password (\S+) \(shown", output)


@pytest.mark.parametrize("server", ["daphne", "uvicorn"])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
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


def test_a_server_that_can_not_start_shows_why(checkout: Path, ports: list[str], family: Family) -> None:
    """Its own output, after its name, and then nothing is left running."""
    (checkout / "project" / "asgi.py").write_text("raise RuntimeError('broken on purpose')\n")
    demo = family.start(checkout, "demo", "--ports", *ports)
    assert demo.wait_for_exit() == 1
    assert re.search(r"daphne on port \d+: RuntimeError: broken on purpose", demo.output())
    assert "ended unexpectedly, with exit code 1" in demo.output()
    assert family.left() == []


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


@pytest.mark.parametrize("server", ["daphne", "uvicorn"])
def test_one_server_is_restarted_from_another_terminal(
    server: str, checkout: Path, ports: list[str], family: Family
) -> None:
    """Its clients are closed with 1012 over a while; the other server's notice nothing, and the demo runs on."""
    demo = family.start(checkout, "demo", "--server", server, "--ports", *ports)
    demo.wait_for(READY)
    before = [process_at(port) for port in ports]
    with contextlib.ExitStack() as stack:
        leaving = [
            stack.enter_context(connect(f"ws://127.0.0.1:{ports[0]}/ws/lobby", subprotocols=[Subprotocol("rooms.v1")]))
            for _ in range(2)
        ]
        staying = stack.enter_context(connect(f"ws://127.0.0.1:{ports[1]}/ws/lobby"))
        restart = family.start(checkout, "demo", "--restart", ports[0])
        for socket in leaving:
            frames = []
            with pytest.raises(ConnectionClosedError):
                frames += [json.loads(socket.recv(timeout=30)) for _ in range(2)]
                socket.recv(timeout=30)
            assert [frame["MESSAGE_ID"] for frame in frames] == ["sys.hello", "sys.closing"]
            assert socket.close_code == 1012
        assert restart.wait_for_exit() == 0, restart.output()
        after = [process_at(port) for port in ports]
        assert (after[0] != before[0], after[1]) == (True, before[1])
        assert f"{before[0]} takes no new connections, and closes 2 within 5 s.\n" in restart.output()
        # Both terminals are one file here.
        assert f"Port {ports[0]} is served again, by process {after[0]}.\n" in restart.output()
        httpx.post(f"http://127.0.0.1:{ports[0]}/chat/lobby/message", json={"content": "again"})
        assert json.loads(staying.recv(timeout=5))["message"]["content"] == "again"
    assert f"Restarting {server} on port {ports[0]} … ok\n" in demo.output()
    assert demo.end(signal.SIGTERM) == 0
    assert family.left() == []


def test_a_server_without_connections_is_restarted_too(checkout: Path, ports: list[str], family: Family) -> None:
    """It hears of no drain, and needs none; a second restart follows the first."""
    demo = family.start(checkout, "demo", "--ports", ports[0])
    demo.wait_for(READY)
    for _ in range(2):
        before = process_at(ports[0])
        restart = family.start(checkout, "demo", "--restart", ports[0])
        assert restart.wait_for_exit() == 0, restart.output()
        assert process_at(ports[0]) != before
    assert demo.end(signal.SIGTERM) == 0


def test_what_can_not_be_restarted_is_named(checkout: Path, ports: list[str], family: Family) -> None:
    """No demo at all, or none of its servers on that port."""
    none = family.start(checkout, "demo", "--restart", ports[0])
    assert none.wait_for_exit() == 1
    assert "CommandError: No demo is running here" in none.output()
    demo = family.start(checkout, "demo", "--ports", ports[0])
    demo.wait_for(READY)
    other = family.start(checkout, "demo", "--restart", ports[1])
    assert other.wait_for_exit() == 1
    assert f"The demo has no server on port {ports[1]}, but on {ports[0]}." in other.output()
    assert answers(ports[0])
    assert demo.end(signal.SIGTERM) == 0
