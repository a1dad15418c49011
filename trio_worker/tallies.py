"""Counting what happens, so cheaply that it may be done at each call: integers in dictionaries and lists.

Nothing here knows who reads the numbers. Each is counted on the thread of the event loop only, and so has no
lock.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

__all__ = ["LONG", "SHORT", "Count", "Pair", "Spread", "Spreads"]

Pair = tuple[str, str]

SHORT = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds: the bounds for what should take a moment."""

LONG = (0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
"""Seconds: the bounds for what may take its time."""


class Count:
    """How often something happened, by kind. It only grows.

    Args:
        *kinds: Those that are there from the start, with 0: who looks at the growth of one that comes later
            does not see its first time.

    Attributes:
        by: How often, by kind.
    """

    __slots__ = ("by",)

    def __init__(self, *kinds: str | Pair) -> None:
        self.by: dict[str | Pair, int] = dict.fromkeys(kinds, 0)

    def add(self, kind: str | Pair, number: int = 1) -> None:
        """It has happened, once or more often."""
        self.by[kind] = self.by.get(kind, 0) + number


class Spread:
    """How long something took, each time: how often it stayed within each of some bounds.

    Args:
        bounds: In seconds, ascending.

    Attributes:
        bounds: As above.
        counts: How often it took longer than the bound before, and at most this one; the last: than all.
        sum: Seconds in all.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        """It took so long. Less than nothing, as by a clock that was set back, is nothing."""
        if seconds < 0.0:
            seconds = 0.0
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum += seconds


class Spreads:
    """The same by kind.

    Attributes:
        by: The spread of each kind.
    """

    __slots__ = ("_bounds", "by")

    def __init__(self, bounds: Sequence[float], *kinds: str) -> None:
        self._bounds = bounds
        self.by = {kind: Spread(bounds) for kind in kinds}

    def add(self, kind: str, seconds: float) -> None:
        """It took so long."""
        spread = self.by.get(kind)
        if spread is None:
            spread = self.by[kind] = Spread(self._bounds)
        spread.add(seconds)
