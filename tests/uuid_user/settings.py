"""The demo's settings, with a user model whose primary key is a UUID; its app comes after rooms_app."""

from project.settings import *  # noqa: F403

INSTALLED_APPS = [*INSTALLED_APPS, "tests.uuid_user"]  # noqa: F405
AUTH_USER_MODEL = "uuid_user.Person"
