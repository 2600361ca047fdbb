"""A Redis that fails in known ways: failovers, cut subscriptions, and data that goes back in time."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any, Self

import redis

from rooms_app.embedded import find_server
from tests.live import Process, RedisServer, free_port
from tests.waiting import wait_until

_TIMEOUTS = {"socket_timeout": 5, "socket_connect_timeout": 1}


def server_binaries() -> list[tuple[str, Path]]:
    """Each Valkey and Redis server of this machine as (name, program): the bundled one, and those on the PATH."""
    found = {"bundled": find_server()}
    for name in ("valkey-server", "redis-server"):
        if program := shutil.which(name):
            found.setdefault(name, Path(program))
    if found["bundled"] in list(found.values())[1:]:
        del found["bundled"]
    return list(found.items())


def kill_pubsub(client: redis.Redis) -> int:
    """Cut every connection that is subscribed to something; says how many there were."""
    return int(client.client_kill_filter(_type="pubsub"))


class PersistentRedis(RedisServer):
    """A Redis that writes its data to disk; stopped or killed it can come back with all, older or no data."""

    def __init__(self, directory: Path, *, binary: Path | None = None) -> None:
        super().__init__(directory, binary=binary, append_only=True)
        self._data = directory / "appendonlydir"
        self._backup = directory / "backup"

    def back_up(self) -> None:
        """Keep a copy of the data as it is now, also while the server runs."""
        shutil.rmtree(self._backup, ignore_errors=True)
        shutil.copytree(self._data, self._backup)

    def go_back(self) -> None:
        """Put the data back to the copy, as an append-only file does that lost its tail; while the server is down."""
        self.empty()
        shutil.copytree(self._backup, self._data)

    def empty(self) -> None:
        """Delete the data; while the server is down."""
        assert self.process is None or self.process.poll() is not None, "the server still runs"
        shutil.rmtree(self._data, ignore_errors=True)


class Sentinel(Process):
    """One process that watches a master, and with others of its kind promotes the replica."""

    def __init__(self, directory: Path, *, binary: Path, master_name: str, master_port: int, quorum: int) -> None:
        directory.mkdir(parents=True)
        self.port = free_port()
        watched = [
            f"monitor {master_name} 127.0.0.1 {master_port} {quorum}",
            f"down-after-milliseconds {master_name} 500",
            # An attempt that finds no replica to promote is repeated after twice this time.
            f"failover-timeout {master_name} 1000",
        ]
        # A file, which it rewrites: a sentinel takes no other configuration.
        config = directory / "sentinel.conf"
        lines = [f"port {self.port}", "bind 127.0.0.1", f"dir {directory}", *(f"sentinel {line}" for line in watched)]
        config.write_text("\n".join(lines) + "\n")
        super().__init__([str(binary), str(config), "--sentinel"], log=directory / "sentinel.log")
        self.client = redis.Redis(host="127.0.0.1", port=self.port, **_TIMEOUTS)
        self._master_name = master_name

    def master_port(self) -> int:
        """The port that it sends clients to; 0 while it does not answer."""
        try:
            return int(self.client.sentinel_get_master_addr_by_name(self._master_name)[1])
        except redis.RedisError:
            return 0

    def knows(self, *, replicas: int, sentinels: int) -> bool:
        """Whether it has seen so many replicas in sync, and other sentinels."""
        try:
            known = self.client.sentinel_slaves(self._master_name)
            others = self.client.sentinel_sentinels(self._master_name)
        except redis.RedisError:
            return False
        in_sync = [replica for replica in known if replica["master-link-status"] == "ok"]
        return len(in_sync) == replicas and len(others) == sentinels


class SentinelGroup:
    """A master, a replica, and sentinels that promote the replica within seconds of the master's death.

    A replica that was frozen before the master was killed, and thawed after, has older data than the master had.
    """

    def __init__(
        self, directory: Path, *, binary: Path | None = None, master_name: str = "main", sentinels: int = 1
    ) -> None:
        self._binary = binary or find_server()
        self._directory = directory
        self._count = sentinels
        self.master_name = master_name
        self.master = RedisServer(directory / "master", binary=self._binary)
        self.replica = RedisServer(directory / "replica", binary=self._binary)
        self.sentinels: list[Sentinel] = []

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *failure: object) -> None:
        self.stop()

    @property
    def hosts(self) -> list[dict[str, Any]]:
        """What CHANNEL_LAYERS takes as `hosts`."""
        return [
            {
                "sentinels": [("127.0.0.1", sentinel.port) for sentinel in self.sentinels],
                "master_name": self.master_name,
                "sentinel_kwargs": dict(_TIMEOUTS),
                **_TIMEOUTS,
            }
        ]

    @property
    def master_port(self) -> int:
        """The port of the master, as the first sentinel has it; 0 while it does not answer."""
        return self.sentinels[0].master_port()

    def start(self) -> Self:
        """Return once the replica is in sync and every sentinel knows of it."""
        try:
            self.master.start()
            self.replica.start()
            # It waits 5 s for further replicas before the first sync, else.
            self.master.client.config_set("repl-diskless-sync-delay", 0)
            self.replica.client.replicaof("127.0.0.1", self.master.port)
            wait_until(self._is_in_sync, what="the replica to be in sync", timeout=30)
            for number in range(self._count):
                sentinel = Sentinel(
                    self._directory / f"sentinel-{number}",
                    binary=self._binary,
                    master_name=self.master_name,
                    master_port=self.master.port,
                    quorum=self._count // 2 + 1,
                )
                self.sentinels.append(sentinel)
                sentinel.spawn()
            for sentinel in self.sentinels:
                wait_until(
                    lambda sentinel=sentinel: sentinel.knows(replicas=1, sentinels=self._count - 1),  # type: ignore[misc]
                    what=f"the sentinel on port {sentinel.port} to know the replica",
                    timeout=30,
                )
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        # The sentinels first: they would promote the replica.
        for process in (*self.sentinels, self.replica, self.master):
            process.stop()

    def freeze_replica(self) -> None:
        """Stop the replica's process: nothing that is written from now on reaches it, before it is thawed."""
        self.replica.signal(signal.SIGSTOP)
        wait_until(lambda: os.waitid(os.P_PID, self.replica.pid, _IS_STOPPED), what="the replica to be stopped")
        # Or its kernel would go on to take what the master sends, and it would read that when it is thawed.
        self.master.client.client_kill_filter(_type="replica")
        wait_until(lambda: self._replication(self.master)["connected_slaves"] == 0, what="the replica to be cut off")

    def thaw_replica(self) -> None:
        self.replica.signal(signal.SIGCONT)

    def kill_master(self) -> None:
        self.master.kill()

    def wait_for_failover(self) -> None:
        """Wait until every sentinel names the replica as the master, and it takes writes."""
        wait_until(self._has_failed_over, what="the replica to be the master", timeout=30)

    def _is_in_sync(self) -> bool:
        return str(self._replication(self.replica).get("master_link_status")) == "up"

    def _has_failed_over(self) -> bool:
        if any(sentinel.master_port() != self.replica.port for sentinel in self.sentinels):
            return False
        try:
            # A write command that writes nothing; a replica refuses it.
            return self.replica.client.delete("tests-no-such-key") == 0
        except redis.RedisError:
            return False

    @staticmethod
    def _replication(server: RedisServer) -> dict[str, Any]:
        return dict(server.client.info("replication"))


#: Asks `waitid` for a stopped child, and leaves the child as it is.
_IS_STOPPED = os.WSTOPPED | os.WNOHANG | os.WNOWAIT
