"""A server that is told to end tells its clients why, whichever it is."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.outlets import KINDS, OutletServer, RawClient, serving


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OutletServer]:
    """A server whose log must be free of errors at the end."""
    with serving(OutletServer(request.param, directory=tmp_path)) as running:
        yield running
        assert running.complaints() == []


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_every_client_is_closed_with_1012(server: OutletServer, signum: int) -> None:
    """It is the server's own close on uvicorn, and ours on daphne, where `sys.closing` comes first."""
    with RawClient(server, "/rooms/r") as plain, RawClient(server, "/rooms/r?ping=60") as opted_in:
        server.wait_for("them to join", connections=2)
        server.send("r")
        server.signal(signum)
        (note,), code, _ = plain.until_close()
        assert (note["MESSAGE_ID"], code) == ("tests.note", 1012)
        (note, *closing), code, _ = opted_in.until_close()
        assert (note["MESSAGE_ID"], code) == ("tests.note", 1012)
        if server.kind == "daphne":
            message = {"code": 1012, "reason": "restart", "retry_after_ms": 0}
            assert closing == [{"MESSAGE_ID": "sys.closing", "message": message}]
        server.wait()


@pytest.mark.parametrize("server", ["daphne"], indirect=True)
def test_daphnes_portable_path_has_a_code_that_means_the_same(server: OutletServer) -> None:
    """daphne's own `send` refuses 1012: 4011 brings clients back as well."""
    with RawClient(server, "/hidden/rooms/r?ping=60") as client:
        server.wait_for("it to join", connections=1)
        server.signal(signal.SIGTERM)
        (closing,), code, _ = client.until_close()
        assert (closing["message"]["code"], code) == (1012, 4011)
        server.wait()


@pytest.mark.parametrize("server", ["daphne"], indirect=True)
def test_a_client_that_does_not_read_holds_up_nobody(server: OutletServer) -> None:
    """Its neighbours have their close frame at once, and the process ends a second later."""
    with (
        RawClient(server, "/rooms/slow", receive_buffer=4096) as slow,
        RawClient(server, "/rooms/r") as neighbour,
    ):
        server.wait_for("them to join", connections=2)
        server.send("slow", count=60, size=10_000)
        assert server.state()["unsent"] > 0
        began = time.monotonic()
        server.signal(signal.SIGTERM)
        assert neighbour.until_close()[1] == 1012
        assert time.monotonic() - began < 0.5
        server.wait()
        assert 0.9 < time.monotonic() - began < 3
        assert slow.frame()
