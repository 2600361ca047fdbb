"""The current cursor, for a page or a REST response: taken before its query, nothing after it is missed."""

from __future__ import annotations

import logging

from rooms_app.background import refuse_in_event_loop
from rooms_app.breaker import Breaker
from rooms_app.exceptions import RoomsUnavailable
from rooms_app.layers import RoomsRedisChannelLayer
from rooms_app.sync_publish import SyncPublisher
from rooms_app.transport import channel_layer

logger = logging.getLogger(__name__)

#: Its own: a page is not to wait for a Redis that is away, nor to count as a send.
_breaker = Breaker(what="the cursors of pages")


async def current_cursor() -> str | None:
    """A cursor for `?since=`: everything sent before now is before it. None where there is no history, or no Redis.

    Take it before you query what the page shows: what is sent afterwards is replayed when the page connects.
    """
    layer = channel_layer()
    if not isinstance(layer, RoomsRedisChannelLayer) or not layer.has_history:
        return None
    try:
        text: bytes = await _breaker.read(lambda: layer.here().shard.call(layer.calls.tick()))
    except RoomsUnavailable as error:
        logger.debug("no cursor error=%r", error)
        return None
    return text.decode()


def current_cursor_sync() -> str | None:
    """`current_cursor` for sync code."""
    refuse_in_event_loop("current_cursor_sync")
    publisher = SyncPublisher.fit(channel_layer())
    if publisher is None:
        return None
    try:
        with _breaker.attempt():
            cursor = publisher.tick()
    except RoomsUnavailable as error:
        logger.debug("no cursor error=%r", error)
        return None
    return str(cursor) if cursor is not None else None
