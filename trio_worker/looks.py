"""The looks of one delivery: is its query still ours, before WebBuddy is told of it?"""

from __future__ import annotations

import math

import structlog
import trio

from trio_worker.errors import Unavailable
from trio_worker.held import Held
from trio_worker.ownership import Standing, look
from trio_worker.webbuddy import WebBuddyClient

__all__ = ["Looks", "TakenError"]

log = structlog.get_logger(__name__)

MOST_FAILED_LOOKS = 8  # in a row, while other calls are answered
BLIND_AFTER = 600.0  # seconds of that, before a result is reported without a look
OUTAGES = (None, 429, 503)  # no answer, or "later": it says nothing about this query


class TakenError(Exception):
    """The query is not ours any more.

    Args:
        standing: How it stands.
    """

    def __init__(self, standing: Standing = Standing.TAKEN) -> None:
        super().__init__(standing.value)
        self.standing = standing


class Looks:
    """Looks that are made when what was last seen is too old to be believed.

    Args:
        webbuddy: The door to WebBuddy.
        held: The query.
        after: Seconds after which it is no longer believed that the query is ours without a look.
    """

    def __init__(self, webbuddy: WebBuddyClient, held: Held, *, after: float) -> None:
        self._webbuddy = webbuddy
        self._held = held
        self._after = after
        self._failed = 0
        self._fail_since = math.inf

    async def make_sure(self, *, always: bool = False) -> Standing:
        """Make sure that the query is still ours, if that is not known from shortly before.

        Args:
            always: Look also when it is.

        Returns:
            That it is ours, or that WebBuddy has our answer already, or that it can't be asked.

        Raises:
            TakenError: It is not ours.
            Unavailable: WebBuddy can't be reached, or can't show the query just now.
            AccessDenied: The log-in is refused.
        """
        fresh = trio.current_time() - self._held.seen_at <= self._after
        if fresh and not always:
            return Standing.OURS
        found = await self._look()
        if found in (Standing.TAKEN, Standing.OTHER_DATABASE):
            raise TakenError(found)
        return found

    async def _look(self) -> Standing:
        """Look. A look that fails again and again while WebBuddy answers otherwise is done without."""
        try:
            found = await look(self._webbuddy, self._held)
        except Unavailable as error:
            now = trio.current_time()
            if error.status in OUTAGES:
                raise
            self._fail_since = min(self._fail_since, now)
            self._failed += 1
            others_work = self._webbuddy.well_at > self._fail_since
            lasts = now - self._fail_since >= BLIND_AFTER
            if self._failed < MOST_FAILED_LOOKS or not lasts or not others_work:
                raise
            log.warning("reporting without a look: WebBuddy can't show the query", query=self._held.query.id)
            found = Standing.NOT_ASKABLE
        # After a report without one, too: the next is to be looked for as patiently.
        self._failed, self._fail_since = 0, math.inf
        return found
