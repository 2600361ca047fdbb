"""What an operator sees before she sends: the very frame, and how many connections would get it."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from rooms_app import audiences, broadcasts, envelope
from rooms_app.exceptions import RoomsError, explain
from rooms_app.manager import check_message
from rooms_app.models import Broadcast

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What a client would get, and how many would."""

    exact: str = ""
    pretty: str = ""
    #: Why there is no frame.
    error: str = ""
    #: How many connections, in words.
    reach: str = ""


def preview_of(broadcast: Broadcast, operator: Any) -> Preview:
    """The preview of a broadcast for an operator who may be about to send it."""
    try:
        message = broadcasts.message_of(broadcast)
        text = check_message(message)
        # One more than is counted, to see whether there are more.
        parts = list(islice(audiences.parts_of(broadcast, operator), audiences.PARTS_PER_PREVIEW + 1))
    except RoomsError as error:
        return Preview(error=str(error))
    except Exception as error:
        # Of a team's own code, such as its user admin's search. The page has to come: what is wrong can be cancelled.
        logger.exception("a broadcast has no preview broadcast=%s", broadcast.pk)
        return Preview(error=explain(error))
    rooms = [room for part in parts for room in part.rooms]
    if not rooms:
        return Preview(error="Nobody: no active user is chosen, or found by the query.")
    exact = envelope.addressed(text, rooms[0])
    pretty = json.dumps(json.loads(exact), ensure_ascii=False, indent=2)
    reach = _reach(parts) if broadcasts.is_sendable(broadcast) else ""
    return Preview(exact=exact, pretty=pretty, reach=reach)


def _reach(parts: Sequence[audiences.Part]) -> str:
    """How many connections there are to reach now, in words."""
    counted = parts[: audiences.PARTS_PER_PREVIEW]
    reach = audiences.reach_of(counted)
    if reach is None:
        return "unknown: Redis does not answer"
    rooms = sum(len(part.rooms) for part in counted)
    if len(counted) < len(parts):
        return f"more than {reach:,}: only the first {rooms:,} users are counted"
    return f"{'at most' if rooms > 1 else 'about'} {reach:,}"
