"""Redis as a channel layer: entries for CHANNEL_LAYERS, and the layer with history.

The history layer adds to channels_redis's pub/sub layer: ids, replay, repair after a lost connection.
"""

from rooms_app.layers.entries import channel_layer, redis_host
from rooms_app.layers.history_layer import RoomsRedisChannelLayer

__all__ = ["RoomsRedisChannelLayer", "channel_layer", "redis_host"]
