"""The time that one attempt at a query has: it may be put off, from any thread, up to a limit."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta

import trio

from trio_worker import clock
from trio_worker.loop_thread import LoopThread

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
        patience: Around the wait for its end; cancelled, the handler is left behind.
    """

    def __init__(self, limit: float, *, most: float, patience: float) -> None:
        # From a thread there is no `trio.current_time`; the clock itself may be asked from anywhere.
        self._clock = trio.lowlevel.current_clock()
        self._loop_thread = LoopThread()
        self._lock = threading.Lock()
        now = self._clock.current_time()
        self._at = now + limit
        self._latest = now + max(limit, most)
        self._seconds_to_clean_up = patience
        self._is_over = False
        self.scope = trio.CancelScope(deadline=self._at)
        self.patience = trio.CancelScope(deadline=self._at + patience)

    def at(self) -> datetime:
        """Give the time of the day at which it is, in UTC."""
        return clock.utc_now() + timedelta(seconds=self._at - self._clock.current_time())

    def extend(self, seconds: float) -> datetime:
        """Put it off by so many seconds, as far as that goes. After the end it does nothing.

        Args:
            seconds: 0 or more.

        Returns:
            When it is now, in UTC.
        """
        with self._lock:
            if not self._is_over:
                self._at = max(self._at, min(self._at + seconds, self._latest))
        self._loop_thread.call(self._apply, idempotent=True)
        return self.at()

    def end(self) -> None:
        """The attempt is over, or is to be: nothing puts it off any more."""
        with self._lock:
            self._is_over = True

    def shorten_patience(self, at: float) -> None:
        """Leave less time for cleaning up: until ``at``, on Trio's clock."""
        self.end()
        self.patience.deadline = min(self.patience.deadline, at)

    def _apply(self) -> None:
        if self._is_over or self.scope.cancel_called:
            return
        self.scope.deadline = self._at
        self.patience.deadline = self._at + self._seconds_to_clean_up
