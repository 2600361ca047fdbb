"""Browsers of signed-in users, against live servers: a session from one process, a WebSocket on any."""

from __future__ import annotations

import asyncio

import httpx
import websockets
from websockets.asyncio.client import ClientConnection

from tests.live import DemoServers


class Device:
    """One browser of a user: its session on one process, and its WebSocket on another."""

    def __init__(self, demo: DemoServers, http: httpx.AsyncClient) -> None:
        self._demo = demo
        self._http = http

    @classmethod
    async def sign_in(cls, demo: DemoServers, username: str) -> Device:
        http = httpx.AsyncClient(base_url=demo.urls[0])
        page = await http.get("/admin/login/")
        form = {"username": username, "password": "pw", "csrfmiddlewaretoken": page.cookies["csrftoken"]}
        answer = await http.post("/admin/login/?next=/", data=form, headers={"Referer": demo.urls[0]})
        assert answer.status_code == 302, answer.text
        return cls(demo, http)

    async def open(self, process: int) -> ClientConnection:
        cookie = f"sessionid={self._http.cookies['sessionid']}"
        socket = await websockets.connect(
            f"{self._demo.ws_urls[process]}/ws/lobby", additional_headers={"Cookie": cookie}
        )
        return socket

    async def sign_out(self) -> None:
        token = self._http.cookies["csrftoken"]
        answer = await self._http.post("/admin/logout/", data={"csrfmiddlewaretoken": token})
        assert answer.status_code == 200, answer.text

    async def end(self) -> None:
        await self._http.aclose()

    @property
    def session(self) -> str:
        return str(self._http.cookies["sessionid"])


async def close_code(socket: ClientConnection, *, within: float) -> int:
    """The code that it is closed with."""
    await asyncio.wait_for(socket.wait_closed(), within)
    assert socket.close_code is not None
    return socket.close_code
