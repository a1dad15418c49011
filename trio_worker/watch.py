"""Whether the queries that are worked on are still ours: a person may have ended, requeued or deleted one."""

from __future__ import annotations

import structlog
import trio

from trio_worker.errors import WebBuddyError
from trio_worker.held import Held
from trio_worker.liveness import Pulse
from trio_worker.ownership import Standing, look_at_all
from trio_worker.reporting import Deliveries
from trio_worker.webbuddy import WebBuddyClient

__all__ = ["watch"]

log = structlog.get_logger(__name__)


async def watch(
    webbuddy: WebBuddyClient,
    deliveries: Deliveries,
    *,
    interval: float,
    pulse: Pulse | None = None,
) -> None:
    """Look at what is worked on every ``interval`` seconds; stop what is not ours any more. Never returns.

    A look that fails changes nothing: the next one, or the one before the report, finds out.

    Args:
        webbuddy: The door to WebBuddy.
        deliveries: Knows what is worked on, or about to be, and lets go of it.
        interval: Seconds.
        pulse: Says when the next look is due.
    """
    pulse = pulse or Pulse()
    while True:
        await pulse.sleep(interval)
        pulse.rest()  # each look is a call, and those are watched by themselves
        # What was claimed, or looked at, since the last round has shown itself.
        old = trio.current_time() - interval / 2
        helds = [held for held in deliveries.at_work() if held.seen_at <= old]
        found: dict[Held, Standing] = {}
        try:
            await look_at_all(webbuddy, helds, found)
        except WebBuddyError as error:
            log.debug("can't look whether running queries are still ours", reason=str(error))
        for held, standing in found.items():
            if standing in (Standing.TAKEN, Standing.OTHER_DATABASE):
                deliveries.let_go(held, standing.value)
