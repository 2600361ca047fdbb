"""The demo. The servers need its Celery app as well as the worker does: they publish what that handles."""

from project.celery import app as celery_app

__all__ = ["celery_app"]
