"""A query's history, told by claims: which change, which run and which log entry belongs to which."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence

import attrs

from trio_worker.phrases import ENGLISH
from trio_worker.testing.simulated_evidence import Act, Evidence, Life, is_same_claim, life_of
from trio_worker.testing.simulated_handler import Start
from trio_worker.testing.state import Change, LogEntry, StoredQuery

__all__ = ["Claim", "Claims", "Deed", "is_of_a_crash", "is_ours"]

OURS = "worker"  # the names of all our accounts begin so


@attrs.define(eq=False)
class Claim:
    """One claim of a query by a process of ours.

    Attributes:
        place: Its place in the query's history.
        at: When it was, in epoch seconds.
        life: Which process made it; 0: it is not known.
        starts: The runs of the handler that it led to.
        deeds: What was made of the query by whoever held this claim.
        lost_at: When the query became another's, or another claim's: by the first change after this claim
            that is none of its own deeds. inf: it never did.
    """

    place: int
    at: float
    life: int
    starts: list[Start] = attrs.field(factory=list)
    deeds: list[Deed] = attrs.field(factory=list)
    lost_at: float = math.inf

    @property
    def has_result(self) -> bool:
        """Whether it has ended with an answer or a failure."""
        return any(deed.change.status in ("done", "failed") for deed in self.deeds)

    @property
    def last_said(self) -> Start | None:
        """The last of its runs that came to an end of its own: the one that counts."""
        return next((start for start in reversed(self.starts) if start.said is not None), None)

    def lost_before(self, history: Sequence[Change], until: float) -> float:
        """When it was lost, as it stood at a time; inf: it was not.

        A result that got there nevertheless, since its process could not know, has made the query what that
        process says it is: our own answer is there, and its log may follow.

        Args:
            history: The query's.
            until: The time.
        """
        own, lost_at = {deed.place for deed in self.deeds}, math.inf
        for place, change in enumerate(history):
            if place > self.place and change.at <= until:
                lost_at = math.inf if place in own else min(lost_at, change.at)
        return lost_at

    def run_of(self, deed: Deed) -> Start | None:
        """Find the last of its runs that has said what was reported."""
        answer = deed.act.answer or ""
        runs = (start for start in reversed(self.starts) if start.has_said(deed.change.status, answer))
        return next(runs, None)


@attrs.frozen(eq=False)
class Deed:
    """A change of a query that came from a process of ours, and is no claim.

    Attributes:
        place: Its place in the query's history.
        change: The change.
        act: What else is known of it.
    """

    place: int
    change: Change
    act: Act


@attrs.define(eq=False)
class Claims:
    """All claims of a query by processes of ours.

    Attributes:
        query: The query.
        evidence: What is known of it.
        lives: What is known of our processes, by their numbers.
        all: Its claims, oldest first.
        strays: Deeds by processes that can't have held any claim of it.
    """

    query: StoredQuery
    evidence: Evidence
    lives: Mapping[int, Life]
    all: list[Claim] = attrs.field(factory=list, init=False)
    strays: list[Deed] = attrs.field(factory=list, init=False)

    @classmethod
    def of(
        cls, query: StoredQuery, starts: Sequence[Start], evidence: Evidence, lives: Mapping[int, Life]
    ) -> Claims:
        """Sort out what has happened to a query.

        Args:
            query: The query.
            starts: All runs of its handler.
            evidence: What is known of it.
            lives: What is known of our processes.
        """
        claims = cls(query, evidence, lives)
        for place, change in enumerate(query.history):
            if change.status == "in_progress" and is_ours(change):
                claims.all.append(Claim(place, change.at, claims._act(place).life))
        for start in starts if claims.all else ():
            claims._claim_of(start).starts.append(start)
        for deed in claims._deeds():
            owner = claims._owner(deed)
            (claims.strays if owner is None else owner.deeds).append(deed)
        for claim in claims.all:
            own = {deed.place for deed in claim.deeds}
            after = enumerate(query.history[claim.place + 1 :], claim.place + 1)
            claim.lost_at = next((change.at for place, change in after if place not in own), math.inf)
        return claims

    def deaths(self, claim: Claim) -> int:
        """Count the processes that died with a claim."""
        return sum(is_same_claim(died, claim.at) for died in self.evidence.deaths)

    def life(self, number: int) -> Life:
        """What is known of a process."""
        return self.lives.get(number) or Life()

    def of_entry(self, entry: LogEntry) -> Claim | None:
        """Find the claim that a log entry belongs to; None: it is not ours."""
        life = life_of(self.evidence.authors.get(entry.id, ""))
        if not life:
            return None
        runs = {int(run) for run in re.findall(r"<(\d+)\.\d+>", entry.text)}
        for claim in self.all:
            if any(start.number in runs for start in claim.starts):
                return claim
        return self._latest(self._holdable(life, entry.at))

    def _act(self, place: int) -> Act:
        known = self.evidence.acts.get(place)
        if known is not None:
            return known
        return Act(answer=self.query.answer_text if place == len(self.query.history) - 1 else None)

    def _deeds(self) -> Iterator[Deed]:
        for place, change in enumerate(self.query.history):
            if change.status != "in_progress" and is_ours(change):
                yield Deed(place, change, self._act(place))

    def _claim_of(self, start: Start) -> Claim:
        return next((claim for claim in self.all if is_same_claim(start.claim, claim.at)), self.all[-1])

    def _owner(self, deed: Deed) -> Claim | None:
        """Find the claim by which a process has done something.

        An answer tells which run it is of, and that there was a death, with which claim. Of two whose answers
        are the same, and for a query that is put back, it is the latest claim that the process can have held.
        """
        holdable = [
            claim for claim in self._holdable(deed.act.life, deed.change.at) if claim.place < deed.place
        ]
        if deed.change.status == "queued":
            # Not one that has ended with a result: then it is a later claim that it takes for lost.
            return self._latest([claim for claim in holdable if not claim.has_result])
        if deed.act.answer is None:
            return self._latest(holdable)
        if is_of_a_crash(deed.act.answer):
            return self._latest([claim for claim in holdable if self.deaths(claim)]) or self._latest(holdable)
        before = [claim for claim in self.all if claim.place < deed.place]
        of_a_run = [claim for claim in before if claim.run_of(deed) is not None]
        held = [claim for claim in holdable if claim in of_a_run]
        return self._latest(held) or self._latest(of_a_run) or self._latest(holdable)

    def _holdable(self, life: int, until: float) -> list[Claim]:
        """List the claims that a process can hold: its own, and those that the dead of its disk have left."""
        return [claim for claim in self.all if claim.at <= until and self._may_hold(life, claim.life, until)]

    def _may_hold(self, life: int, claimed_by: int, until: float) -> bool:
        if life == claimed_by or life not in self.lives or claimed_by not in self.lives:
            return True
        former = self.lives[claimed_by]
        return former.account == self.lives[life].account and former.ended_at <= until

    @staticmethod
    def _latest(claims: Sequence[Claim]) -> Claim | None:
        return claims[-1] if claims else None


def is_of_a_crash(answer: str) -> bool:
    """Whether it was not run again after a crash. Its handler may have ended in the very last moment."""
    return answer.startswith((ENGLISH.crashed_once, ENGLISH.crashed.partition("{")[0]))


def is_ours(change: Change) -> bool:
    """Whether a change came from one of our accounts."""
    return change.by.startswith(OURS)
