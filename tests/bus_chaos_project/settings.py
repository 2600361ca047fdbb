"""Settings of the workers that are killed: all that differs from run to run comes from one variable, as JSON."""

import json
import os

from rooms_app.layers import channel_layer

_given = json.loads(os.environ["CHAOS"])

SECRET_KEY = "only-for-tests"
INSTALLED_APPS = [
    "rooms_app",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "tests.bus_chaos_project",
]
DATABASES = {"default": _given["database"]}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True

CHANNEL_LAYERS = {"default": channel_layer("rooms", _given["layer"], prefix="chaos")}
# The reader is never away, but its history must not be what makes it whole.
ROOMS = {"history_messages": 20}

CELERY_BROKER_URL = _given["broker"]
# Runs may share a broker.
CELERY_TASK_DEFAULT_QUEUE = _given["queue"]
if _given["options"]:
    CELERY_BROKER_TRANSPORT_OPTIONS = _given["options"]

#: Where handlers note what they do.
CHAOS_JOURNAL = _given["journal"]
#: How long they may take.
CHAOS_TIMEOUT = _given["timeout"]
