"""A client in the storm: it is cut again and again, comes back with its last id, and writes down what it got."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import websockets
from websockets.typing import Subprotocol


class JitterClient:
    """Keeps to the client's rule: 1000 or >= 4500 means stop, all else reconnect with full jitter and `since`."""

    def __init__(self, name: str, rooms: Sequence[str], ws_urls: Sequence[str]) -> None:
        self.name = name
        self.rooms = rooms
        self._ws_urls = ws_urls
        #: The numbers of each room in the order they came.
        self.received: dict[str, list[int]] = {room: [] for room in rooms}
        #: When the first `sys.resumed` came: what is sent from then on is due. None before it.
        self.started_at: float | None = None
        #: connected, refused, cut, replayed, closed_<code>, reset_<reason>, and the MESSAGE_IDs that nobody expects.
        self.counts: Counter[str] = Counter()
        #: The last id of any frame.
        self._position = "latest"
        #: Whether it is cut every few seconds.
        self.is_in_storm = True

    @property
    def resets(self) -> int:
        """How often it was told to reload."""
        return sum(count for name, count in self.counts.items() if name.startswith("reset_"))

    def has_all(self, numbers: dict[str, int]) -> bool:
        """Whether it got the last number of each of its rooms."""
        return all(numbers[room] in self.received[room][-1:] for room in self.rooms)

    async def run(self) -> None:
        """Connect and reconnect until cancelled, or until a server says stop."""
        while True:
            code = await self._connect_once()
            if code == 1000 or code >= 4500:
                self.counts["stopped"] += 1
                return
            await asyncio.sleep(random.uniform(0, 2))

    async def _connect_once(self) -> int:
        """Stay connected as long as it lasts; the close code, 1006 where there was none."""
        url = f"{random.choice(self._ws_urls)}/rooms/{','.join(self.rooms)}?since={self._position}"
        loop = asyncio.get_running_loop()
        try:
            async with websockets.connect(
                url,
                subprotocols=[Subprotocol("rooms.v1")],
                compression=None,
                proxy=None,
                max_queue=None,
                ping_interval=None,
                open_timeout=5,
                close_timeout=1,
            ) as socket:
                self.counts["connected"] += 1
                # Some are cut at once, in the middle of the replay.
                lifetime = random.choice([random.uniform(0, 0.1), random.uniform(1, 6), random.uniform(1, 6)])
                timer = loop.call_later(lifetime, self._cut, socket)
                try:
                    async for text in socket:
                        self.take(json.loads(text))
                except websockets.ConnectionClosed:
                    pass
                finally:
                    timer.cancel()
        except (OSError, EOFError, websockets.WebSocketException) as error:
            self.counts[f"refused_{type(error).__name__}"] += 1
            return 1006
        code = socket.close_code or 1006
        self.counts[f"closed_{code}"] += 1
        return code

    def _cut(self, socket: Any) -> None:
        if self.is_in_storm:
            self.counts["cut"] += 1
            socket.transport.abort()

    def take(self, frame: dict[str, Any]) -> None:
        """Write down what a frame says, and its id as the new position."""
        self._position = frame.get("id", self._position)
        kind, message = frame["MESSAGE_ID"], frame["message"]
        if kind == "tests.numbered":
            for room in self.rooms:
                if room in message["numbers"]:
                    self.received[room].append(message["numbers"][room])
        elif kind == "sys.resumed":
            if self.started_at is None:
                self.started_at = time.monotonic()
            self.counts["replayed"] += message["replayed"]
        elif kind == "sys.reset":
            self.counts[f"reset_{message['reason']}"] += 1
        elif kind not in ("sys.hello", "sys.ping", "sys.closing"):
            self.counts[f"unexpected {kind}"] += 1
