"""Keeps one hub's room counts on record: merged, at most once a second, under a lease that ends with the process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
from collections.abc import Callable, Collection
from itertools import islice

from rooms_app.cancelling import end, within
from rooms_app.conf import rooms_settings
from rooms_app.connection import process_id
from rooms_app.ledger import LEASE, ROOMS_PER_CALL, Ledger
from rooms_app.subscriptions import Subscriptions

logger = logging.getLogger(__name__)

#: Changes are written at most so often, in seconds …
_PAUSE = 1.0
#: … and the lease is renewed so often where there are none.
_RENEW = LEASE / 3


class Tally:
    """Writes how many connections of this hub are in each room."""

    def __init__(self, ledger: Ledger, rooms: Subscriptions, *, count: Callable[[str], None]) -> None:
        self._ledger = ledger
        self._rooms = rooms
        self._count = count
        #: This hub on the record: a process may have several event loops.
        self.name = f"{process_id()}/{secrets.token_hex(2)}"
        #: Whether the record has to be told everything, since it knows nothing of us, or something else.
        self._is_unknown = True
        self._task = asyncio.get_running_loop().create_task(self._run(), name="rooms-tally")

    async def stop(self) -> None:
        """Take the hub off the record; the end of the lease does where Redis is away."""
        await end(self._task)
        with contextlib.suppress(Exception):
            async with within(rooms_settings().send_timeout):
                await self._ledger.forget(self.name)

    async def _run(self) -> None:
        while True:
            changed = self._rooms.take_changed()
            try:
                await self._write(changed)
            except Exception as error:
                logger.debug("could not write the counts error=%r", error)
                self._count("tally_errors")
                # Perhaps written in part, perhaps not at all.
                self._is_unknown = True
            await asyncio.sleep(_PAUSE * random.uniform(1.0, 1.2))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PAUSE / 10 if self._is_unknown else _RENEW):
                    await self._rooms.wait_changed()

    async def _write(self, changed: Collection[str]) -> None:
        if not self._is_unknown:
            on_record = await self._write_parts(changed, is_new=False)
            # What joins and leaves meanwhile is written next time; where nothing does, the numbers have to agree.
            self._is_unknown = on_record < 0 or (not self._rooms.has_changed and on_record != self._rooms.occupied)
        if self._is_unknown:
            await self._write_parts([room.name for room in self._rooms], is_new=True)
            self._is_unknown = False

    async def _write_parts(self, rooms: Collection[str], *, is_new: bool) -> int:
        """Write so many rooms at a time, none too for the lease; how many are on record."""
        on_record = 0
        names = iter(rooms)
        while True:
            part = {room: len(self._rooms.members(room)) for room in islice(names, ROOMS_PER_CALL)}
            if part or not on_record:
                async with within(rooms_settings().send_timeout):
                    on_record = await self._ledger.write(self.name, part, is_new=is_new)
            if len(part) < ROOMS_PER_CALL or on_record < 0:
                return on_record
            is_new = False
