"""The faults do what they say: a test that relies on them is worth as much as they are."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.live import RedisServer
from tests.redis_faults import PersistentRedis, SentinelGroup, kill_pubsub, server_binaries
from tests.reply_dropper import ReplyDropper
from tests.waiting import wait_until

SET = "return redis.call('SET', KEYS[1], ARGV[1])"


@pytest.mark.parametrize("binary", [pytest.param(program, id=name) for name, program in server_binaries()])
def test_each_server_of_this_machine_starts(binary: Path, tmp_path: Path) -> None:
    """Whichever it is: Valkey or Redis."""
    server = RedisServer(tmp_path, binary=binary)
    try:
        assert server.start().client.ping()
    finally:
        server.stop()


@pytest.mark.parametrize("sentinels", [1, 3])
def test_a_failover_moves_the_master_and_loses_what_a_frozen_replica_missed(sentinels: int, tmp_path: Path) -> None:
    """The sentinels name the replica, which takes writes, and has only what came before it was frozen."""
    with SentinelGroup(tmp_path, sentinels=sentinels) as group:
        assert group.master_port == group.master.port
        group.master.client.set("early", 1)
        assert group.master.client.wait(1, 5_000) == 1
        group.freeze_replica()
        for number in range(100):
            group.master.client.set("late", number)
        group.kill_master()
        group.thaw_replica()
        group.wait_for_failover()
        assert group.master_port == group.replica.port
        assert group.replica.client.mget("early", "late") == [b"1", None]
        assert group.replica.client.set("later", 1)


def test_a_group_is_found_by_its_hosts(tmp_path: Path) -> None:
    """As redis-py reads them."""
    with SentinelGroup(tmp_path) as group:
        (hosts,) = group.hosts
        finder = redis.Sentinel(hosts["sentinels"], sentinel_kwargs=hosts["sentinel_kwargs"])
        assert finder.discover_master(hosts["master_name"]) == ("127.0.0.1", group.master.port)


def test_kill_pubsub_cuts_subscribers_only(own_redis: RedisServer) -> None:
    """And counts them."""
    with redis.Redis.from_url(own_redis.url) as client, client.pubsub() as first, client.pubsub() as second:
        for subscriber in (first, second):
            subscriber.subscribe("a")
            subscriber.get_message(timeout=5)
        before = client.client_id()
        assert kill_pubsub(client) == 2
        assert client.client_id() == before
        wait_until(lambda: client.pubsub_numsub("a") == [(b"a", 0)], what="the subscribers to be gone")


def test_a_dropped_reply_was_carried_out(own_redis: RedisServer) -> None:
    """Once; its sender sees a lost connection, those beside it nothing, and the next reply comes."""
    with ReplyDropper(own_redis) as proxy, plain_client(proxy.url) as client, plain_client(proxy.url) as other:
        assert other.incrby("count", 0) == 0
        proxy.drop_next_reply(after=b"INCR")
        with pytest.raises(redis.ConnectionError):
            client.incr("count")
        assert (client.get("count"), proxy.dropped) == (b"1", 1)
        assert (client.incr("count"), other.incr("count")) == (2, 3)


def test_a_script_that_redis_did_not_know_is_not_what_is_dropped(own_redis: RedisServer) -> None:
    """Its sender hears NOSCRIPT, loads it, and loses the reply of the call that was carried out."""
    with ReplyDropper(own_redis) as proxy, plain_client(proxy.url) as client:
        script = client.register_script(SET)
        proxy.drop_next_reply(after=b"EVALSHA")
        with pytest.raises(redis.ConnectionError):
            script(keys=["key"], args=["x" * 200_000])
        assert (own_redis.client.strlen("key"), proxy.dropped) == (200_000, 1)


def plain_client(url: str) -> redis.Redis:
    """A client that never tries again by itself."""
    return redis.Redis.from_url(url, socket_timeout=5, retry=Retry(NoBackoff(), 0), protocol=2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_persistent_redis_comes_back_with_all_older_or_no_data(number: signal.Signals, tmp_path: Path) -> None:
    """On the same port, whether it was stopped or killed."""
    server = PersistentRedis(tmp_path)

    def down() -> None:
        server.signal(number)
        server.wait()

    try:
        server.start().client.set("key", "old")
        server.back_up()
        server.client.set("key", "new")
        down()
        server.restart()
        assert server.client.get("key") == b"new"
        down()
        server.go_back()
        server.restart()
        assert server.client.get("key") == b"old"
        down()
        server.empty()
        server.restart()
        assert server.client.get("key") is None
    finally:
        server.stop()
