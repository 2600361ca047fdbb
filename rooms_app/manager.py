"""The manager: sends to rooms, and puts this process's connections into them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from rooms_app import envelope
from rooms_app.background import background, refuse_in_event_loop
from rooms_app.breaker import Breaker
from rooms_app.conf import rooms_settings
from rooms_app.connection import HasConnection
from rooms_app.exceptions import ForbiddenRoom, MessageTooLarge, RoomsUnavailable
from rooms_app.hub import hub_for, hub_of
from rooms_app.orders import Order
from rooms_app.protocols import PendingSend, SendOutcome, WebSocketConnectionManager, excluded_id
from rooms_app.registry import WebSocketMessageBase
from rooms_app.revocation import close_order, give, kick_order, removal_order
from rooms_app.rooms import check_audience, check_rooms, is_reserved
from rooms_app.sync_publish import Send, SyncPublisher
from rooms_app.transport import channel_layer, gate, group_send

__all__ = ["ChannelLayerManager", "PendingSend", "SendOutcome", "WebSocketConnectionManager"]

T = TypeVar("T")

_MAX_KEY_LENGTH = 255


class ChannelLayerManager:
    """The manager on the project's channel layer. `counts` tells how many sends were `sent` and `failed`."""

    def __init__(self) -> None:
        self._breaker = Breaker()

    @property
    def counts(self) -> Counter[str]:
        """How many sends there were in this process, by outcome."""
        return self._breaker.counts

    async def broadcast(self, message: bytes) -> SendOutcome:
        _check_size(len(message))
        return await self._send(envelope.raw_broadcast(message), robust=True)

    async def send(
        self,
        rooms: Sequence[str],
        message: WebSocketMessageBase,
        *,
        exclude: str | HasConnection | None = None,
        idempotency_key: str | None = None,
        robust: bool = True,
    ) -> SendOutcome:
        once = check_idempotency_key(idempotency_key)
        return await self._send(_prepare(rooms, message, exclude), robust=robust, once=once)

    async def join(self, rooms: Sequence[str], websocket: HasConnection, *, reserved: bool = False) -> None:
        connection = websocket.connection
        names = check_rooms(rooms)
        for room in names:
            if is_reserved(room) and not reserved and room != connection.user_room:
                raise ForbiddenRoom(room)
        connection.begin_resume()
        hub = hub_for(channel_layer())
        await hub.join(connection, names)
        await hub.answer(connection)

    async def leave(self, rooms: Sequence[str], websocket: HasConnection) -> None:
        connection = websocket.connection
        names = check_rooms(rooms)
        hub = hub_of(connection)
        if hub is not None:
            await hub.leave(connection, names)

    async def add_websocket(self, websocket: HasConnection) -> None:
        connection = websocket.connection
        connection.begin_resume()
        hub = hub_for(channel_layer())
        await hub.add(connection)
        room = connection.user_room
        if room is not None and connection.joins_user_room:
            await hub.join(connection, [room])

    async def remove_websocket(self, websocket: HasConnection) -> None:
        connection = websocket.connection
        hub = hub_of(connection)
        if hub is not None:
            await hub.remove(connection)

    def broadcast_sync(self, message: bytes) -> SendOutcome:
        refuse_in_event_loop("broadcast_sync")
        _check_size(len(message))
        return self._send_sync(envelope.raw_broadcast(message), robust=True)

    def send_sync(
        self,
        rooms: Sequence[str],
        message: WebSocketMessageBase,
        *,
        exclude: str | HasConnection | None = None,
        idempotency_key: str | None = None,
        robust: bool = True,
    ) -> SendOutcome:
        refuse_in_event_loop("send_sync")
        once = check_idempotency_key(idempotency_key)
        return self._send_sync(_prepare(rooms, message, exclude), robust=robust, once=once)

    def join_sync(self, rooms: Sequence[str], websocket: HasConnection, *, reserved: bool = False) -> None:
        _run_beside("join_sync", websocket, lambda: self.join(rooms, websocket, reserved=reserved))

    def leave_sync(self, rooms: Sequence[str], websocket: HasConnection) -> None:
        _run_beside("leave_sync", websocket, lambda: self.leave(rooms, websocket))

    def add_websocket_sync(self, websocket: HasConnection) -> None:
        _run_beside("add_websocket_sync", websocket, lambda: self.add_websocket(websocket))

    def remove_websocket_sync(self, websocket: HasConnection) -> None:
        _run_beside("remove_websocket_sync", websocket, lambda: self.remove_websocket(websocket))

    async def disconnect_user(self, user: Any, *, robust: bool = True) -> SendOutcome:
        return await _give(kick_order(user), robust=robust)

    async def remove_user(self, user: Any, room: str, *, robust: bool = True) -> SendOutcome:
        return await _give(removal_order(user, room), robust=robust)

    async def close_room(self, room: str, *, robust: bool = True) -> SendOutcome:
        return await _give(close_order(room), robust=robust)

    def disconnect_user_sync(self, user: Any, *, robust: bool = True) -> SendOutcome:
        refuse_in_event_loop("disconnect_user_sync")
        return background.run(lambda: self.disconnect_user(user, robust=robust))

    def remove_user_sync(self, user: Any, room: str, *, robust: bool = True) -> SendOutcome:
        refuse_in_event_loop("remove_user_sync")
        return background.run(lambda: self.remove_user(user, room, robust=robust))

    def close_room_sync(self, room: str, *, robust: bool = True) -> SendOutcome:
        refuse_in_event_loop("close_room_sync")
        return background.run(lambda: self.close_room(room, robust=robust))

    async def _send(self, message: dict[str, Any], *, robust: bool, once: str | None = None) -> SendOutcome:
        if not message["rooms"]:
            return SendOutcome.SENT
        layer = channel_layer()
        try:
            async with gate():
                with self._breaker.attempt():
                    await group_send(layer, message, once=once)
        except RoomsUnavailable:
            if not robust:
                raise
            return SendOutcome.FAILED
        return SendOutcome.SENT

    def send_all_sync(self, sends: Sequence[PendingSend]) -> SendOutcome:
        """Send messages in order, for sync code; where the layer can, in one round trip. Failures are counted."""
        refuse_in_event_loop("send_all_sync")
        messages = [(_prepare(send.rooms, send.message, send.exclude), send.idempotency_key) for send in sends]
        return self._send_all_sync(messages, robust=all(send.robust for send in sends))

    def _send_sync(self, message: dict[str, Any], *, robust: bool, once: str | None = None) -> SendOutcome:
        return self._send_all_sync([(message, once)], robust=robust)

    def _send_all_sync(self, messages: Sequence[tuple[dict[str, Any], str | None]], *, robust: bool) -> SendOutcome:
        layer = channel_layer()
        publisher = SyncPublisher.fit(layer)
        if publisher is None:
            return background.run(lambda: self._send_all(messages, robust=robust))
        sends = [Send(message, layer.serialize(message), once) for message, once in messages if message["rooms"]]
        if not sends:
            return SendOutcome.SENT
        try:
            with self._breaker.attempt(len(sends)):
                publisher.send(*sends)
        except RoomsUnavailable:
            if not robust:
                raise
            return SendOutcome.FAILED
        return SendOutcome.SENT

    async def _send_all(self, messages: Sequence[tuple[dict[str, Any], str | None]], *, robust: bool) -> SendOutcome:
        outcome = SendOutcome.SENT
        for message, once in messages:
            if await self._send(message, robust=robust, once=once) is SendOutcome.FAILED:
                outcome = SendOutcome.FAILED
        return outcome


