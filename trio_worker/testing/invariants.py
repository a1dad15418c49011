"""What must hold, whatever dies: no query is lost, stuck or answered wrongly, and no log entry is missing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

import attrs

from trio_worker.journal_file import Contents, Entry
from trio_worker.phrases import ENGLISH
from trio_worker.query_log import SEPARATOR
from trio_worker.testing.simulated_handler import Ledger, Plan, Start
from trio_worker.testing.state import Change, StoredQuery

__all__ = ["Evidence", "problems_at_death", "problems_of", "without_repeats"]

OURS = "worker"  # the names of all our accounts begin so
LAZY = 0.2  # seconds after which a line has to be on disk


@attrs.define
class Evidence:
    """What is known of one query, beside what WebBuddy shows and the ledger says.

    Attributes:
        deaths: How many processes died, not by an orderly stop, while it was theirs.
        durable: The lines of its log that were on the disk of a dead process.
        settled: How many starts there had been when a process died with its outcome on disk; None: none did.
        requeued: Whether a person has put it back in the middle of our work.
        deleted: Whether a person has deleted it.
        taken_at: When a person made it another's for good, in epoch seconds; None: nobody did.
        blind: For how many seconds after that we may still go by our last look.
    """

    deaths: int = 0
    durable: list[str] = attrs.field(factory=list)
    settled: int | None = None
    requeued: bool = False
    deleted: bool = False
    taken_at: float | None = None
    blind: float = 0

    @property
    def is_untouched(self) -> bool:
        """Whether nobody but us has ever touched it."""
        return not (self.requeued or self.deleted or self.taken_at is not None)


# --- In the moment of a death -------------------------------------------------------------------------


def problems_at_death(
    left: Contents, queries: Iterable[StoredQuery], ledger: Ledger, *, life: int, died_at: float
) -> Iterator[str]:
    """Say what should have been on the disk of a process in the moment of its death.

    Args:
        left: What was there.
        queries: What WebBuddy has, as far as nobody but us has touched it.
        ledger: What handlers have done.
        life: Which process it was.
        died_at: When it died, on Trio's clock.
    """
    entries = {entry.query.query_text: entry for entry in left.entries}
    for query in queries:
        entry = entries.get(query.query_text)
        starts = [start for start in ledger.starts[query.query_text] if start.life == life]
        for problem in _not_on_disk(query, entry, starts, died_at):
            yield f"query {query.query_text}: {problem}"


def _not_on_disk(
    query: StoredQuery, entry: Entry | None, starts: Sequence[Start], died_at: float
) -> Iterator[str]:
    if any(start.running for start in starts) and (entry is None or not entry.running):
        yield "its handler was at work, and it was not on disk"
    has_ended = query.status in ("done", "failed")
    if has_ended and entry is not None and entry.outcome is None and _is_claim(entry, query):
        yield "its outcome was reported before it was on disk"
    if _claims(query) > 1:
        return  # what was logged after an earlier claim is let go, once we know of the later one
    known = _lines(query.logs) + [line.text for line in (entry.lines if entry is not None else ())]
    for start in starts:
        missing = [text for time, text in start.lines if time < died_at - LAZY and text not in known]
        if missing:
            yield f"its lines {missing} were neither at WebBuddy nor on disk"


def _is_claim(entry: Entry, query: StoredQuery) -> bool:
    """Whether an entry is of the claim that WebBuddy shows."""
    started = entry.query.query_started
    return (
        started is not None and query.started is not None and abs(started.timestamp() - query.started) < 1e-3
    )


# --- When everything has settled ----------------------------------------------------------------------


def problems_of(
    query: StoredQuery, ledger: Ledger, evidence: Evidence, *, log_first: bool = False
) -> Iterator[str]:
    """Say what is wrong with a query that has settled, or should have.

    Args:
        query: As WebBuddy shows it.
        ledger: What handlers have done.
        evidence: What else is known.
        log_first: Whether its log had to be there before its result: WebBuddy never took only the latter.
    """
    plan, starts = ledger.plans[query.query_text], ledger.starts[query.query_text]
    claims = _claims(query)
    yield from _starts(starts, claims, evidence)
    if evidence.deleted:
        return
    if query.status not in ("done", "failed"):
        yield f"stuck: it is {query.status}"
    elif evidence.taken_at is not None:
        yield from _untouched(query, evidence.taken_at, evidence.blind)
    else:
        yield from _ending(query, starts, evidence, only_run=claims == 1 and evidence.is_untouched)
        if claims == 1 and evidence.is_untouched:
            yield from _log(query, plan, starts, evidence)
            if log_first and query.entries and query.entries[-1].at > query.history[-1].at:
                yield f"its result came before {query.entries[-1].text!r}"
        else:
            # Two of us may have been at work at once: what one repeats need not follow at once.
            yield from _order(_lines(list(dict.fromkeys(query.logs))), each_run=True)


def _claims(query: StoredQuery) -> int:
    return sum(change.status == "in_progress" and _is_ours(change) for change in query.history)


def _is_ours(change: Change) -> bool:
    return change.by.startswith(OURS)


def _starts(starts: Sequence[Start], claims: int, evidence: Evidence) -> Iterator[str]:
    most = claims + evidence.deaths + sum(start.postponed for start in starts)
    if len(starts) > most:
        yield f"its handler was started {len(starts)} times, at most {most} were expected"
    # With one claim: one that has died may have been silent for so long that a neighbour took it for lost.
    if claims == 1 and evidence.settled is not None and len(starts) > evidence.settled:
        yield "its handler was started again although its outcome was on disk"


def _untouched(query: StoredQuery, taken_at: float, blind: float) -> Iterator[str]:
    since = taken_at + blind
    changes = [change for change in query.history if _is_ours(change) and change.at > taken_at]
    if any(change.at <= since for change in changes):
        return  # by our last look it was still ours; the API has no way to close that gap
    for change in changes:
        if change.at > since:
            yield f"wrong: we made it {change.status} after it was no longer ours"
    for entry in query.entries:
        if entry.at > since and "<" in entry.text:
            yield f"wrong: we logged {entry.text!r} after it was no longer ours"


def _ending(
    query: StoredQuery, starts: Sequence[Start], evidence: Evidence, *, only_run: bool
) -> Iterator[str]:
    said = [start.said for start in starts if start.said is not None]
    allowed = said[-1:] if only_run else said
    if evidence.deaths:
        allowed += [("failed", query.answer_text)] if _is_of_a_crash(query.answer_text) else []
    if not any(query.status == status and query.answer_text.startswith(text) for status, text in allowed):
        yield f"wrong: it is {query.status} with {query.answer_text!r}, its handler has said {said}"


def _is_of_a_crash(answer: str) -> bool:
    """Whether it was not run again after a crash. Its handler may have ended in the very last moment."""
    return answer.startswith((ENGLISH.crashed_once, ENGLISH.crashed.partition("{")[0]))


def _log(query: StoredQuery, plan: Plan, starts: Sequence[Start], evidence: Evidence) -> Iterator[str]:
    lines = _lines(query.logs)
    yield from _order(lines)
    for line in evidence.durable:
        if line not in lines:
            yield f"its log lacks {line!r}, which was on disk when its process died"
    if starts and starts[-1].said is not None and not _is_of_a_crash(query.answer_text):
        run = starts[-1].number
        missing = [text for number in range(1, plan.lines + 1) if (text := f"<{run}.{number}>") not in lines]
        if missing:
            yield f"its log lacks {missing} of the run that decided"
        if not lines or not re.match(r"(Done|Failed) after", lines[-1]):
            yield f"its log does not end with its end: {lines[-1:]}"


def _order(lines: Sequence[str], *, each_run: bool = False) -> Iterator[str]:
    marks = [(int(run), int(number)) for line in lines for run, number in re.findall(r"<(\d+)\.(\d+)>", line)]
    if each_run:
        marks.sort(key=lambda mark: mark[0])  # which leaves the order within each as it is
    if marks != sorted(set(marks)):
        yield f"its log is out of order, or repeated: {marks}"


def _lines(entries: Sequence[str]) -> list[str]:
    """Take entries apart into lines, without their times."""
    return [re.sub(r"^\+\d+\.\ds ", "", part) for entry in entries for part in entry.split(SEPARATOR)]


def without_repeats(query: StoredQuery) -> StoredQuery:
    """Give a query without the entries that are there twice in a row: the answer to the first was lost."""
    entries = [
        entry
        for before, entry in zip([None, *query.entries], query.entries, strict=False)
        if before is None or before.text != entry.text
    ]
    return attrs.evolve(query, entries=entries)
