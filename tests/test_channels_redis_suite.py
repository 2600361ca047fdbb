"""Our layer in channels_redis's place: its own test suite, and encryption, which that suite does not touch."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from django.utils.module_loading import import_string

from tests.live import ROOT, RedisServer
from tests.redis_faults import SentinelGroup
from tests.waiting import until

LAYER = "rooms_app.layers.RoomsRedisChannelLayer"

#: What the suite takes from the package `async_timeout`, which newer Pythons need no more.
ASYNC_TIMEOUT = "from asyncio import timeout as timeout\n"


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked source distribution of the channels_redis that is installed: no wheel has its tests."""
    directory, release = tmp_path_factory.mktemp("channels_redis"), version("channels_redis")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "channels_redis"]
    fetched = subprocess.run(
        [*command, "--dest", str(directory), f"channels_redis=={release}"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
    )
    if fetched.returncode != 0:
        pytest.fail(f"the sources of channels_redis {release} can't be fetched:\n{fetched.stdout}{fetched.stderr}")
    (archive,) = directory.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(directory, filter="data")
    return directory / archive.name.removesuffix(".tar.gz")


def run_unchanged(test_file: Path, directory: Path, replacements: dict[str, str]) -> None:
    """Run one file of the suite in a pytest of its own, with nothing replaced but what is named here."""
    module, _, name = LAYER.rpartition(".")
    old = "from channels_redis.pubsub import RedisPubSubChannelLayer"
    replacements = {old: f"from {module} import {name} as RedisPubSubChannelLayer", **replacements}
    text = test_file.read_text()
    for old, new in replacements.items():
        assert old in text, f"{test_file.name} does not say {old!r} any more"
        text = text.replace(old, new)
    (directory / test_file.name).write_text(text)
    (directory / "setup.cfg").write_text((test_file.parent.parent / "setup.cfg").read_text())
    (directory / "async_timeout.py").write_text(ASYNC_TIMEOUT)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "DJANGO_"))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-v", test_file.name],
        cwd=directory,
        env={**env, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    tests = text.count("\ndef test_") + text.count("\nasync def test_")
    assert f"== {tests} passed in" in done.stdout, done.stdout


@pytest.mark.slow
def test_pubsub(sources: Path, own_redis: RedisServer, tmp_path: Path) -> None:
    """`tests/test_pubsub.py` of channels_redis passes."""
    run_unchanged(sources / "tests" / "test_pubsub.py", tmp_path, {"redis://localhost:6379": own_redis.url})


@pytest.mark.slow
def test_pubsub_sentinel(sources: Path, tmp_path: Path) -> None:
    """`tests/test_pubsub_sentinel.py` of channels_redis passes."""
    with SentinelGroup(tmp_path / "group") as group:
        (host,) = group.hosts
        replacements = {
            '("localhost", 26379)': str(host["sentinels"][0]),
            'SENTINEL_MASTER = "sentinel"': f'SENTINEL_MASTER = "{group.master_name}"',
            '{"password": "channels_redis"}': "{}",
        }
        run_unchanged(sources / "tests" / "test_pubsub_sentinel.py", tmp_path, replacements)


KEYS = {"plain": None, "encrypted": ["key"], "rotated": ["new", "key"]}


@pytest.fixture(params=KEYS)
async def layers(request: pytest.FixtureRequest, own_redis: RedisServer) -> AsyncIterator[tuple[Any, Any]]:
    """A sender and a receiver; "rotated" is the receiver that already has a new key, and still reads the old."""
    of_sender, of_receiver = KEYS[request.param] and ["key"], KEYS[request.param]
    sender, receiver = (
        import_string(LAYER)(hosts=[own_redis.url], symmetric_encryption_keys=keys) for keys in (of_sender, of_receiver)
    )
    yield sender, receiver
    await sender.flush()
    await receiver.flush()


@pytest.mark.parametrize("message_type", ["room.message", "test.message"])
async def test_sends_and_groups_work_encrypted(
    layers: tuple[Any, Any], message_type: str, own_redis: RedisServer, request: pytest.FixtureRequest
) -> None:
    """In order; without keys the text is seen in what Redis is told, with keys it is not."""
    sender, receiver = layers
    with own_redis.client.monitor() as monitor:
        channel = await receiver.new_channel()
        await receiver.group_add("group", channel)
        # Channels' own layer returns before Redis has subscribed it.
        await until(lambda: len(own_redis.client.pubsub_channels("*")) >= 2, what="the subscriptions")
        await sender.send(channel, {"type": message_type, "text": "secret 1"})
        assert (await receiver.receive(channel))["text"] == "secret 1"
        for number in (2, 3):
            await sender.group_send("group", {"type": message_type, "text": f"secret {number}"})
        assert [(await receiver.receive(channel))["text"] for _ in range(2)] == ["secret 2", "secret 3"]
        own_redis.client.echo("the end")
        told = list(itertools.takewhile(lambda each: each["command"] != "ECHO the end", monitor.listen()))
    is_plain = "plain" in request.node.callspec.id
    assert any("secret" in each["command"] for each in told) is is_plain
