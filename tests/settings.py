"""Settings of the tests: the demo's, with a database of their own and apps that only tests use."""

import os
import tempfile

from project.settings import *  # noqa: F403
from rooms_app.layers import channel_layer

SECRET_KEY = "only-for-tests"
INSTALLED_APPS = [*INSTALLED_APPS, "tests.app"]  # noqa: F405


def _database(name: str) -> dict[str, object]:
    # Files with names of their own: a server in another process opens them too, and xdist's workers must not meet.
    file = os.path.join(tempfile.gettempdir(), f"rooms-{name}-{os.getpid()}.sqlite3")
    return {
        **DATABASES["default"],
        "NAME": os.environ.get("DATABASE_FILE", file),
        "TEST": {"NAME": f"{file}-test"},
    }


DATABASES = {"default": _database("default"), "other": _database("other")}
CHANNEL_LAYERS = {"default": channel_layer("memory", "")}
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
