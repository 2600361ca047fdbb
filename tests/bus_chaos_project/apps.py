"""Loads the Celery app with the project. A team's `__init__.py` does; this one's is imported by the tests, too."""

from __future__ import annotations

from importlib import import_module

from django.apps import AppConfig


class ChaosConfig(AppConfig):
    """The project's one app."""

    name = "tests.bus_chaos_project"

    def ready(self) -> None:
        import_module("tests.bus_chaos_project.celery")
