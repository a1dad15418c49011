"""How many queries wait at WebBuddy: counted while somebody reads it, by one process of the state folder."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Never

import attrs
import structlog
import trio

from trio_worker.errors import Refused, WebBuddyError
from trio_worker.liveness import Pulse
from trio_worker.neighbours import Neighbours
from trio_worker.webbuddy import MISSING_FOR, WebBuddyClient

__all__ = ["READ_WITHIN", "QueueLength"]

log = structlog.get_logger(__name__)

READ_WITHIN = 300.0
"""Seconds from one reading to the next, at most, for there to be a number: Prometheus itself takes a figure
that it has not read for five minutes for gone."""


@attrs.define(kw_only=True, eq=False)
class QueueLength:
    """Counts the queries that wait.

    ::

        /metrics reads ──▶ does another process of the folder count?
                             ├── no:  count, once an interval ──▶ unread for five minutes: rest
                             └── yes: show nothing, so that a sum is right

    Whoever is not scraped costs WebBuddy nothing: each count is a call of it, and it sends the first page of
    what waits along. So the first reading after a rest shows nothing yet.

    Attributes:
        webbuddy: The door to WebBuddy.
        neighbours: The other processes of the folder.
        interval: Seconds between two counts.
        is_well: Whether WebBuddy answers: to an outage this adds no call.
        pulse: Says when the next count is due.
    """

    webbuddy: WebBuddyClient
    neighbours: Neighbours
    interval: float
    is_well: Callable[[], bool]
    pulse: Pulse = attrs.field(factory=Pulse)
    _number: int | None = attrs.field(default=None, init=False)
    _counted_at: float = attrs.field(default=-math.inf, init=False)
    _read_at: float = attrs.field(default=-math.inf, init=False)
    _read: trio.Event = attrs.field(factory=trio.Event, init=False)
    _is_said: bool = attrs.field(default=False, init=False)

    def read(self) -> int | None:
        """Give the number, and wish for the next one. Synchronous.

        Returns:
            None where there is none, or it is older than two intervals: another process counts, WebBuddy
            can't be asked, or nobody has read it for long.
        """
        self._read_at = trio.current_time()
        self._read.set()
        return self._number if self._read_at - self._counted_at <= 2 * self.interval else None

    async def keep(self) -> Never:
        """Count for as long as somebody reads. Never returns. Cancelled, another process may count."""
        while True:
            self.pulse.rest()  # calls, and the disk, are watched by themselves
            await self._until_read()
            async with self.neighbours.alone_at("queue") as alone:
                while alone and self._is_wanted:
                    self.pulse.rest()
                    await self.pulse.sleep(await self._count())
                self._number = None
            if not alone:
                await self.pulse.sleep(self.interval)

    @property
    def _is_wanted(self) -> bool:
        return trio.current_time() - self._read_at <= READ_WITHIN

    async def _until_read(self) -> None:
        while not self._is_wanted:
            self._read = trio.Event()
            await self._read.wait()

    async def _count(self) -> float:
        """Count once; after how many seconds to count again."""
        if not self.is_well():
            return self.interval
        try:
            self._number = await self.webbuddy.count("queued")
        except Refused as missing:  # also `NotFound`: this WebBuddy does not, or not for this account
            self._number = None
            self._say(missing)
            return MISSING_FOR
        except WebBuddyError as error:  # who claims tells the operator
            log.debug("the queue's length can't be asked for", reason=str(error))
        else:
            self._counted_at = trio.current_time()
        return self.interval

    def _say(self, missing: Refused) -> None:
        if not self._is_said:
            log.info("this WebBuddy does not say how many queries wait: no queue_length", reason=str(missing))
        self._is_said = True
