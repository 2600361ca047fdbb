"""The receiving side's own limit: how much it takes from a sender that only calls `sendall` on joined frames."""

from __future__ import annotations

import base64
import hashlib
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.processes import Child, Worker, free_port, is_listening
from benchmarks.wire import HEADER, room_name, rooms_overhead, rooms_text, stamp

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def receiver_limit(*, connections: int, messages: int, joined: int) -> dict[str, Any]:
    """Deliveries per second and CPU µs per delivery of the receiver, with so many frames in each write."""
    port = free_port()
    children: list[Child] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        directory = Path(name)
        try:
            arguments = [str(number) for number in (port, connections + 1, messages, joined)]
            command = [sys.executable, "-m", "benchmarks.calibration", *arguments]
            sender = Child(command, log=directory / "sender.log")
            children.append(sender)
            sender.wait_until(lambda: is_listening(port))
            receiver = Worker([sys.executable, "-m", "benchmarks.receiver"], log=directory / "receiver.log")
            children.append(receiver)
            receiver.call("open", port=port, rooms=[room_name(0)], connections=connections)
            result = receiver.call("expect", messages=messages, patience=10)
        finally:
            for child in children:
                child.stop()
    delivered = result["delivered"]
    return {
        "connections": connections,
        "joined": joined,
        "deliveries": delivered,
        "lost": result["lost"],
        "cpu_us": result["cpu_seconds"] * 1e6 / max(delivered, 1),
        # What one busy receiver takes, whatever the sender's share of the machine was.
        "deliveries_per_second": delivered / max(result["cpu_seconds"], 1e-9),
    }


def _serve(port: int, expected: int, messages: int, joined: int) -> None:
    """Accept so many connections, one of which is the probe that asks whether we listen, and write to the rest."""
    content = stamp(0, overhead=rooms_overhead())
    frames = [
        HEADER + rooms_text(room_name(0), content.replace("#000000000", f"#{number:09d}")).encode()
        for number in range(messages)
    ]
    writes = [b"".join(frames[start : start + joined]) for start in range(0, messages, joined)]
    connections = []
    with socket.create_server(("127.0.0.1", port), backlog=1024) as server:
        for _ in range(expected):
            connection, _ = server.accept()
            request = connection.recv(4096)
            if not request:
                continue
            while b"\r\n\r\n" not in request:
                request += connection.recv(4096)
            key = request.split(b"Sec-WebSocket-Key: ")[1].split(b"\r\n")[0]
            accept = base64.b64encode(hashlib.sha1(key + _GUID).digest())
            head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            connection.sendall(head + b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n")
            connections.append(connection)
        for data in writes:
            for connection in connections:
                connection.sendall(data)
        # Until the benchmark kills us: closing now would be taken for the end of the connections.
        sys.stdin.read()


if __name__ == "__main__":
    _serve(*(int(argument) for argument in sys.argv[1:5]))
