"""Settings of both chats. The environment names the Redis, the channel layer and its prefix."""

import os

from benchmarks.wire import SHORT_TEXT_BYTES, TEXT_BYTES_VARIABLE
from rooms_app.layers import channel_layer

DEBUG = False
SECRET_KEY = "only-for-benchmarks"
ALLOWED_HOSTS = ["127.0.0.1"]
INSTALLED_APPS = [
    "rooms_app",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
ROOT_URLCONF = "benchmarks.app.urls"
USE_TZ = True

_kind = os.environ.get("BENCH_LAYER", "pubsub")
# Stock Channels has a layer channel per socket, and all of a process share one list on the classic layer: what
# exceeds the capacity is dropped without a word, and would make it look faster than it is.
_options = {"capacity": 1_000_000} if _kind == "classic" else {}
CHANNEL_LAYERS = {
    "default": channel_layer(_kind, os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0"), prefix="bench", **_options)
}

# Scenario G alone, with its larger texts, is about slow readers. In a burst a receiver on a busy machine may lag behind
# the bounds of one connection, and would be cut for what is the sender's doing.
_is_about_slow_readers = os.environ.get(TEXT_BYTES_VARIABLE, str(SHORT_TEXT_BYTES)) != str(SHORT_TEXT_BYTES)
ROOMS = {} if _is_about_slow_readers else {"max_unsent_messages": 1_000_000, "max_unsent_bytes": 256 * 1024 * 1024}
