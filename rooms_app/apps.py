"""The Django app: finds each installed app's messages, listens for sign-outs, and registers the system checks."""

from __future__ import annotations

import logging
from importlib import import_module

from django.apps import AppConfig, apps
from django.core import checks
from django.utils.module_loading import module_has_submodule

from rooms_app.checks import check_project
from rooms_app.exceptions import MessageDefinitionError
from rooms_app.registry import registry

logger = logging.getLogger(__name__)


class RoomsAppConfig(AppConfig):
    """Realtime rooms."""

    name = "rooms_app"
    verbose_name = "Rooms"

    def ready(self) -> None:
        """Import `messages` of each installed app that has one, and listen for those who sign out."""
        checks.register(check_project)
        if apps.is_installed("django.contrib.auth"):
            # Not at the top: it needs the user model.
            from rooms_app import signals

            signals.connect()
        # Nor this: it needs the models.
        from rooms_app import stored_sends

        stored_sends.connect()
        for config in apps.get_app_configs():
            if module_has_submodule(config.module, "messages"):
                _import_messages(f"{config.name}.messages")


def _import_messages(module: str) -> None:
    try:
        import_module(module)
    except MessageDefinitionError as error:
        # Told by the system check, and by websocket_application, which does not start without the class.
        logger.error("%s: %s", module, error)
        registry.errors.append(error)
