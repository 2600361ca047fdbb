"""`manage.py demo`: the whole chat on one machine, several servers, a worker, and the Redis between them."""

from __future__ import annotations

import os
import secrets
import socket
import sys
import time
from argparse import ArgumentTypeError
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError, connections

from project import worker
from project.processes import ChildEnded, Children, Stopped, how
from project.restart import (
    START_TIMEOUT,
    Address,
    NoRestart,
    RunningDemo,
    ask_for_restart,
    take_requests,
    wait_until_drained,
    withdraw,
)
from rooms_app import RoomsError
from rooms_app.embedded import EmbeddedRedis
from rooms_app.processes import ProcessLock

_APPLICATION = "project.asgi:application"
#: Over how many seconds a server that is restarted closes its connections.
_WINDOW = 5.0


class Command(BaseCommand):
    """Starts what the demo needs, shows where it is, and takes it all down again."""

    help = (
        "Runs the demo: two servers that share one Redis, ready to chat across, and a Celery worker for what takes "
        "longer. Ctrl-C stops everything."
    )

    # A progress line waits for its "ok".
    _line_is_open = False

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        """The parser, with an example at the end of its help."""
        command = f"python manage.py {subcommand}"
        example = f"Example: {command} --ports 8010 8011 --server uvicorn, and beside it {command} --restart 8010"
        return super().create_parser(prog_name, subcommand, epilog=example, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--ports",
            nargs="+",
            type=_port,
            default=[8000, 8001],
            metavar="PORT",
            help="one server process for each (8000 8001)",
        )
        parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (127.0.0.1)")
        parser.add_argument(
            "--server", choices=["daphne", "uvicorn"], default="daphne", help="the ASGI server (daphne)"
        )
        parser.add_argument(
            "--restart",
            type=_port,
            metavar="PORT",
            help="restart one server of the demo that runs in another terminal: drain it, then start it anew",
        )

    def handle(self, *args: Any, ports: list[int], host: str, server: str, restart: int | None, **options: Any) -> None:
        """Run until Ctrl-C or SIGTERM; `CommandError` if something can't start or ends by itself."""
        if sys.platform == "win32":
            raise CommandError("The demo needs Linux or macOS; on Windows, run it under WSL.")
        try:
            if restart is not None:
                self._ask_for_restart(restart)
                return
            with ExitStack() as stack:
                self._run(stack, list(dict.fromkeys(ports)), host, server)
        except Stopped:
            self.stdout.write("Everything is stopped.")
        except (ChildEnded, NoRestart, RoomsError) as error:
            raise CommandError(str(error)) from error

    def _run(self, stack: ExitStack, ports: list[int], host: str, server: str) -> None:
        # First, since from here on a signal no longer ends us wherever we are.
        children = stack.enter_context(Children(self._show))
        lock = _lock()
        if not lock.acquire():
            raise CommandError(
                f"The demo of {settings.BASE_DIR} is already running, as process {lock.holder()}: stop that one first."
            )
        stack.callback(lock.release)
        for port in ports:
            _check_free(host, port)
        redis = self._start_redis(stack)
        children.check()
        with self._step("Migrating the database"):
            self._migrate()
        children.check()
        self._make_superuser()
        connections.close_all()
        # Before Redis, which they use until they end.
        stack.callback(children.stop)
        for port in ports:
            _start_server(children, server, host, port)
        # It comes up beside them.
        worker_pid = _start(children, "celery worker", worker.command())
        deadline = time.monotonic() + START_TIMEOUT
        for port in ports:
            with self._step(f"Starting {_name(server, port)}"):
                _await_server(children, server, host, port, deadline=deadline)
        with self._step("Starting the worker"):
            _await_worker(children, deadline=deadline)
        # When no step waits for its "ok": it says what it does.
        _start(children, "scheduler", [sys.executable, "manage.py", "rooms_scheduler"])
        stack.callback(withdraw, settings.RUNTIME_DIR)
        RunningDemo(pid=os.getpid(), host=_reachable(host), ports=ports).write(settings.RUNTIME_DIR)
        self._welcome(ports, host, worker_pid)
        while True:
            children.wait()
            for port in set(ports).intersection(take_requests(settings.RUNTIME_DIR)):
                with self._step(f"Restarting {_name(server, port)}"):
                    children.stop_one(_name(server, port))
                    children.check()
                    _start_server(children, server, host, port)
                    _await_server(children, server, host, port, deadline=time.monotonic() + START_TIMEOUT)
            if redis is not None and redis.exit_code is not None:
                raise CommandError(
                    f"The bundled Redis ended unexpectedly, {how(redis.exit_code)}: "
                    f"see {settings.RUNTIME_DIR / 'redis.log'}."
                )

    def _start_redis(self, stack: ExitStack) -> EmbeddedRedis | None:
        if os.environ.get("REDIS_URL"):
            self.stdout.write("Using the Redis of REDIS_URL.")
            return None
        redis = EmbeddedRedis(settings.RUNTIME_DIR)
        stack.callback(redis.stop)
        with self._step("Starting the bundled Redis"):
            return redis.start()

    def _migrate(self) -> None:
        try:
            call_command("migrate", interactive=False, verbosity=0)
        except DatabaseError as error:
            raise CommandError(f"The database can't be migrated: {error}.") from error

    def _make_superuser(self) -> None:
        users = get_user_model()._default_manager
        if users.filter(is_superuser=True).exists():
            return
        if users.filter(username="admin").exists():
            self.stdout.write("The user admin is no superuser: make one by `python manage.py createsuperuser`.")
            return
        password = secrets.token_urlsafe(12)
        users.create_superuser(username="admin", email="", password=password)
        self.stdout.write(f"Made the superuser admin with the password {password} (shown only this once).")

    def _ask_for_restart(self, port: int) -> None:
        """Have the demo in the other terminal restart a server whose clients have gone elsewhere first."""
        directory, lock = settings.RUNTIME_DIR, _lock()
        address = RunningDemo.find(directory, lock).address(port)
        process = address.process()
        if process is None:
            raise NoRestart(f"The server on port {port} doesn't answer.")
        call_command("rooms_drain", process=process, window=_WINDOW, stdout=self.stdout, stderr=self.stderr)
        with self._step(f"Waiting until port {port} has no connections left"):
            wait_until_drained(address, _WINDOW)
        with self._step(f"Restarting the server on port {port}"):
            process = ask_for_restart(directory, lock, port, process)
        self.stdout.write(f"Port {port} is served again, by process {process}.")

    def _welcome(self, ports: list[int], host: str, worker_pid: int) -> None:
        urls = [f"http://{_in_url(_reachable(host))}:{port}/" for port in ports]
        lines = ["", self.style.SUCCESS("The chat is up. Open it on different servers and talk across:"), ""]
        lines += [f"    {url}" for url in urls]
        lines += [
            "",
            f"    Admin: {urls[0]}admin/",
            f"    Worker: process {worker_pid}",
            "",
            "Ctrl-C stops everything.",
        ]
        self.stdout.write("\n".join(lines))
        self.stdout.flush()

    @contextmanager
    def _step(self, what: str) -> Iterator[None]:
        """Show that something is being done, and then that it is."""
        self.stdout.write(f"{what} … ", ending="")
        self.stdout.flush()
        self._line_is_open = True
        try:
            yield
            self.stdout.write("ok")
        except BaseException:
            self.stdout.write("not done")
            raise
        finally:
            self._line_is_open = False

    def _show(self, line: str) -> None:
        """Show a line that a server has written; not a failure of ours if nobody reads it."""
        with suppress(OSError):
            if self._line_is_open:
                self.stdout.write("")
                self._line_is_open = False
            self.stdout.flush()
            self.stderr.write(line, lambda text: text)
            self.stderr.flush()


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise ArgumentTypeError(f"{text} is no port: those go from 1 to 65535")
    return int(text)


