"""System checks of the bus; in place once something of it is imported."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.core.checks import CheckMessage, Error, Warning, register

from rooms_app.bus.handlers import handlers
from rooms_app.bus.registry import BusMessageBase, bus_registry, full_name
from rooms_app.exceptions import MessageDefinitionError


def check_bus(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Whether all handlers can be found, and each bus message has one."""
    try:
        handlers.discover()
    except MessageDefinitionError as error:
        return [Error(str(error), hint="See docs/how-to/background-work.md.", id="rooms.E010")]
    return list(_check_messages(app_configs))


def _check_messages(app_configs: Any) -> Iterator[CheckMessage]:
    """Of the apps that are asked about, or all."""
    handled = {handler.topic for handler in handlers}
    for message_type in bus_registry:
        is_asked = app_configs is None or any(_is_in(message_type, config.name) for config in app_configs)
        if is_asked and message_type.MESSAGE_TOPIC not in handled:
            yield Warning(
                f"{full_name(message_type)} has no handler: publishing it raises NoHandler.",
                hint=f"Write one with @message_handler({message_type.__name__}) in an installed app's handlers.py.",
                id="rooms.W010",
            )


def _is_in(message_type: type[BusMessageBase], package: str) -> bool:
    return f"{message_type.__module__}.".startswith(f"{package}.")


def connect() -> None:
    """Have `manage.py check` make them."""
    register(check_bus)
