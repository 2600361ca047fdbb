"""The message bus: typed jobs for background workers, on Celery, whose sends to rooms leave when they succeed."""

from rooms_app.bus import checks as _checks
from rooms_app.bus.control import HandlerControl, Rejected, RetryRequested
from rooms_app.bus.delivery import MessageOf
from rooms_app.bus.handlers import NoHandler, message_bus_controller, message_handler
from rooms_app.bus.messages import BusMessage
from rooms_app.bus.retrying import Retry
from rooms_app.exceptions import BusUnavailable

__all__ = [
    "BusMessage",
    "BusUnavailable",
    "HandlerControl",
    "MessageOf",
    "NoHandler",
    "Rejected",
    "Retry",
    "RetryRequested",
    "message_bus_controller",
    "message_handler",
]

_checks.connect()
