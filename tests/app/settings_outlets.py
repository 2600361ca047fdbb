"""Settings of `asgi_outlets`: no database, one process; ROOMS comes as JSON in the environment."""

import json
import os

from rooms_app.layers import channel_layer

SECRET_KEY = "only-for-tests"
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
INSTALLED_APPS = ["rooms_app", "django.contrib.contenttypes", "django.contrib.auth", "tests.app"]
_redis_url = os.environ.get("TEST_REDIS_URL", "")
CHANNEL_LAYERS = {"default": channel_layer("rooms" if _redis_url else "memory", _redis_url)}
ROOMS = json.loads(os.environ.get("TEST_ROOMS", "{}"))
USE_TZ = True
# Whatever the server makes of logging: the tests read warnings and errors in its output.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"named": {"format": "%(levelname)s %(name)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "named"}},
    "root": {"handlers": ["stderr"], "level": "WARNING"},
}
