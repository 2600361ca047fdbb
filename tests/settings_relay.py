"""Settings of processes that tests of the outbox start: the tests' own, and their Redis, REDIS_URL."""

import os

from rooms_app.layers import channel_layer

if "TEST_POSTGRES_PORT" in os.environ:
    from tests.settings_postgres import *  # noqa: F403
else:
    from tests.settings import *  # noqa: F403

CHANNEL_LAYERS = {"default": channel_layer("rooms", os.environ["REDIS_URL"], prefix=os.environ["CHANNEL_PREFIX"])}
