"""Which processor runs what."""

from __future__ import annotations

import os
import sys

__all__ = ["ALL", "REFEREE", "WORKERS", "describe", "pin", "several"]


def _usable() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []


_CORES = _usable()

ALL = _CORES
"""Where several run that are not to be told apart."""

REFEREE = _CORES[:1] if len(_CORES) > 1 else []
"""Where WebBuddy and the measuring program run. Empty: wherever the system likes."""

WORKERS = _CORES[-1:] if len(_CORES) > 1 else []
"""Where what is measured runs, and nothing else of ours."""


def pin(pid: int, cores: list[int]) -> None:
    """Let a process run on these only, and all that it starts from now on.

    Args:
        pid: Which; 0 is this one.
        cores: None means any.
    """
    if cores:
        os.sched_setaffinity(pid, cores)


def several(number: int) -> list[int] | None:
    """Give so many cores, beside WebBuddy's and one for all else that runs here; None: there are fewer."""
    return _CORES[-number:] if len(_CORES) >= number + 2 else None


def describe() -> str:
    """Say it for the report."""
    if not WORKERS:
        return "there is one core only: WebBuddy takes from what is measured"
    return f"{len(_CORES)} cores: WebBuddy on {REFEREE[0]}, what is measured on {WORKERS[0]}"
