"""The receiving side, a process of its own: raw sockets, one epoll, and no work per frame.

    python -m benchmarks.receiver

It takes commands as JSON lines: open connections, expect so many messages on each. Its own limit is measured by
`benchmarks.calibration`.
"""

from __future__ import annotations

import base64
import contextlib
import os
import select
import socket
import struct
import time
from typing import Any

from benchmarks.processes import raise_file_limit, serve_commands
from benchmarks.streams import Room, Stream, Tally, check, latencies
from benchmarks.wire import FRAME_BYTES

#: Daphne's listening socket queues 50.
_WAVE = 40
_READ_BYTES = 1024 * 1024
#: Ending resets the connections: thousands in TIME_WAIT would use up the ports of the next run.
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
#: How long to look for duplicates once everything has arrived, in seconds.
_LINGER = 0.05
_MOST_LATENCIES = 20_000
#: What the kernel may take in for a connection that is never read; it rounds up to its least.
_STALLED_BUFFER_BYTES = 2048


class Receiver:
    """The connections of one server process, and what they receive."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._streams: dict[int, Stream] = {}
        self._rooms: dict[str, Room] = {}
        self._buffer = memoryview(bytearray(_READ_BYTES))
        self._ended = 0
        self._stalled: list[socket.socket] = []

    def open(self, *, port: int, rooms: list[str], connections: int) -> dict[str, Any]:
        """Open so many connections to each of the rooms."""
        began = time.monotonic()
        names = [name for _ in range(connections) for name in rooms]
        for start in range(0, len(names), _WAVE):
            wave = [(name, _request(port, name)) for name in names[start : start + _WAVE]]
            for name, connection in wave:
                rest = _read_handshake(connection)
                self._keep(name, connection, rest)
        return {"opened": len(names), "seconds": time.monotonic() - began}

    def stall(self, *, port: int, room: str, connections: int) -> dict[str, Any]:
        """Open so many connections that are never read again, and count nowhere."""
        for _ in range(connections):
            connection = _request(port, room, buffer_bytes=_STALLED_BUFFER_BYTES)
            self._stalled.append(connection)
            _read_handshake(connection)
        return {}

    def release(self) -> dict[str, Any]:
        """Close the connections that were not read; how many of them the server had reset until then."""
        poller = select.poll()
        for connection in self._stalled:
            poller.register(connection, 0)
        reset = len(poller.poll(0))
        for connection in self._stalled:
            connection.close()
        self._stalled = []
        return {"reset": reset}

    def clear(self) -> dict[str, Any]:
        """Forget what was received until now, and what is still in the sockets."""
        self._read(None, patience=_LINGER)
        for room in self._rooms.values():
            room.clear()
        return {}

    def expect(self, *, messages: int, patience: float, senders: int = 1) -> dict[str, Any]:
        """Receive so many messages of each sender on each connection, or until nothing comes for so many seconds."""
        cpu = time.process_time()
        due = sum(messages * senders * FRAME_BYTES - stream.position for stream in self._streams.values())
        self._read(due, patience=patience)
        cpu = time.process_time() - cpu
        self._read(None, patience=_LINGER)
        return {**self._result(messages, senders), "cpu_seconds": cpu}

    def _keep(self, name: str, connection: socket.socket, rest: bytes) -> None:
        connection.setblocking(False)
        room = self._rooms.setdefault(name, Room())
        stream = Stream(room)
        room.streams.append(stream)
        if rest:
            stream.take(memoryview(rest), time.monotonic_ns())
        self._sockets[connection.fileno()] = connection
        self._streams[connection.fileno()] = stream
        self._epoll.register(connection.fileno(), select.EPOLLIN)

    def _read(self, due: int | None, *, patience: float) -> None:
        """Read until so many bytes have come, or none for so many seconds."""
        sockets, streams, buffer = self._sockets, self._streams, self._buffer
        poll, clock = self._epoll.poll, time.monotonic_ns
        read = 0
        while due is None or read < due:
            ready = poll(patience)
            if not ready:
                return
            for number, _ in ready:
                try:
                    size = sockets[number].recv_into(buffer)
                except BlockingIOError:
                    continue
                except OSError:
                    size = 0
                if size:
                    streams[number].take(buffer[:size], clock())
                    read += size
                else:
                    self._epoll.unregister(number)
                    self._ended += 1

    def _result(self, messages: int, senders: int) -> dict[str, Any]:
        tally = Tally()
        sample: list[int] = []
        greatest = last = 0
        stride = max(1, messages * senders * len(self._streams) // _MOST_LATENCIES)
        for room in self._rooms.values():
            tally.add(check(room, messages, senders))
            found, longest = latencies(room, stride=stride)
            sample += found
            greatest = max(greatest, longest)
            last = max(last, max((at for at, _, _ in room.reads), default=0))
        return {
            **{name: getattr(tally, name) for name in tally.__slots__},
            "ended": self._ended,
            "latencies_ns": sample,
            "latency_max_ns": greatest,
            "last_at_ns": last,
        }


def _request(port: int, room: str, *, buffer_bytes: int = 0) -> socket.socket:
    """A connection whose handshake is under way."""
    connection = socket.socket()
    connection.settimeout(60)
    if buffer_bytes:
        # Before it connects, or the window is settled already.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
    connection.connect(("127.0.0.1", port))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    key = base64.b64encode(os.urandom(16)).decode()
    lines = [
        f"GET /ws/{room}/ HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        f"Origin: http://127.0.0.1:{port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
    ]
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    return connection


def _read_handshake(connection: socket.socket) -> bytes:
    """What follows the server's handshake, which is as a rule nothing."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        more = connection.recv(4096)
        if not more:
            raise ConnectionError(f"The server refused a WebSocket: {answer[:200]!r}")
        answer += more
    head, _, rest = answer.partition(b"\r\n\r\n")
    if b" 101 " not in head.split(b"\r\n")[0]:
        raise ConnectionError(f"The server refused a WebSocket: {answer[:200]!r}")
    return rest


if __name__ == "__main__":
    raise_file_limit()
    with contextlib.suppress(KeyboardInterrupt):
        serve_commands(Receiver())
