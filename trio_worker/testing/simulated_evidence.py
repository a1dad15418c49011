"""What is known of a query and of our processes, beside what WebBuddy shows and the ledger says."""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Sequence

import attrs

from trio_worker.journal_file import Entry
from trio_worker.testing.simulated_handler import Start, claim_of

__all__ = ["Act", "Evidence", "Life", "is_same_claim", "life_of"]

MOST_FAILED_LOOKS = 8  # as in `trio_worker.looks`
CALL = 30.0  # seconds; the default of WORKER_REQUEST_TIMEOUT


@attrs.define(kw_only=True, eq=False)
class Life:
    """One process of ours.

    Attributes:
        account: Its account. Processes with the same one share a disk.
        interval: Its ``WORKER_WATCH_INTERVAL``, in seconds.
        died_at: When it died, on Trio's clock; inf: it did not.
        ended_at: When it died or ended, in epoch seconds; inf: it lives.
        failed_looks: When reads of its failed, in epoch seconds, the oldest first.
    """

    account: str = "worker"
    interval: float = 30.0
    died_at: float = math.inf
    ended_at: float = math.inf
    failed_looks: list[float] = attrs.field(factory=list, repr=False)

    @property
    def blind(self) -> float:
        """For how many seconds after WebBuddy has shown it a query what it says of that may go by that.

        It believes its last look for one watch interval from the moment in which it heard the answer. That
        answer was given up to one call before, and what is then sent waits for its turn and travels: each
        of the three takes as long as a call may take, at most. The API has no way to close that gap.
        """
        return self.interval + 3 * CALL

    def blind_at_work(self, since: float, until: float) -> float:
        """Likewise for the log of a handler that is at work, which is left to the watch.

        A round of the watch passes over what has shown itself in the last half interval: so a look is
        followed by the next after 1.5 intervals and the time that the calls of that round take, a turn and
        a call for the one before and for itself. A look that fails leaves it to the next round.

        Args:
            since: When it was taken from us, in epoch seconds.
            until: When the line was logged.
        """
        failed = bisect(self.failed_looks, until) - bisect(self.failed_looks, since - CALL)
        return (1.5 + failed) * self.interval + 5 * CALL


@attrs.frozen
class Act:
    """What one of our processes has made of a query.

    Attributes:
        life: Which process it was; 0: it is not known.
        request: Which request of it.
        answer: The answer that the query then had; None: it is not known.
    """

    life: int = 0
    request: str = ""
    answer: str | None = None


@attrs.define
class Evidence:
    """What is known of one query. A claim is named by its time, in epoch seconds.

    Attributes:
        requeued: Whether a person has put it back in the middle of our work.
        deleted: Whether a person has deleted it.
        taken_at: When a person made it another's, in epoch seconds; None: nobody did.
        deaths: The claims in the middle of which a process died, not by an orderly stop; one for each death.
        durable: The lines of its log that were on the disk of a dead process, with their claims.
        settled: How many starts there had been of a claim when a process died with its outcome on disk.
        acts: What our processes have made of it, by the place in its history.
        authors: The requests that have brought its log entries, by the numbers of these.
        looks: When it was shown to one of our processes, in epoch seconds, and to which.
        lists: Likewise, when a list was shown on which it is or is not; perhaps for quite another reason.
        lost_entries: The requests that were to bring log entries and got no answer.
        lost_changes: The changes of it that got no answer: when that was clear, the status, and the rest.
        failed_looks: When WebBuddy has failed to show it, in epoch seconds, and to which of our processes.
    """

    requeued: bool = False
    deleted: bool = False
    taken_at: float | None = None
    deaths: list[float] = attrs.field(factory=list)
    durable: list[tuple[float, str]] = attrs.field(factory=list)
    settled: dict[float, int] = attrs.field(factory=dict)
    acts: dict[int, Act] = attrs.field(factory=dict)
    authors: dict[int, str] = attrs.field(factory=dict, repr=False)
    looks: list[tuple[float, int]] = attrs.field(factory=list, repr=False)
    lists: list[tuple[float, int]] = attrs.field(factory=list, repr=False)
    lost_entries: set[str] = attrs.field(factory=set, repr=False)
    lost_changes: list[tuple[float, str, Act]] = attrs.field(factory=list, repr=False)
    failed_looks: list[tuple[float, int]] = attrs.field(factory=list, repr=False)

    @property
    def is_untouched(self) -> bool:
        """Whether nobody but us has ever touched it."""
        return not (self.requeued or self.deleted or self.taken_at is not None)

    def note_left(self, entry: Entry, starts: Sequence[Start]) -> None:
        """Note what was on the disk of a process that has died.

        Args:
            entry: What was there of this query.
            starts: All runs of its handler.
        """
        claim = claim_of(entry.query)
        self.durable += [(claim, line.text) for line in entry.lines]
        if entry.outcome is None:
            self.deaths.append(claim)
        else:
            self.settled[claim] = sum(is_same_claim(start.claim, claim) for start in starts)

    def last_lost(self, status: str, act: Act, until: float) -> float:
        """When a process last got no answer to the same change, tried before; -inf: it never did."""
        lost = (
            at
            for at, wanted, former in self.lost_changes
            if at <= until
            and (wanted, former.life) == (status, act.life)
            and former.request != act.request
            and (status == "queued" or former.answer == act.answer)
        )
        return max(lost, default=-math.inf)

    def could_be_asked(self, life: int, until: float) -> bool:
        """Whether a process could look at it. It does without a look when WebBuddy fails at that alone."""
        since = _last(self.looks, life, until)
        failed = sum(whom == life and since < at <= until for at, whom in self.failed_looks)
        return failed < MOST_FAILED_LOOKS

    def last_shown(self, life: int, until: float) -> float:
        """When it was last shown to a process before a time; -inf: it never was."""
        return max(_last(self.looks, life, until), _last(self.lists, life, until))


def _last(times: Sequence[tuple[float, int]], life: int, until: float) -> float:
    return max((at for at, whom in times if whom == life and at <= until), default=-math.inf)


def life_of(request: str) -> int:
    """Which process has sent a request; 0: none of ours."""
    return int(request.partition("/")[0] or 0)


def is_same_claim(one: float | None, other: float) -> bool:
    """Whether two times are of the same claim. WebBuddy shows them with six digits."""
    return one is not None and abs(one - other) < 1e-3
