"""The time that one attempt at a query has: it may be put off, from any thread, up to a limit."""

from __future__ import annotations

import math
import threading
from datetime import datetime, timedelta

import trio

from trio_worker import clock

__all__ = ["Deadline"]


class Deadline:
    """When an attempt has to be over.

    Made on the event loop, when the attempt begins. `at` and `extend` may be called from any thread.

    Args:
        limit: Seconds until then.
        most: Seconds from now up to which it can be put off; less than ``limit``: it can't.
        patience: Seconds for cleaning up.

    Attributes:
        scope: Around the handler.
    """

    def __init__(self, limit: float, *, most: float, patience: float) -> None:
        # From a thread there is no `trio.current_time`; the clock itself may be asked from anywhere.
        self._clock = trio.lowlevel.current_clock()
        self._lock = threading.Lock()
        self._began = self._clock.current_time()
        self._limit = limit
        self._most = max(limit, most)
        self._seconds_to_clean_up = patience
        self._is_over = False
        # No deadline of Trio's: it would pass while a thread is being told that there is more time.
        self.scope = trio.CancelScope()
        self._waiting = trio.CancelScope()
        self._leave_at = math.inf  # when the handler is left behind

    @property
    def limit(self) -> float:
        """Seconds from the beginning until then, with all by which it was put off."""
        return self._limit

    def at(self) -> datetime:
        """Give the time of the day at which it is, in UTC."""
        return clock.utc_now() + timedelta(seconds=self._at - self._clock.current_time())

    def extend(self, seconds: float) -> datetime:
        """Put it off by so many seconds, as far as that goes. After the end it does nothing.

        Args:
            seconds: 0 or more.

        Returns:
            When it is now, in UTC. That is kept.
        """
        with self._lock:
            if not self._is_over:
                self._limit = max(self._limit, min(self._limit + seconds, self._most))
        return self.at()

    async def keep(self, ended: trio.Event) -> None:
        """Wait for the end of the attempt; cancel the handler when the time is over before that.

        Returns without it when the time for cleaning up is over, too.
        """
        while not ended.is_set() and self._clock.current_time() < self._leave_at:
            if self.has_come():
                self.scope.cancel()
                self.shorten_patience(self._at + self._seconds_to_clean_up)
                until = self._leave_at
            else:
                until = min(self._at, self._leave_at)
            with trio.CancelScope(deadline=until) as self._waiting:
                await ended.wait()

    def has_come(self) -> bool:
        """Decide whether it is over. If so, nothing puts it off any more."""
        with self._lock:
            if self._clock.current_time() < self._at:
                return False
            self._is_over = True
            return True

    def end(self) -> None:
        """The attempt is over, or is to be: nothing puts it off any more."""
        with self._lock:
            self._is_over = True

    def shorten_patience(self, at: float) -> None:
        """Leave less time for cleaning up: until ``at``, on Trio's clock."""
        self.end()
        self._leave_at = min(self._leave_at, at)
        self._waiting.deadline = min(self._waiting.deadline, self._leave_at)

    @property
    def _at(self) -> float:
        return self._began + self._limit
