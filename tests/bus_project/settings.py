"""Settings of the worker: BROKER_URL, REDIS_URL for rooms and for what handlers record, DATABASE_FILE."""

import os

from rooms_app.layers import channel_layer
from tests.settings import *  # noqa: F403

INSTALLED_APPS = [*INSTALLED_APPS, "tests.bus_project"]  # noqa: F405
CHANNEL_LAYERS = {"default": channel_layer("rooms", os.environ["REDIS_URL"], prefix=os.environ["CHANNEL_PREFIX"])}

CELERY_BROKER_URL = os.environ["BROKER_URL"]
# Redis looks for what dead workers had every so many seconds.
CELERY_BROKER_TRANSPORT_OPTIONS = {"unacked_restore_interval": 1, "unacked_restore_throttle": 1}
if "VISIBILITY_TIMEOUT" in os.environ:
    CELERY_BROKER_TRANSPORT_OPTIONS["visibility_timeout"] = float(os.environ["VISIBILITY_TIMEOUT"])
CELERY_WORKER_SEND_TASK_EVENTS = False
