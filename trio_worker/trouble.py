"""What goes wrong again and again, and is said seldom."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import trio

__all__ = ["AGAIN", "PEACE", "Trouble"]

AGAIN = 600.0
"""Seconds between two lines about the same trouble."""

PEACE = 60.0
"""Seconds for which trouble has to be over for the next to be another one, which is said at once: what comes
and goes by the second is one."""


class Trouble:
    """One kind of trouble: said when it begins, every ten minutes with how often, and when it is over.

    ::

        happened() ──▶ said                                        12:00:00  event
        happened() ──▶ said at the level of debug, and counted
        happened() ──▶ said, with how often                        12:10:00  event  times=57 in_seconds=600
        is_over()  ──▶ said, where it was said that it happens     12:11:00  over   after_seconds=660

    For what has no end that could be seen, such as results that are refused, `is_over` is never called.

    Args:
        logger: Of the module in which it happens, from `structlog.get_logger`.
        event: The line.
        over: The line when it is over; None: none is said.
        level: Of the line.
        now: The time in seconds, for what happens in another thread.
    """

    def __init__(
        self,
        logger: Any,
        event: str,
        *,
        over: str | None = None,
        level: Literal["warning", "error"] = "warning",
        now: Callable[[], float] = trio.current_time,
    ) -> None:
        self._logger = logger
        self._event = event
        self._over = over
        self._level = level
        self._now = now
        self._since: float | None = None
        self._over_at = -math.inf
        self._said_at: dict[str, float] = {}
        self._is_said = False
        self._unsaid = 0
        self._counted_from = -math.inf

    def happened(self, about: str = "", **values: object) -> None:
        """It happens, once more.

        Args:
            about: What of it; another one is said at once. Of these there must be few.
            **values: For the line.
        """
        now = self._now()
        if self._since is None:
            self._since = now
            if now - self._over_at >= PEACE:
                self._said_at.clear()
                self._unsaid = 0
        self._unsaid += 1
        # What has come back within a minute, and lasts now, is no flicker: nobody is to be left with the line
        # that it is over.
        is_known = self._is_said or now - self._since < PEACE
        if is_known and now - self._said_at.get(about, -math.inf) < AGAIN:
            self._logger.debug(self._event, **values)
            return
        if self._unsaid > 1:
            values |= {"times": self._unsaid, "in_seconds": round(now - self._counted_from, 1)}
        self._said_at[about] = self._counted_from = now
        self._is_said, self._unsaid = True, 0
        getattr(self._logger, self._level)(self._event, **values)

    def is_over(self, **values: object) -> None:
        """It goes well. Costs nothing where nothing has happened."""
        if self._since is None:
            return
        now = self._now()
        if self._is_said and self._over is not None:
            seconds = round(now - self._since, 1)
            self._logger.info(self._over, after_seconds=seconds, **values)
        self._since, self._over_at, self._is_said = None, now, False
