"""Views for a load balancer: is the process alive, and can it send to rooms?"""

from __future__ import annotations

import logging
from typing import Any

from django.http import HttpRequest, JsonResponse

from rooms_app.connection import process_id
from rooms_app.drain import is_draining
from rooms_app.envelope import ROOM_CONTROL
from rooms_app.hub import hubs
from rooms_app.transport import channel_layer, group_send

logger = logging.getLogger(__name__)

#: A room that nobody joins: sending there costs the layer a round trip, and reaches no one.
_NOWHERE = "sys.health"


async def live(request: HttpRequest) -> JsonResponse:
    """200 as long as the event loop runs; touches nothing else."""
    return JsonResponse({"status": "live", "process": process_id()})


async def ready(request: HttpRequest) -> JsonResponse:
    """200 while the channel layer takes messages, else 503 with what it said; 503 also from a drain on."""
    if is_draining():
        connections = sum(len(hub.connections) for hub in hubs())
        answer = {"status": "draining", "connections": connections, "process": process_id()}
        return JsonResponse(answer, status=503)
    probe: dict[str, Any] = {"type": ROOM_CONTROL, "rooms": [_NOWHERE], "history": False}
    try:
        await group_send(channel_layer(), probe)
    except Exception as error:
        logger.debug("not ready error=%r", error)
        reason = f"the channel layer does not answer: {type(error).__name__}"
        return JsonResponse({"status": "unavailable", "reason": reason, "process": process_id()}, status=503)
    return JsonResponse({"status": "ready", "process": process_id()})