async def _give(order: Order, *, robust: bool) -> SendOutcome:
    try:
        await give(order)
    except RoomsUnavailable:
        if not robust:
            raise
        return SendOutcome.FAILED
    return SendOutcome.SENT


def check_message(message: WebSocketMessageBase) -> str:
    """The encoded message. Raises `MessageTooLarge`."""
    text = envelope.encode(message)
    _check_size(len(text.encode()))
    return text


def _prepare(
    rooms: Sequence[str], message: WebSocketMessageBase, exclude: str | HasConnection | None
) -> dict[str, Any]:
    text = check_message(message)
    return envelope.room_message(
        check_audience(rooms),
        text,
        exclude=excluded_id(exclude),
        has_history=message.HISTORY,
        is_volatile=message.VOLATILE,
        retain_as=message.MESSAGE_ID if message.RETAIN else None,
    )


def check_idempotency_key(key: str | None) -> str | None:
    """The key itself. Raises `ValueError` for an empty one, or one of more than 255 characters."""
    if key is not None and not 0 < len(key) <= _MAX_KEY_LENGTH:
        raise ValueError(f"An idempotency_key has 1 to {_MAX_KEY_LENGTH} characters, not {len(key)}.")
    return key


def _check_size(size: int) -> None:
    limit = rooms_settings().max_message_bytes
    if size > limit:
        raise MessageTooLarge(f'The message is {size:,} bytes as JSON; ROOMS["max_message_bytes"] allows {limit:,}.')


def _run_beside(name: str, websocket: HasConnection, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine in the event loop that the connection lives in, from another thread."""
    refuse_in_event_loop(name)
    return asyncio.run_coroutine_threadsafe(call(), websocket.connection.loop).result()
