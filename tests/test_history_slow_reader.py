"""A client too slow for its bound is closed, comes back with its last id, and has missed nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live import RedisServer
from tests.outlets import KINDS, OutletServer, RawClient, serving

#: Far less than what was missed: a replay does not count against it.
BOUNDS: dict[str, Any] = {"max_unsent_bytes": 262_144, "max_unsent_messages": 100_000, "slow_grace": 5.0}
ROOM = "/rooms/r"


class HistoryServer(OutletServer):
    """`asgi_outlets` on the layer with history."""

    def __init__(self, kind: str, redis_server: RedisServer, *, directory: Path) -> None:
        super().__init__(kind, directory=directory, **BOUNDS)
        assert self._env is not None
        self._env["TEST_REDIS_URL"] = redis_server.url


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest, own_redis: RedisServer, tmp_path: Path) -> Iterator[HistoryServer]:
    """A real server, whose log must be free of errors at the end."""
    with serving(HistoryServer(request.param, own_redis, directory=tmp_path)) as running:
        yield running  # type: ignore[misc]
        assert running.complaints() == []


def test_a_slow_reader_comes_back_and_has_missed_nothing(server: HistoryServer) -> None:
    """Also where it is slow again with what it missed, which is more than a connection may have unsent."""
    sent = 0
    with RawClient(server, f"{ROOM}?since=latest", receive_buffer=4096) as client:
        assert client.json()["MESSAGE_ID"] == "sys.resumed"
        while server.state()["slow"] == 0:
            server.send("r", first=sent, count=20, size=8000)
            sent += 20
            assert sent < 2_000
        frames, code, _ = client.until_close()
    assert code == 4008
    assert frames.pop()["MESSAGE_ID"] == "sys.closing"
    numbers = [frame["message"]["number"] for frame in frames]
    server.send("r", first=sent, count=100, size=8000)
    sent += 100
    with RawClient(server, f"{ROOM}?since={frames[-1]['id']}", receive_buffer=4096) as client:
        # It is written as it is taken: none of it is unsent in this sense.
        state = server.wait_for("its return", connections=1)
        assert state["unsent"] <= BOUNDS["max_unsent_bytes"] + 512 * 1024
        server.send("r", first=sent, count=2, size=100)
        while (frame := client.json())["MESSAGE_ID"] != "sys.resumed":
            numbers.append(frame["message"]["number"])
        assert numbers == list(range(sent))
        assert [client.json()["message"]["number"] for _ in range(2)] == [sent, sent + 1]
