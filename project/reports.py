"""The visitors' reports: each may have one made at a time, whichever server is asked."""

from __future__ import annotations

from uuid import uuid4

from django.core.cache import caches

from project.messages import ReportOrder

#: In how many seconds another one may be ordered, though the first is not done.
_PATIENCE = 60.0


async def order(room: str) -> str:
    """Have a report made, its progress shown in this room; the id of that which is being made, if one is.

    Raises `redis.RedisError` and `BusUnavailable`.
    """
    report_id = uuid4().hex
    cache = caches["shared"]
    if not await cache.aadd(_key(room), report_id, timeout=_PATIENCE):
        return str(await cache.aget(_key(room), report_id))
    try:
        await ReportOrder(report_id=report_id, room=room).publish()
    except Exception:
        await cache.adelete(_key(room))
        raise
    return report_id


async def is_done(room: str, report_id: str) -> None:
    """Let the next one be ordered. Raises `redis.RedisError`."""
    cache = caches["shared"]
    if await cache.aget(_key(room)) == report_id:
        await cache.adelete(_key(room))


def _key(room: str) -> str:
    return f"report:{room}"
