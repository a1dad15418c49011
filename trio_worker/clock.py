"""What time it is: the one place where the wall clock is read."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime

__all__ = ["now", "source", "utc_now"]

# A ContextVar and not a global: two workers in one process, each on a clock of its own, is what tests
# of restarts and of wrong clocks are made of. Trio's tasks inherit it.
source: ContextVar[Callable[[], float]] = ContextVar("source", default=time.time)
"""What `now` asks. Tests set it, before they start the tasks that shall see it."""


def now() -> float:
    """Say what time it is, in seconds since the epoch.

    For what is shown, sent, or has to outlive the process. How long something takes is measured
    on Trio's clock, which nobody sets back.
    """
    return source.get()()


def utc_now() -> datetime:
    """Say what time it is, aware, in UTC."""
    return datetime.fromtimestamp(now(), UTC)
