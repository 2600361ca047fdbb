"""One contract for every way out: real daphne and uvicorn, their direct outlets and the portable one."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.frames import Frame, Opcode

from tests.outlets import (
    CLOSE,
    DEFLATE,
    KINDS,
    PING,
    TEXT,
    OutletServer,
    RawClient,
    TlsServer,
    notes,
    serving,
)

#: With the first a connection takes the server's own outlet, with the second the portable one.
PREFIXES = {"direct": "", "portable": "/hidden"}


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OutletServer]:
    """A server that gives its slow clients a lot of room."""
    directory = tmp_path_factory.mktemp("outlets")
    bounds = {"max_unsent_bytes": 20_000_000, "max_unsent_messages": 100_000}
    with serving(OutletServer(request.param, directory=directory, **bounds, slow_grace=1.0)) as running:
        yield running
        assert running.complaints() == []


@pytest.fixture(params=PREFIXES)
def prefix(request: pytest.FixtureRequest) -> str:
    return PREFIXES[request.param]


@pytest.fixture
def room(request: pytest.FixtureRequest) -> str:
    """A room of the test's own."""
    return f"room-{abs(hash(request.node.name))}"


def reference(payload: str | bytes) -> bytes:
    """The frame as the websockets library makes it."""
    if isinstance(payload, str):
        return Frame(Opcode.TEXT, payload.encode()).serialize(mask=False)
    return Frame(Opcode.BINARY, payload).serialize(mask=False)


def as_json(payload: str | bytes) -> dict[str, str]:
    return {"text": payload} if isinstance(payload, str) else {"base64": base64.b64encode(payload).decode()}


SIZES = [1, 125, 126, 65_535, 65_536, 200_000]
TEXTS = ["x" * size for size in SIZES]
BATCHES: dict[str, list[str | bytes]] = {
    **{f"{size} bytes": ["x" * size] for size in SIZES},
    "not ASCII": ["grüße, 你好, 🎈", "ü" * 63, "€" * 30_000],
    "binary": [b"\xff\x00", bytes(126), b"\x81" * 70_000],
    "several": ["a", b"b", "c" * 126, b"\xff", "ü"],
}


@pytest.mark.parametrize("payloads", BATCHES.values(), ids=BATCHES)
def test_the_same_bytes_go_on_the_wire(
    server: OutletServer, prefix: str, room: str, payloads: list[str | bytes]
) -> None:
    """Whatever the server and the path: the frames of the reference, joined, and nothing else."""
    with RawClient(server, f"{prefix}/rooms/{room}") as client:
        assert server.call("/write", room=room, payloads=[as_json(payload) for payload in payloads]) == 1
        server.call("/write", room=room, payloads=[{"text": "end"}])
        expected = b"".join(map(reference, [*payloads, "end"]))
        assert client.read(len(expected)) == expected


def test_an_empty_message_is_an_empty_frame(server: OutletServer, prefix: str, room: str) -> None:
    """But daphne's own `send` drops empty messages, so its portable path can't send them."""
    is_dropped = server.kind == "daphne" and bool(prefix)
    with RawClient(server, f"{prefix}/rooms/{room}") as client:
        server.call("/write", room=room, payloads=[{"text": ""}, {"base64": ""}, {"text": "end"}])
        expected = reference("end") if is_dropped else reference("") + reference(b"") + reference("end")
        assert client.read(len(expected)) == expected


@pytest.mark.parametrize("path", ["rooms", "chatty"])
def test_notes_arrive_in_order(server: OutletServer, prefix: str, room: str, path: str) -> None:
    """Through the layer and the hub, in batches of whatever size."""
    with RawClient(server, f"{prefix}/{path}/{room}") as client:
        server.wait_for("the join", connections=1)
        server.send(room, count=300, size=100)
        expected = notes(room, count=300, size=100)
        assert client.read(len(expected)) == expected


def is_blind(server: OutletServer, prefix: str) -> bool:
    """daphne's `send` never pushes back: only its own outlet sees what waits in the transport."""
    return server.kind == "daphne" and bool(prefix)


