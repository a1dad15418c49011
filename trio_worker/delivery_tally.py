"""What became of queries, and how well WebBuddy hears of it, in numbers."""

from __future__ import annotations

import attrs

from trio_worker import clock
from trio_worker.query import Done, Failed, Outcome
from trio_worker.tallies import LONG, Count, Spread

__all__ = ["DeliveryTally"]


@attrs.define(eq=False)
class DeliveryTally:
    """Counts ends, reports and lines.

    Attributes:
        outcomes: How queries ended here. One that was put aside may do so several times, and end after that.
        failures: The failed ones by kind (`Failed.kind`).
        report_delays: From the end of each to the moment in which WebBuddy had taken it, also over a restart.
        log_lines: ``sent`` in an entry of their own, ``gathered`` with others in one, ``dropped``: left out
            as too many, or refused by WebBuddy.
        refused: Results that WebBuddy has refused.
        retries: How often a call was made again, by what it was for.
    """

    outcomes: Count = attrs.field(
        factory=lambda: Count("done", "failed", "put_back", "put_aside", "taken_away"), init=False
    )
    failures: Count = attrs.field(factory=lambda: Count("error", "timeout", "left_behind"), init=False)
    report_delays: Spread = attrs.field(factory=lambda: Spread(LONG), init=False)
    log_lines: Count = attrs.field(factory=lambda: Count("sent", "gathered", "dropped"), init=False)
    refused: int = attrs.field(default=0, init=False)
    retries: Count = attrs.field(factory=lambda: Count("log", "report"), init=False)

    def ended(self, outcome: Outcome) -> None:
        """A query has ended."""
        match outcome:
            case Done():
                self.outcomes.add("done")
            case Failed(_, kind):
                self.outcomes.add("failed")
                self.failures.add(kind)
            case _:
                self.outcomes.add("put_back")

    def reported(self, ended_at: float | None) -> None:
        """WebBuddy has taken the outcome of a query.

        Args:
            ended_at: When it has ended, in epoch seconds.
        """
        if ended_at is not None:
            self.report_delays.add(clock.now() - ended_at)

    def shipped(self, lines: int, left_out: int, *, taken: bool) -> None:
        """An entry is through.

        Args:
            lines: How many lines it had.
            left_out: How many were left out behind them.
            taken: Whether WebBuddy has taken it.
        """
        fate = "dropped" if not taken else "sent" if lines == 1 else "gathered"
        self.log_lines.add(fate, lines)
        if left_out:
            self.log_lines.add("dropped", left_out)
