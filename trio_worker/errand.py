"""A run that has an end of its own: one query, or all that there are (``trio-worker once``)."""

from __future__ import annotations

from collections import Counter

import attrs

from trio_worker.query import Ending

__all__ = ["REPORT_SECONDS", "Errand"]

REPORT_SECONDS = 60.0
"""After the last query, for its log and its result; what does not get through waits in the journal."""


@attrs.define(eq=False)
class Errand:
    """What is to be done before the worker stops by itself.

    Attributes:
        every: Whether the queue is to be worked off; if not, one query is enough.
        taken: How many queries were begun.
        endings: How many of them ended how, by the kind of ending.
        last: How the last one ended; None: none has.
        waiting: How many queries are left in the journal at the end, dead letters not counted.
        failure: Why not all was done, as a sentence, or None.
        is_done: Whether nothing more is to be taken. What was taken still runs to its end.
    """

    every: bool
    taken: int = attrs.field(default=0, init=False)
    endings: Counter[type[Ending]] = attrs.field(factory=Counter, init=False)
    last: Ending | None = attrs.field(default=None, init=False)
    waiting: int = attrs.field(default=0, init=False)
    failure: str | None = attrs.field(default=None, init=False)
    is_done: bool = attrs.field(default=False, init=False)

    def took(self) -> None:
        """A query was taken: a new one, or one that was held."""
        self.taken += 1
        self.is_done = self.is_done or not self.every

    def ended(self, ending: Ending) -> None:
        """The work on one that was taken is over."""
        self.endings[type(ending)] += 1
        self.last = ending

    def found_nothing(self) -> None:
        """WebBuddy has no query for us."""
        self.is_done = True

    def failed(self, reason: str) -> None:
        """Nothing more can be taken. Whoever has started us tries again, not we."""
        self.failure = reason
        self.is_done = True
