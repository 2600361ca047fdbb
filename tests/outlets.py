"""For tests of the outlets: servers of `asgi_outlets`, clients that read when told to, or all there is."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import select
import socket
import ssl
import struct
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx

from rooms_app import envelope
from rooms_app.servers import Batch
from tests.app.notes import note
from tests.live import LiveServer, free_port
from tests.waiting import wait_until

TEXT, BINARY, CLOSE, PING = 1, 2, 8, 9
KINDS = ("daphne", "uvicorn")
#: What a browser offers.
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class OutletServer(LiveServer):
    """`asgi_outlets` on a real server; `directory` keeps its log."""

    def __init__(self, kind: str, *, directory: Path, options: list[str] | None = None, **rooms: Any) -> None:
        env = {"DJANGO_SETTINGS_MODULE": "tests.app.settings_outlets", "TEST_ROOMS": json.dumps(rooms)}
        application = "tests.app.asgi_outlets:application"
        # The servers' own pings, each 20 s, would stand between the frames whose bytes are compared.
        quiet = {"daphne": "--ping-interval", "uvicorn": "--ws-ping-interval"}[kind]
        options = [quiet, "3600", *(options or [])]
        super().__init__(kind, env=env, directory=directory, application=application, options=options)
        self.http = httpx.Client(base_url=self.url, timeout=60, verify=False)
        #: Where it speaks TLS, if it does.
        self.tls_port = 0

    def call(self, path: str, **arguments: Any) -> Any:
        """What a route of the application answers."""
        return self.http.request("POST", path, json=arguments).raise_for_status().json()

    def send(self, room: str, *, first: int = 0, count: int = 1, size: int = 0) -> None:
        self.call("/send", room=room, first=first, count=count, size=size)

    def state(self) -> dict[str, Any]:
        return dict(self.call("/state"))

    def wait_for(self, what: str, timeout: float = 10, **expected: Any) -> dict[str, Any]:
        """The state, once it has these values."""
        wait_until(lambda: expected.items() <= self.state().items(), what=what, timeout=timeout)
        return self.state()

    async def soon(self, what: str, timeout: float = 10, **expected: Any) -> dict[str, Any]:
        """`wait_for` for async tests: the clients of their event loop go on meanwhile."""
        return await asyncio.to_thread(self.wait_for, what, timeout, **expected)

    def complaints(self) -> list[str]:
        """The lines of the log that tell of an error."""
        signs = ("ERROR", "CRITICAL", "Traceback", "never awaited", "Unhandled", "never retrieved")
        return [line for line in self.logged().splitlines() if any(sign in line for sign in signs)]


class TlsServer(OutletServer):
    """The same behind TLS, with a certificate of its own."""

    def __init__(self, kind: str, *, directory: Path, **rooms: Any) -> None:
        key, certificate = directory / "key.pem", directory / "certificate.pem"
        subject = ["-subj", "/CN=127.0.0.1", "-days", "1", "-keyout", str(key), "-out", str(certificate)]
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *subject]
        subprocess.run(command, check=True, capture_output=True)
        port = free_port()
        options = {
            "uvicorn": ["--ssl-keyfile", str(key), "--ssl-certfile", str(certificate)],
            "daphne": ["-e", f"ssl:{port}:interface=127.0.0.1:privateKey={key}:certKey={certificate}"],
        }[kind]
        super().__init__(kind, directory=directory, options=options, **rooms)
        if kind == "uvicorn":
            self.url = self.url.replace("http:", "https:")
            self.http = httpx.Client(base_url=self.url, timeout=60, verify=False)
        # daphne listens on two ports: the plain one serves the HTTP routes.
        self.tls_port = port if kind == "daphne" else self.port

    def _answers(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return self.http.get("/health/live").status_code == 200
        return False


@contextlib.contextmanager
def serving(server: OutletServer) -> Iterator[OutletServer]:
    """Start a server, and stop it at the end."""
    try:
        server.start()
        yield server
    finally:
        server.http.close()
        server.stop()


def notes(room: str, *, first: int = 0, count: int, size: int = 0) -> bytes:
    """The bytes on the wire of what `OutletServer.send` sends."""
    texts = [envelope.encode(note(number, size)) for number in range(first, first + count)]
    return Batch([envelope.addressed(text, room) for text in texts]).wire


def request(path: str, headers: str = "") -> bytes:
    """The opening handshake of a client that is no browser."""
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n{headers}\r\n"
    ).encode()


class RawClient:
    """A WebSocket made by hand: it reads exactly what it is told to read."""

    def __init__(
        self,
        server: OutletServer,
        path: str,
        *,
        headers: str = "",
        receive_buffer: int | None = None,
        is_tls: bool = False,
    ) -> None:
        self.tcp = socket.socket()
        if receive_buffer is not None:
            self.tcp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.tcp.settimeout(10)
        self.tcp.connect(("127.0.0.1", server.tls_port if is_tls else server.port))
        self.stream: socket.socket = self.tcp
        if is_tls:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            self.stream = context.wrap_socket(self.tcp)
            self.tcp = self.stream
        self.stream.sendall(request(path, headers))
        self.response = b""
        while not self.response.endswith(b"\r\n\r\n"):
            self.response += self.read(1)
        assert self.response.startswith(b"HTTP/1.1 101"), self.response

    def read(self, size: int) -> bytes:
        """Exactly so many bytes; fails the test where the stream ends before."""
        parts, missing = [], size
        while missing:
            part = self.stream.recv(min(missing, 1 << 20))
            assert part, f"the stream ended with {missing} of {size} bytes missing"
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def frame(self) -> tuple[int, bytes]:
        """The next frame: opcode and payload."""
        first, size = self.read(2)
        if size >= 126:
            size = int.from_bytes(self.read(2 if size == 126 else 8), "big")
        return first & 0x0F, self.read(size)

    def json(self) -> Any:
        """The next frame, which is a text."""
        opcode, payload = self.frame()
        assert opcode == TEXT, (opcode, payload)
        return json.loads(payload)

    def until_close(self) -> tuple[list[Any], int, str]:
        """The messages up to the close frame, its code and its reason."""
        messages = []
        while True:
            opcode, payload = self.frame()
            if opcode == CLOSE:
                return messages, int.from_bytes(payload[:2], "big"), payload[2:].decode()
            if opcode == TEXT:
                messages.append(json.loads(payload))

    def send(self, opcode: int, payload: bytes) -> None:
        """Send a frame; the mask is all zeros."""
        size = len(payload)
        length = bytes([0x80 | size]) if size < 126 else struct.pack("!BQ", 0xFF, size)
        self.stream.sendall(bytes([0x80 | opcode]) + length + bytes(4) + payload)

    def rest(self) -> bytes:
        """What comes until the server ends the stream; raises `ConnectionResetError` where it is reset."""
        parts = []
        while part := self.stream.recv(1 << 20):
            parts.append(part)
        return b"".join(parts)

    def is_reset(self, timeout: float) -> bool:
        """Whether the server resets the connection in time, without anything being read."""
        poll = select.poll()
        poll.register(self.tcp, 0)
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            if any(event & select.POLLERR for _, event in poll.poll(left * 1000)):
                return True
        return False

    def reset(self) -> None:
        """Vanish, as a process that is killed with data unread."""
        self.tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.tcp.close()

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *error: object) -> None:
        self.stream.close()


class Neighbour(asyncio.Protocol):
    """A client that reads all it gets; only how much, and a hash of it, are kept."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._head: bytes | None = b""
        self.transport: Any = None
        self.received = 0
        self.digest = hashlib.sha256()
        self.is_open = asyncio.Event()
        self.is_lost = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(request(self._path))

    def data_received(self, data: bytes) -> None:
        if self._head is not None:
            self._head += data
            if b"\r\n\r\n" not in self._head:
                return
            data, self._head = self._head.partition(b"\r\n\r\n")[2], None
            self.is_open.set()
        self.received += len(data)
        self.digest.update(data)

    def connection_lost(self, error: Exception | None) -> None:
        self.is_lost = True


@contextlib.asynccontextmanager
async def neighbours(server: OutletServer, path: str, count: int) -> AsyncIterator[list[Neighbour]]:
    """So many open connections that read all they get."""
    loop = asyncio.get_running_loop()
    clients = []
    try:
        for _ in range(count):
            _, client = await loop.create_connection(lambda: Neighbour(path), "127.0.0.1", server.port)
            clients.append(client)
            await asyncio.wait_for(client.is_open.wait(), 10)
        yield clients
    finally:
        for client in clients:
            client.transport.abort()
