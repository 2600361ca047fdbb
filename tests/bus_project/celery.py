"""A team's usual celery.py."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.bus_project.settings")

app = Celery("bus_project")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
