"""Settings of the demo: a chat on SQLite and the bundled Redis, ready to run after `pip install`.

Environment: REDIS_URL (else the bundled server), DJANGO_DEBUG (1), DJANGO_SECRET_KEY, DJANGO_ALLOWED_HOSTS,
DATABASE_FILE, CHANNEL_LAYER (rooms, pubsub, classic or memory) and CHANNEL_PREFIX.
"""

import os
from pathlib import Path

from project.secret import secret_key
from rooms_app.embedded import broker_url, redis_url
from rooms_app.layers import channel_layer

BASE_DIR = Path(__file__).resolve().parent.parent
RUNTIME_DIR = BASE_DIR / ".rooms"

DEBUG = os.environ.get("DJANGO_DEBUG", "1") == "1"
SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY") or secret_key(RUNTIME_DIR)
ALLOWED_HOSTS = os.environ.get("DJANGO_ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]").split(",")

INSTALLED_APPS = [
    "rooms_app",  # before daphne: its runserver is daphne's, and starts the bundled Redis first
    "daphne",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "project",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

ROOT_URLCONF = "project.urls"
ASGI_APPLICATION = "project.asgi.application"

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("DATABASE_FILE", BASE_DIR / "db.sqlite3"),
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        },
    },
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

ROOMS = {"embedded_directory": RUNTIME_DIR}
_PREFIX = os.environ.get("CHANNEL_PREFIX", "rooms-demo")
CHANNEL_LAYERS = {
    "default": channel_layer(os.environ.get("CHANNEL_LAYER", "rooms"), redis_url(RUNTIME_DIR), prefix=_PREFIX),
}

CELERY_BROKER_URL = broker_url(RUNTIME_DIR)
# Rooms, broker and cache share a Redis, perhaps with others.
CELERY_BROKER_TRANSPORT_OPTIONS = {"global_keyprefix": f"{_PREFIX}:bus:"}
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_IGNORE_RESULT = True
CELERY_TIMEZONE = "UTC"

CACHES = {
    "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    # The same for all servers and the worker.
    "shared": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": redis_url(RUNTIME_DIR),
        "KEY_PREFIX": f"{_PREFIX}:cache",
        "OPTIONS": {"socket_connect_timeout": 1, "socket_timeout": 2},
    },
}

STATIC_URL = "static/"
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en"
LOGIN_URL = "admin:login"
LOGIN_REDIRECT_URL = "/"
