"""How long to wait before trying again."""

from __future__ import annotations

import random
from typing import Protocol

import attrs

__all__ = ["LONGEST_WAIT_ASKED_FOR", "Backoff"]

LONGEST_WAIT_ASKED_FOR = 3600.0
"""The most seconds of a server's ``Retry-After`` that are kept to.

A proxy's typing mistake, or a date of a clock that is wrong, would otherwise put the worker to
sleep for days, with nobody to tell it that WebBuddy is well again. Once an hour hurts no server.
"""


class Draws(Protocol):
    """What `random.Random` and the module `random` have in common."""

    def uniform(self, a: float, b: float) -> float:
        """Draw from the range."""
        ...


@attrs.define
class Backoff:
    """Exponential backoff with full jitter.

    Each wait is drawn evenly from nothing up to a ceiling, and the ceiling doubles. Full jitter,
    not "ceiling ± 10 %": after an outage all the workers of a WebBuddy start to ask at once, and
    only a draw from the whole range spreads them
    (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).

    Args:
        first: The first ceiling, in seconds; more than 0.
        most: The highest ceiling, in seconds.
        rng: Where the jitter comes from. The module `random` itself, so that ``random.seed(n)``
            makes a whole run repeatable.
    """

    first: float
    most: float
    rng: Draws = attrs.field(default=random, repr=False)
    _ceiling: float = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.reset()

    def next(self, retry_after: float | None = None) -> float:
        """Say how long to wait now, and make the next wait longer.

        Args:
            retry_after: Seconds that the server asked for, or None. The jitter comes on top, since
                a server tells everybody the same number.

        Returns:
            Seconds; never fewer than ``retry_after``, of which an hour at most is kept to.
        """
        wait = self.rng.uniform(0, self._ceiling)
        self._ceiling = min(self.most, self._ceiling * 2)
        if retry_after is not None:
            wait += min(max(retry_after, 0.0), LONGEST_WAIT_ASKED_FOR)
        return wait

    def reset(self) -> None:
        """It went well: the next wait is a short one again."""
        self._ceiling = min(self.first, self.most)
