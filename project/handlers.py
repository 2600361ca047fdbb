"""What the demo's worker does; rooms_app finds it here, as in every installed app."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress

from django.utils import timezone
from redis import RedisError

from project import reports
from project.messages import ReportFinished, ReportOrder, ReportProgress
from rooms_app import use_ws_manager
from rooms_app.bus import MessageOf, message_handler

STEPS = 20
#: The work is pretended: this is how long a step of it takes, in seconds. All of them take a little less time than the
#: demo gives its children to end: a report that has begun is finished first.
_STEP = 0.23


@message_handler(ReportOrder, timeout=15)
async def make_report(message: MessageOf[ReportOrder]) -> None:
    """Work through the steps, showing each at once; that it is done is told when it really is."""
    order = message.payload()
    for done in range(STEPS + 1):
        if done:
            await asyncio.sleep(_STEP)
        progress = ReportProgress(report_id=order.report_id, done=done, total=STEPS)
        await use_ws_manager().send([order.room], progress)
    finished = ReportFinished(report_id=order.report_id, total=STEPS, worker=os.getpid(), finished_at=timezone.now())
    # Leaves when this handler has succeeded, and not twice if it is called once more.
    await finished.send(order.room)
    with suppress(RedisError):
        await reports.is_done(order.room, order.report_id)
