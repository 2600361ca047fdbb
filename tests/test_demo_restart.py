"""`manage.py demo --restart`: one server of a running demo, from another terminal."""

from __future__ import annotations

import contextlib
import json
import re
import signal
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from tests.commands import READY, Family, answers, checkout, family, needs_proc, new_checkout, ports, process_at

__all__ = ["checkout", "family", "new_checkout", "ports"]

pytestmark = [needs_proc, pytest.mark.slow]


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
    # A line of the server's log may come in between, of a request that was cut off.
    assert re.search(rf"Restarting {server} on port {ports[0]} … (\n(.+\n)*)?ok\n", demo.output())
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
