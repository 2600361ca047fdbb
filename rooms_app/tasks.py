"""What a team's `app.autodiscover_tasks()` finds: the one task, which hands each delivery to its handler."""

from __future__ import annotations

import contextlib
import logging
import time
from typing import Any

from celery import Task, shared_task
from celery.exceptions import Reject
from django.db import close_old_connections

from rooms_app.bus import workers
from rooms_app.bus.delivery import TASK
from rooms_app.bus.handlers import handlers
from rooms_app.bus.running import handle as handle_delivery

logger = logging.getLogger(__name__)

#: So that a delivery that can neither be handled nor put anywhere does not come back as fast as it can.
_PAUSE = 1.0


@shared_task(
    name=TASK,
    bind=True,
    base=Task,
    # Told done only when it is; what a killed process had comes back.
    acks_late=True,
    reject_on_worker_lost=True,
    acks_on_timeout=False,
    # Celery's own way would publish it again after minutes, and tell the broker that it is done.
    retry_on_worker_lost=False,
    ignore_result=True,
)
def handle(self: Any, body: dict[str, Any]) -> None:
    """Have one delivery handled."""
    close_old_connections()
    was_redelivered = bool((self.request.delivery_info or {}).get("redelivered"))
    try:
        handle_delivery(body, was_redelivered=was_redelivered)
    except Exception as error:
        # Neither broker nor database took what becomes of it, or the time was up just then.
        logger.exception("a bus message goes back to the broker")
        # Its time may be up in the middle of that.
        with contextlib.suppress(Exception):
            time.sleep(_PAUSE)
        raise Reject(error, requeue=True) from error
    finally:
        close_old_connections()


handlers.discover()
workers.connect()
