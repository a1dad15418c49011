"""What the consumers do, and have done of late: in memory, bounded, for whoever looks.

Two calls a query feed it, of a few microseconds together. What is shown of it is worked out when somebody
looks, and not before.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator

import attrs

from trio_worker.query import Done, Ending, Failed, Postponed, Query, Released, Revoked

__all__ = ["KEPT", "MINUTES", "Attempt", "History", "Minute", "Spread"]

KEPT = 100
"""Attempts that are remembered after their end."""

MINUTES = 60
"""Minutes of which there are figures."""

SECONDS = 60.0

WORDS: dict[type[Ending], str] = {
    Done: "done",
    Failed: "failed",
    Released: "put back",
    Postponed: "put aside",
    Revoked: "taken away",
}


@attrs.define(eq=False)
class Attempt:
    """One attempt at a query. No text of it is kept: neither the question, nor the answer, nor a reason.

    Attributes:
        number: Counts the attempts of this process, from 1.
        query: The query's id.
        attempt: Which one it is of this query.
        source: ``"push"`` or ``"poll"``: what led to the claim.
        place: Of the consumer, from 0.
        began_at: On Trio's clock.
        pick_up: Seconds from the query's creation to its claim; None: not known, or it was at work before.
        ended_at: On Trio's clock; None: it is at work.
        outcome: One of `WORDS`; empty while it is at work.
        kind: Of a failure, as `Failed.kind` has it; otherwise empty.
    """

    number: int
    query: int
    attempt: int
    source: str
    place: int
    began_at: float
    pick_up: float | None
    ended_at: float | None = None
    outcome: str = ""
    kind: str = ""


@attrs.define(eq=False)
class Spread:
    """Several durations, in three numbers.

    Attributes:
        count: How many.
        total: Their sum, in seconds.
        longest: The longest, in seconds.
    """

    count: int = 0
    total: float = 0.0
    longest: float = 0.0

    def add(self, seconds: float) -> None:
        """Add one."""
        self.count += 1
        self.total += seconds
        self.longest = max(self.longest, seconds)


@attrs.define(eq=False)
class Minute:
    """What one minute has brought.

    Attributes:
        number: Trio's clock in whole minutes.
        done: Attempts that ended so in it.
        failed: The same.
        other: Attempts that ended in it without an outcome: put back, put aside, taken away.
        runs: How long those took that were done or failed.
        pick_ups: How long those had waited that were begun in it.
    """

    number: int
    done: int = 0
    failed: int = 0
    other: int = 0
    runs: Spread = attrs.field(factory=Spread)
    pick_ups: Spread = attrs.field(factory=Spread)


class History:
    """The attempts under way, the last `KEPT` that have ended, and the last `MINUTES`.

    Consumers are all alike, so a place is no one task's: whoever begins takes the first that is free.

    Args:
        places: How many consumers there are.
        now: When that is, on Trio's clock.

    Attributes:
        places: Of each consumer the attempt that it is at, or since when it is free.
        ended: Attempts that have ended, the newest last.
        totals: How many attempts ended how, since the start.
    """

    def __init__(self, places: int, now: float) -> None:
        self.places: list[Attempt | float] = [now] * places
        self.ended: deque[Attempt] = deque(maxlen=KEPT)
        self.totals = dict.fromkeys(WORDS.values(), 0)
        self._free = list(range(places))  # a heap, as it stands
        self._minutes: deque[Minute] = deque(maxlen=MINUTES)  # only those in which something was
        self._count = 0

    def begin(self, query: Query, attempt: int, source: str, now: float) -> Attempt:
        """A consumer has begun. Synchronous; `end` has to follow.

        Args:
            query: Its query.
            attempt: Which one it is of this query, from 1.
            source: What led to the claim.
            now: When that is, on Trio's clock.
        """
        self._count += 1
        # Never empty while each consumer ends what it has begun; a miscount must not stop a query.
        place = heapq.heappop(self._free) if self._free else -1
        begun = Attempt(self._count, query.id, attempt, source, place, now, _pick_up(query, attempt))
        if place >= 0:
            self.places[place] = begun
        if begun.pick_up is not None:
            self._minute(now).pick_ups.add(begun.pick_up)
        return begun

    def end(self, attempt: Attempt, ending: Ending, now: float) -> None:
        """It has ended. Synchronous.

        Args:
            attempt: What `begin` has given.
            ending: How.
            now: When that is, on Trio's clock.
        """
        attempt.ended_at, attempt.outcome = now, WORDS[type(ending)]
        self.totals[attempt.outcome] += 1
        minute = self._minute(now)
        if isinstance(ending, Done):
            minute.done += 1
            minute.runs.add(now - attempt.began_at)
        elif isinstance(ending, Failed):
            attempt.kind = ending.kind
            minute.failed += 1
            minute.runs.add(now - attempt.began_at)
        else:
            minute.other += 1
        self.ended.append(attempt)
        if attempt.place >= 0:
            self.places[attempt.place] = now
            heapq.heappush(self._free, attempt.place)

    def last_hour(self, now: float) -> Iterator[Minute]:
        """Give the minutes of the last hour in which something was, the oldest first.

        Args:
            now: When that is, on Trio's clock.
        """
        first = int(now // SECONDS) - MINUTES
        return (minute for minute in self._minutes if minute.number > first)

    def _minute(self, now: float) -> Minute:
        number = int(now // SECONDS)
        if not self._minutes or self._minutes[-1].number != number:
            self._minutes.append(Minute(number))
        return self._minutes[-1]


def _pick_up(query: Query, attempt: int) -> float | None:
    """By WebBuddy's clock on both ends. Of a query that was put back it would tell how old it is."""
    if attempt != 1 or query.logs_count or query.query_created is None or query.query_started is None:
        return None
    return max(0.0, (query.query_started - query.query_created).total_seconds())
