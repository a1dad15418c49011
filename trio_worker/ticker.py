"""Waking consumers by the clock: the poll, and the second look after a push that found nothing."""

from __future__ import annotations

import random
from collections.abc import Callable

from trio_worker.liveness import Pulse
from trio_worker.wakeups import Wakeups

__all__ = ["look_again", "tick"]

JITTER = 0.1  # of the interval, so that many workers do not ask in step
SECOND_LOOK = 1.0  # seconds


async def tick(wakeups: Wakeups, interval: Callable[[], float], pulse: Pulse | None = None) -> None:
    """Wake a consumer now and then again and again. Never returns.

    Args:
        wakeups: Where to.
        interval: Asked each time for the seconds until the next one, which is kept give or take a tenth.
        pulse: What to tell of that.
    """
    pulse = pulse or Pulse()
    while True:
        wakeups.tick()
        await pulse.sleep(interval() * random.uniform(1 - JITTER, 1 + JITTER))  # noqa: S311


async def look_again(wakeups: Wakeups, pulse: Pulse | None = None) -> None:
    """Wake a consumer about a second after a push has found nothing. Never returns.

    WebBuddy's push may be ahead of the transaction that creates the query (Django admin).
    """
    pulse = pulse or Pulse()
    while True:
        pulse.rest()
        await wakeups.doubted()
        await pulse.sleep(SECOND_LOOK * random.uniform(1 - JITTER, 1 + JITTER))  # noqa: S311
        wakeups.tick("second_look")
