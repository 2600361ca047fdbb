"""A private RabbitMQ for the tests: loopback ports, a node name and a data directory of its own, and no plugins."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import amqp
import pytest

from tests.live import Process, free_port
from tests.waiting import wait_until

#: Debian's command in /usr/sbin is a wrapper that changes the user and the directory; this is what it wraps.
_DEBIAN = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")

#: Whom RabbitMQ lets in from this machine.
GUEST = {"userid": "guest", "password": "guest"}


def find_rabbitmq() -> Path | None:
    """RabbitMQ's own start script; None where it isn't installed, or Erlang's epmd is missing."""
    found = str(_DEBIAN) if _DEBIAN.exists() else shutil.which("rabbitmq-server")
    return Path(found) if found and shutil.which("epmd") else None


class RabbitMQ:
    """One node, and the port mapper daemon (epmd) that it asks for; both end with us."""

    def __init__(self, directory: Path, *, program: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.port, mapper, distribution = free_port(), free_port(), free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.url = f"amqp://guest:guest@{self.address}//"
        env = {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            # Erlang keeps its cookie there: ours is nobody else's.
            "HOME": str(directory),
            "ERL_EPMD_PORT": str(mapper),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }
        # Started by us, and first: Erlang would start a daemon, which outlives it.
        self._mapper = Process(
            ["epmd", "-address", "127.0.0.1", "-port", str(mapper)], log=directory / "epmd.log", env=env
        )
        self._node = Process(
            [str(program)],
            log=directory / "rabbitmq.log",
            env=env | self._settings(directory, distribution),
        )

    def _settings(self, directory: Path, distribution: int) -> dict[str, str]:
        config = directory / "rabbitmq.conf"
        lines = [
            f"listeners.tcp.local = {self.address}",
            "log.console = true",
            "log.file = false",
            # It stops taking messages where the disk has less.
            "disk_free_limit.absolute = 1MB",
        ]
        config.write_text("\n".join(lines) + "\n")
        plugins = directory / "enabled_plugins"
        plugins.write_text("[].\n")
        return {
            "RABBITMQ_NODENAME": f"rooms-{self.port}@localhost",
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_CONFIG_FILE": str(config),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(plugins),
            "RABBITMQ_MNESIA_BASE": str(directory / "data"),
            "RABBITMQ_LOG_BASE": str(directory / "log"),
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +S 2:2",
            # The script then becomes the server, which so has the pid that we know.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def start(self) -> RabbitMQ:
        self._mapper.spawn()
        self._node.spawn()
        # Its listener is opened last; `rabbitmqctl await_startup` would start a second Erlang to ask.
        wait_until(self._answers, what=f"RabbitMQ on port {self.port}", timeout=60)
        return self

    def stop(self) -> None:
        # Nobody wants its data: killed, it ends at once.
        self._node.kill()
        self._mapper.kill()

    def _answers(self) -> bool:
        if self._node.process is not None and self._node.process.poll() is not None:
            raise AssertionError(f"RabbitMQ ended at once:\n{self._node.logged()}")
        try:
            with amqp.Connection(self.address, **GUEST, connect_timeout=2):
                return True
        except (OSError, amqp.AMQPError):
            return False


@pytest.fixture(scope="session")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    """A RabbitMQ that the tests of this process share; where it is not installed they say so, and under CI fail."""
    program = find_rabbitmq()
    if program is None:
        reason = "this test needs RabbitMQ (Debian: apt install rabbitmq-server)"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    server = RabbitMQ(tmp_path_factory.mktemp("rabbitmq"), program=program)
    try:
        yield server.start()
    finally:
        server.stop()