def test_a_pause_loses_nothing_and_nothing_gets_stuck(server: OutletServer, prefix: str, room: str) -> None:
    """A client that stops reading for a while, within the bounds, gets everything, and what comes later."""
    size, count = 10_000, 400
    with RawClient(server, f"{prefix}/rooms/{room}", receive_buffer=4096) as client:
        server.send(room, count=count, size=size)
        assert server.state()["behind"] == (not is_blind(server, prefix))
        expected = notes(room, count=count, size=size)
        # In pieces, so that it pauses and resumes many times over, with more sent meanwhile.
        half = len(expected) // 2
        assert client.read(half) == expected[:half]
        server.send(room, first=count, count=50, size=size)
        expected += notes(room, first=count, count=50, size=size)
        assert client.read(len(expected) - half) == expected[half:]
        server.wait_for("the backlog to go", behind=0)
        server.send(room, first=1000)
        assert client.json()["message"]["number"] == 1000


def test_a_pause_caused_by_other_traffic_is_no_dead_end(server: OutletServer, prefix: str, room: str) -> None:
    """The endpoint's own `send_text`, past the hub, filled the server: frames wait, and then go out."""
    # daphne's `send` takes at most 1 MiB at once.
    size = 1_000_000
    with RawClient(server, f"{prefix}/chatty/{room}", receive_buffer=4096) as client:
        server.wait_for("the join", connections=1)
        for first in (0, 20):
            for _ in range(2):
                client.send(TEXT, str(size).encode())
            # Nothing tells that the endpoint has read them; a send that comes too early only proves less.
            time.sleep(0.2)
            server.send(room, first=first, count=20)
        assert server.state()["behind"] == (not is_blind(server, prefix))
        received = [client.frame()[1] for _ in range(44)]
        assert [len(payload) for payload in received if payload.startswith(b"x")] == [size] * 4
        numbers = [json.loads(payload)["message"]["number"] for payload in received if payload[:1] == b"{"]
        assert numbers == list(range(40))
        server.wait_for("the backlog to go", behind=0)
        server.send(room, first=1000)
        assert client.json()["message"]["number"] == 1000


def test_a_client_may_close_first(server: OutletServer, prefix: str, room: str) -> None:
    """It gets its close frame back, and leaves the room; `on_close` sees the code."""
    with RawClient(server, f"{prefix}/rooms/{room}") as client:
        before = server.state()["closings"]
        client.send(CLOSE, (1000).to_bytes(2, "big") + b"bye")
        assert client.frame()[0] == CLOSE
        assert client.rest() == b""
    assert server.wait_for("it to leave", connections=0, running=0)["closings"] == [*before, 1000]


def test_pings_are_answered_between_frames(server: OutletServer, prefix: str, room: str) -> None:
    """The server's own frames and ours never mix."""
    with RawClient(server, f"{prefix}/rooms/{room}") as client:
        for number in range(20):
            client.send(PING, b"?")
            server.send(room, first=number, size=70_000)
        seen = [client.frame() for _ in range(40)]
        assert sum(opcode == 10 for opcode, _ in seen) == 20
        numbers = [json.loads(payload)["message"]["number"] for opcode, payload in seen if opcode == TEXT]
        assert numbers == list(range(20))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prefix", PREFIXES.values(), ids=PREFIXES)
def test_max_age_closes_with_code_and_reason(kind: str, prefix: str, tmp_path: Path) -> None:
    """4011 arrives, `on_close` sees it, and the client's answer ends the stream without a second close frame.

    daphne's own `send` drops the reason; its outlet does not.
    """
    with serving(OutletServer(kind, directory=tmp_path, max_age=1)) as server:
        with RawClient(server, f"{prefix}/rooms/r") as client:
            messages, code, reason = client.until_close()
            is_dropped = kind == "daphne" and prefix
            assert (messages, code, reason) == ([], 4011, "" if is_dropped else "reconnect")
            client.send(CLOSE, code.to_bytes(2, "big"))
            if kind == "uvicorn":
                assert client.rest() == b""
            else:
                # Autobahn ends a close handshake that it began by a reset.
                with pytest.raises(ConnectionResetError):
                    client.rest()
        assert server.wait_for("it to leave", connections=0, running=0)["closings"] == [4011]
        assert server.complaints() == []


