"""Settings of the tests: the demo's, with a database of their own and apps that only tests use."""

import os
import tempfile

from project.settings import *  # noqa: F403
from rooms_app.layers import channel_layer

SECRET_KEY = "only-for-tests"
INSTALLED_APPS = [*INSTALLED_APPS, "tests.app"]  # noqa: F405
# Live servers and xdist's workers must not meet, so no fixed name; SQLite in memory can't be shared with servers.
DATABASES = {
    "default": {
        **DATABASES["default"],  # noqa: F405
        "NAME": os.environ.get("DATABASE_FILE", os.path.join(tempfile.gettempdir(), f"rooms-{os.getpid()}.sqlite3")),
        "TEST": {"NAME": None},
    },
    "other": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"},
}
CHANNEL_LAYERS = {"default": channel_layer("memory", "")}
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