def _check_free(host: str, port: int) -> None:
    """Raise `CommandError` unless a server could listen there now."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise CommandError(f"--host {host}: {error.strerror}.") from error
    family, kind, protocol, _, address = found[0]
    with socket.socket(family, kind, protocol) as probe:
        # As the servers do: what is left of connections that were closed lately is in nobody's way.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            raise CommandError(
                f"Port {port} on {host} is not free ({error.strerror}): choose others, as in `--ports 8010 8011`."
            ) from error


def _command(server: str, host: str, port: int) -> list[str]:
    """The server's command line; it logs what goes wrong, and no access."""
    if server == "daphne":
        return [sys.executable, "-m", "daphne", "-v", "0", "-b", host, "-p", str(port), _APPLICATION]
    options = {
        "--host": host,
        "--port": str(port),
        "--ws-per-message-deflate": "false",
        "--timeout-graceful-shutdown": "3",
        "--log-level": "warning",
    }
    return [
        sys.executable,
        "-m",
        "uvicorn",
        _APPLICATION,
        *(word for pair in options.items() for word in pair),
    ]


def _name(server: str, port: int) -> str:
    return f"{server} on port {port}"


def _start(children: Children, name: str, command: list[str], **environment: str) -> int:
    variables = {**os.environ, "PYTHONUNBUFFERED": "1", **environment}
    return children.start(name, command, cwd=settings.BASE_DIR, env=variables)


def _start_server(children: Children, server: str, host: str, port: int) -> None:
    environment = {
        "DJANGO_ALLOWED_HOSTS": ",".join({*settings.ALLOWED_HOSTS, _in_url(_reachable(host))}),
    }
    _start(children, _name(server, port), _command(server, host, port), **environment)


def _await_server(children: Children, server: str, host: str, port: int, *, deadline: float) -> None:
    """Return once it answers; `CommandError` if it doesn't by then."""
    address = Address(host=_reachable(host), port=port)
    while address.process() is None:
        children.wait(0.1)
        if time.monotonic() > deadline:
            raise CommandError(f"{_name(server, port)} doesn't answer after {START_TIMEOUT:g} s.")
    children.check()


def _await_worker(children: Children, *, deadline: float) -> None:
    """Return once the worker answers through Redis; `CommandError` if it doesn't by then."""
    while not worker.answers():
        children.wait(0)
        if time.monotonic() > deadline:
            raise CommandError(f"The worker doesn't answer after {START_TIMEOUT:g} s.")
    children.check()


def _lock() -> ProcessLock:
    """What a running demo holds."""
    return ProcessLock(settings.RUNTIME_DIR / "demo.lock")


def _reachable(host: str) -> str:
    """Where a browser on this machine finds a server that listens on this address."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
