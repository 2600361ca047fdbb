"""`RoomConsumer`: the class form of a connection, a Channels consumer that joins rooms."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, ClassVar, cast

from channels.consumer import AsyncConsumer
from channels.layers import get_channel_layer
from channels.utils import await_many_dispatch

from rooms_app import lifecycle
from rooms_app.asgi import Receive, Scope, Send
from rooms_app.closing import CloseCode, Refused
from rooms_app.connection import RoomSocket
from rooms_app.context import use_ws_manager
from rooms_app.exceptions import ConnectionClosed
from rooms_app.members import Member, member_of
from rooms_app.presence import track_as
from rooms_app.rooms import check_rooms


class RoomConsumer(AsyncConsumer):
    """Puts each connection into `get_rooms()` once `can_join` has admitted it to every one of them.

    Without a `can_join` of your own nobody gets in. Everything of `RoomSocket` is on the consumer itself.
    """

    #: Give the consumer a layer channel of its own, with the stock `channel_name`, groups and handlers.
    own_channel: ClassVar[bool] = False
    #: Groups that the own channel is added to.
    groups: ClassVar[Sequence[str]] = ()
    #: Whether a signed-in user's connection is also in her own room.
    joins_user_room: ClassVar[bool] = True
    #: Whether who is in the rooms of `get_rooms` is known, and told to those who are.
    tracks_presence: ClassVar[bool] = False

    websocket: RoomSocket

    async def get_rooms(self) -> list[str]:
        """The rooms that this connection asks to join."""
        return []

    async def can_join(self, room: str) -> bool:
        """Whether this connection may join the room. Asked again each time it connects, sometimes twice for one."""
        return False

    async def presence_member(self) -> Member | None:
        """As whom `tracks_presence` counts this connection: the signed-in user; None for nobody."""
        return member_of(self.user)

    async def on_open(self) -> None:
        """Called when the connection is accepted and in its rooms."""

    async def on_close(self, code: int) -> None:
        """Called when an open connection has ended, with its close code."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # type: ignore[override]
        """The ASGI application of one connection."""
        # What Channels' own methods expect; its types name each kind of scope and event.
        self.scope = cast(Any, scope)
        self.base_send = cast(Any, send)
        self.websocket = RoomSocket(scope, receive, send)
        self.websocket.joins_user_room = self.joins_user_room
        await lifecycle.run(self.websocket, self._run, name=type(self).__qualname__)

    async def _run(self) -> None:
        asked_at = self.websocket.loop.time()
        rooms = await self._rooms_let_in()
        manager = use_ws_manager()
        # Join before accepting: a message sent between the two would be lost.
        await manager.add_websocket(self.websocket)
        await manager.join(rooms, self.websocket)
        was_deaf = lifecycle.was_deaf_at(asked_at, self.websocket)
        if was_deaf and not set(rooms).issubset(await self._rooms_let_in()):
            raise Refused(CloseCode.RECONNECT)
        if self.tracks_presence:
            track_as(await self.presence_member(), rooms, self.websocket)
        if self.own_channel:
            await self._open_own_channel()
        try:
            await self._live()
        finally:
            if self.own_channel:
                await self._close_own_channel()

    async def _rooms_let_in(self) -> list[str]:
        rooms = check_rooms(await self.get_rooms())
        for room in rooms:
            if not await self.can_join(room):
                raise Refused(lifecycle.forbidden(self.websocket))
        return rooms

    async def _live(self) -> None:
        await self.websocket.accept()
        code: int = CloseCode.ERROR
        try:
            await self.on_open()
            if self.own_channel:
                sources: list[Any] = [
                    self.websocket.receive,
                    functools.partial(self.channel_layer.receive, self.channel_name),
                ]
                await await_many_dispatch(sources, self.dispatch)
            else:
                while True:
                    await self.websocket.receive()
        except ConnectionClosed as closed:
            code = closed.code
        finally:
            await self.on_close(code)

    async def _open_own_channel(self) -> None:
        layer: Any = get_channel_layer(self.channel_layer_alias)
        self.channel_layer = layer
        self.channel_name = await layer.new_channel()
        for group in self.groups:
            await layer.group_add(group, self.channel_name)

    async def _close_own_channel(self) -> None:
        for group in self.groups:
            await self.channel_layer.group_discard(group, self.channel_name)

    async def websocket_receive(self, event: dict[str, Any]) -> None:
        """With `own_channel`, where frames are dispatched too: ignored. Clients speak over REST."""

    # Everything of RoomSocket, on the consumer itself.

    @property
    def connection(self) -> RoomSocket:
        """The connection: a consumer can be passed wherever a `RoomSocket` can."""
        return self.websocket

    @property
    def user(self) -> Any:
        """The signed-in user, or Django's AnonymousUser."""
        return self.websocket.user

    @property
    def kwargs(self) -> dict[str, Any]:
        """The parameters of the URL pattern."""
        return self.websocket.kwargs

    async def accept(self, subprotocol: str | None = None) -> None:
        """See `RoomSocket.accept`."""
        await self.websocket.accept(subprotocol)

    async def receive(self) -> dict[str, Any]:
        """See `RoomSocket.receive`."""
        return await self.websocket.receive()

    async def send_text(self, text: str) -> None:
        """See `RoomSocket.send_text`."""
        await self.websocket.send_text(text)

    async def send_bytes(self, data: bytes) -> None:
        """See `RoomSocket.send_bytes`."""
        await self.websocket.send_bytes(data)

    async def send_json(self, value: Any) -> None:
        """See `RoomSocket.send_json`."""
        await self.websocket.send_json(value)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """See `RoomSocket.close`."""
        await self.websocket.close(code, reason)

    async def wait_closed(self) -> None:
        """See `RoomSocket.wait_closed`."""
        await self.websocket.wait_closed()
