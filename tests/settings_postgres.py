"""Settings of the tests on PostgreSQL: the server of `tests.postgres`, whose port is in TEST_POSTGRES_PORT."""

import os

from tests.settings import *  # noqa: F403

DATABASES = {
    alias: {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": "127.0.0.1",
        "PORT": os.environ["TEST_POSTGRES_PORT"],
        "USER": "rooms",
        # A server in another process opens the test's own database, too.
        "NAME": os.environ.get("TEST_POSTGRES_NAME", "postgres"),
        "TEST": {"NAME": f"test_{alias}"},
    }
    for alias in ("default", "other")
}
