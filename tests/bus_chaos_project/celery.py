"""The Celery app, as in any Django project."""

from __future__ import annotations

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.bus_chaos_project.settings")

app = Celery("tests.bus_chaos_project")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
