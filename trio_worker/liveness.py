"""Whether every loop of the worker keeps its time."""

from __future__ import annotations

import math
from collections.abc import Callable

import trio

from trio_worker.tallies import SHORT, Spread

__all__ = ["TOLERANCE", "Liveness", "Pulse"]

TOLERANCE = 30.0
"""Seconds that a loop may be behind its time. Far beyond what a busy machine costs: whoever asks may end the
process for it."""


class Pulse:
    """When one loop means to go on.

    A loop names a time for what it waits for by itself. While it waits for others (a call, the disk), or
    has nothing to do, it rests: those others name their own.

    Attributes:
        due: On Trio's clock; infinite while it rests.
    """

    __slots__ = ("due",)

    def __init__(self) -> None:
        self.due = math.inf

    def within(self, seconds: float) -> None:
        """Mean to go on in so many seconds, at the latest."""
        self.due = trio.current_time() + seconds

    def rest(self) -> None:
        """Name no time."""
        self.due = math.inf

    async def sleep(self, seconds: float) -> None:
        """Sleep, and mean to go on then. Cancelled, the loop is over, and names no time any more."""
        self.within(seconds)
        try:
            await trio.sleep_until(self.due)
        except trio.Cancelled:
            self.rest()
            raise


class Liveness:
    """Knows all loops, and when each means to go on.

    To be late is no matter of how long a query takes: a loop that waits for one names no time.

    Attributes:
        delays: How late the event loop as a whole was, each time that it was asked.
    """

    def __init__(self) -> None:
        self.delays = Spread(SHORT)
        self._loops: dict[str, Callable[[], float]] = {}

    def pulse(self, name: str) -> Pulse:
        """Make the pulse of a loop.

        Args:
            name: What operators read.
        """
        pulse = Pulse()
        self.watch(name, lambda: pulse.due)
        return pulse

    def watch(self, name: str, due: Callable[[], float]) -> None:
        """Ask a part that knows its times anyway.

        Args:
            name: What operators read.
            due: Gives the earliest of them, on Trio's clock; infinite: there is none. Synchronous.
        """
        self._loops[name] = due

    def forget(self) -> None:
        """The loops have ended."""
        self._loops.clear()

    @property
    def reasons(self) -> dict[str, str]:
        """Which loops are late, and since when. Empty: the worker is alive. In Trio's thread."""
        now = trio.current_time()
        late = {name: now - due() for name, due in self._loops.items()}
        return {
            name: f"it should have gone on {seconds:.0f} s ago"
            for name, seconds in late.items()
            if seconds > TOLERANCE
        }
