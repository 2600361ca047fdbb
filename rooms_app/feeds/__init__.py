"""Where a hub's messages come from: the channel layer, read as any, or the history layer, read and repaired by us."""

from __future__ import annotations

from typing import Any

from rooms_app.feeds.feed import Feed, Item, Replay, Sink
from rooms_app.feeds.history import HistoryFeed
from rooms_app.feeds.stock import StockFeed
from rooms_app.layers import RoomsRedisChannelLayer

__all__ = ["Feed", "Item", "Replay", "Sink", "open_feed"]


async def open_feed(layer: Any, sink: Sink) -> Feed:
    """The feed of the running event loop on this layer, at work. Raises what the layer raises."""
    # By its type: asking the pub/sub layer for an unknown attribute raises outside an event loop.
    if isinstance(layer, RoomsRedisChannelLayer) and layer.has_history:
        return await HistoryFeed.open(layer, sink)
    return await StockFeed.open(layer, sink)
