"""Settings of the jitter test: no database. Environment: REDIS_URL, JITTER_LAYER, and JITTER_KEY to encrypt with."""

import os

from rooms_app.layers import channel_layer

SECRET_KEY = "only-for-tests"
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
INSTALLED_APPS = ["rooms_app", "django.contrib.contenttypes", "django.contrib.auth"]
ROOT_URLCONF = "tests.app.jitter_app.urls"
USE_TZ = True

_key = os.environ.get("JITTER_KEY")
CHANNEL_LAYERS = {
    "default": channel_layer(
        os.environ.get("JITTER_LAYER", "rooms"),
        os.environ["REDIS_URL"],
        prefix="jitter",
        **({"symmetric_encryption_keys": [_key]} if _key else {}),
    ),
}
