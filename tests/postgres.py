"""A private PostgreSQL for the tests: a throw-away cluster on a loopback port, of an unprivileged user."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rooms_app.processes import die_with_parent
from tests.live import Process, free_port, short_directory
from tests.waiting import wait_until

_USER = "rooms"
#: Debian's package makes this user; PostgreSQL refuses to run as root.
_UNPRIVILEGED = "postgres"


def find_postgres() -> Path | None:
    """The directory of PostgreSQL's programs; None where it isn't installed."""
    found = shutil.which("postgres")
    if found and (Path(found).resolve().parent / "initdb").exists():
        return Path(found).resolve().parent
    # Debian keeps them, by version, off the PATH.
    return max((path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")), default=None)


def unprivileged() -> dict[str, Any] | None:
    """How to start it as a user that it runs as, as `subprocess` takes it; None where root has no such user."""
    if os.geteuid() != 0:
        return {}
    try:
        entry = pwd.getpwnam(_UNPRIVILEGED)
    except KeyError:
        return None
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _environment() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}


class Postgres(Process):
    """One cluster, with no care for its data: it ends with us."""

    def __init__(self, directory: Path, *, programs: Path, as_user: dict[str, Any]) -> None:
        self.port = free_port()
        self._programs = programs
        self._as_user = as_user
        self._directory = directory
        data = str(directory / "data")
        options = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": directory,
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
            "shared_buffers": "32MB",
        }
        command = [str(programs / "postgres"), "-D", data]
        command += [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        super().__init__(command, log=directory / "postgres.log", env=_environment())

    @property
    def env(self) -> dict[str, str]:
        """What has `tests.settings_postgres` find it."""
        return {"TEST_POSTGRES_PORT": str(self.port)}

    def spawn(self) -> None:
        if self._as_user:
            os.chown(self._directory, self._as_user["user"], self._as_user["group"])
        initdb = [str(self._programs / "initdb"), "-D", str(self._directory / "data"), "-U", _USER]
        initdb += ["--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync"]
        run: dict[str, Any] = {
            "cwd": self._directory,
            "env": _environment(),
            "stdin": subprocess.DEVNULL,
            **self._as_user,
        }
        made = subprocess.run(initdb, capture_output=True, text=True, check=False, **run)
        assert made.returncode == 0, made.stderr
        with self.log.open("ab") as log:
            # It ends at once when the test run is killed; its own processes notice that it has.
            end = die_with_parent(signal.SIGQUIT)
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log, preexec_fn=end, **run)

    def start(self) -> Postgres:
        self.spawn()
        wait_until(self._answers, what=f"PostgreSQL on port {self.port}", timeout=60)
        return self

    def stop(self) -> None:
        # Not SIGTERM, at which it waits for its clients.
        self.signal(signal.SIGQUIT)
        self.wait()

    def _answers(self) -> bool:
        if self.process is not None and self.process.poll() is not None:
            raise AssertionError(f"PostgreSQL ended at once:\n{self.logged()}")
        ask = [
            str(self._programs / "pg_isready"),
            "-h",
            "127.0.0.1",
            "-p",
            str(self.port),
            "-U",
            _USER,
            "-d",
            "postgres",
        ]
        return subprocess.run(ask, stdout=subprocess.DEVNULL, check=False).returncode == 0


@contextlib.contextmanager
def running_postgres() -> Iterator[Postgres]:
    """A PostgreSQL; where it can't run the test is skipped and says why, and under CI fails."""
    programs, as_user = find_postgres(), unprivileged()
    reason = ""
    if programs is None:
        reason = "this test needs PostgreSQL (Debian: apt install postgresql)"
    elif as_user is None:
        reason = f"PostgreSQL does not run as root, and there is no user {_UNPRIVILEGED!r}"
    if programs is None or as_user is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    with short_directory() as directory:
        server = Postgres(directory, programs=programs, as_user=as_user)
        try:
            yield server.start()
        finally:
            server.stop()
