"""WebBuddy's clock, as far as its answers tell: claims are dated by it, and the two machines may differ."""

from __future__ import annotations

from collections.abc import Callable

import trio

from trio_worker import clock

__all__ = ["ServerClock"]


class ServerClock:
    """Follows the ``Date`` headers. Right to about a second, plus the time that an answer takes.

    A ``Date`` has whole seconds, and was written at some moment between the question and its answer: so
    each gives a range in which the difference of the two clocks must lie. The difference that is
    kept is moved only as far as the newest range demands. That narrows it down with each answer, and
    follows a clock that is set. The difference is to Trio's clock: nobody sets that one back in between.

    Before the first answer it is this machine's own clock.

    Args:
        tick: The clock that nobody sets.
    """

    def __init__(self, tick: Callable[[], float] = trio.current_time) -> None:
        self._tick = tick
        self._ahead: float | None = None

    @property
    def is_known(self) -> bool:
        """Whether there has been an answer with a ``Date``."""
        return self._ahead is not None

    def now(self) -> float:
        """Say what time it is there, in seconds since the epoch."""
        return clock.now() if self._ahead is None else self._tick() + self._ahead

    def heard(self, date: float, asked_at: float) -> None:
        """Take in an answer that has come in this moment.

        Args:
            date: Its ``Date``, in seconds since the epoch.
            asked_at: By that clock, when it was asked for.
        """
        now = self._tick()
        least, most = date - now, date + 1 - asked_at
        if self._ahead is None:
            # Near the end of the range: a slow call is mostly slow before the server sets to work.
            self._ahead = least + 0.5
        else:
            self._ahead = min(max(self._ahead, least), most)