@pytest.mark.parametrize("kind", [OutletServer, TlsServer])
def test_a_close_that_was_answered_needs_no_reset(kind: type[OutletServer], tmp_path: Path) -> None:
    """The end of the grace finds the connection gone, also where a TLS transport can't tell any more."""
    with serving(kind("uvicorn", directory=tmp_path, max_age=1, slow_grace=0.2)) as server:
        with RawClient(server, "/rooms/r", is_tls=kind is TlsServer) as client:
            assert client.until_close()[1:] == (4011, "reconnect")
            client.send(CLOSE, (4011).to_bytes(2, "big"))
            assert client.rest() == b""
        time.sleep(0.5)
        assert server.state()["running"] == 0
        assert server.complaints() == []


@pytest.mark.parametrize("prefix", PREFIXES.values(), ids=PREFIXES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_busy_server_says_so(kind: str, prefix: str, tmp_path: Path) -> None:
    """1013 reaches the client. daphne's `send` refuses the code: its portable path says 4011."""
    with serving(OutletServer(kind, directory=tmp_path, max_connections=1)) as server:
        with RawClient(server, "/rooms/r"), RawClient(server, f"{prefix}/rooms/r") as refused:
            expected = 4011 if kind == "daphne" and prefix else 1013
            assert refused.until_close()[1] == expected
        server.wait_for("both to leave", connections=0, running=0)
        assert server.complaints() == []


# Which way it is


def path_counts(server: OutletServer) -> dict[str, int]:
    """How many connections took each path."""
    counts = server.state()["counts"]
    return {name: count for name, count in counts.items() if name.startswith("path_")}


@pytest.mark.parametrize("kind", KINDS)
def test_the_direct_outlet_is_taken_unless_something_is_in_the_way(kind: str, tmp_path: Path) -> None:
    """A wrapper around `send`, or a negotiated compression; daphne never negotiates one."""
    with serving(OutletServer(kind, directory=tmp_path)) as server, RawClient(server, "/rooms/r"):
        assert path_counts(server) == {f"path_{kind}": 1}
        with RawClient(server, "/chatty/r"), RawClient(server, "/hidden/rooms/r"):
            server.wait_for("all to be in", connections=3)
            assert path_counts(server) == {f"path_{kind}": 2, "path_asgi": 1}
        with RawClient(server, "/rooms/r", headers=DEFLATE) as browser:
            is_compressed = b"permessage-deflate" in browser.response
            assert is_compressed == (kind == "uvicorn")
            expected = {f"path_{kind}": 2 + (not is_compressed), "path_asgi": 1 + is_compressed}
            assert path_counts(server) == expected


def test_without_compression_in_uvicorn_browsers_take_the_direct_outlet(tmp_path: Path) -> None:
    """`--ws-per-message-deflate false`: every browser offers it, and uvicorn takes it by default."""
    options = ["--ws-per-message-deflate", "false"]
    uvicorn = OutletServer("uvicorn", directory=tmp_path, options=options)
    with serving(uvicorn) as server, RawClient(server, "/rooms/r", headers=DEFLATE):
        assert path_counts(server) == {"path_uvicorn": 1}


@pytest.mark.parametrize("kind", KINDS)
def test_tls_in_the_server_takes_the_portable_path(kind: str, tmp_path: Path) -> None:
    with serving(TlsServer(kind, directory=tmp_path)) as server:
        with RawClient(server, "/rooms/r", is_tls=True) as client:
            assert path_counts(server) == {"path_asgi": 1}
            server.send("r", count=50, size=10_000)
            expected = notes("r", count=50, size=10_000)
            assert client.read(len(expected)) == expected
        server.wait_for("it to leave", connections=0, running=0)
        assert server.complaints() == []


async def test_a_server_that_nobody_knows_takes_the_portable_path(settings: Any) -> None:
    """Such as the test client of Channels."""
    from tests.clients import clients, the_hub

    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    async with clients("/rooms/a"):
        assert the_hub().counts["path_asgi"] == 1
