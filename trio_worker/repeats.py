"""How long to wait before a call to WebBuddy is made again, by what went wrong."""

from __future__ import annotations

from trio_worker.backoff import Backoff
from trio_worker.errors import AccessDenied, Busy, Unavailable
from trio_worker.tokens import REFUSAL_HOLDS

__all__ = ["Repeats"]

BUSY_TRIES = 6  # plain 500s that are answered by a short pause, as in the intake


class Repeats:
    """The pauses of a call that is repeated until it gets through, or of several that wait for each other."""

    def __init__(self) -> None:
        self._pauses = Backoff(first=0.5, most=60.0)
        self._short_pauses = Backoff(first=0.05, most=1.0)
        self._short_tries = BUSY_TRIES

    def pause(self, error: Unavailable | AccessDenied) -> float:
        """Say how many seconds to wait after this failure."""
        if isinstance(error, AccessDenied):
            return REFUSAL_HOLDS
        if isinstance(error, Busy):
            self._short_tries -= 1
            # When it goes on it is an outage, and each ended query would ask twice a second.
            if self._short_tries > 0:
                return self._short_pauses.next()
        return self._pauses.next(error.retry_after)
