"""What must hold, whatever dies: no query is lost, stuck or answered wrongly, and no log entry is missing."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from trio_worker.journal_file import Contents, Entry
from trio_worker.query_log import SEPARATOR
from trio_worker.testing.simulated_claims import Claim, Claims, Deed, is_of_a_crash, is_ours
from trio_worker.testing.simulated_evidence import CALL, Evidence, Life, is_same_claim, life_of
from trio_worker.testing.simulated_handler import Ledger, Plan, Start, claim_of
from trio_worker.testing.state import StoredQuery

__all__ = ["Evidence", "problems_at_death", "problems_of"]

LAZY = 0.2  # seconds after which a line has to be on disk
SILENCE = 60.0 + 5 * CALL  # seconds: two looks a minute apart, a turn or a call for each step between them

_MARK = re.compile(r"<(\d+)\.(\d+)>")
_END = re.compile(r"(Done|Failed) after")


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
    known = _lines(query.logs) + [line.text for line in (entry.lines if entry is not None else ())]
    for start in starts:
        if query.started is not None and not is_same_claim(start.claim, query.started):
            continue  # what was logged after an earlier claim is let go, once we know of the later one
        missing = [text for time, text in start.lines if time < died_at - LAZY and text not in known]
        if missing:
            yield f"its lines {missing} were neither at WebBuddy nor on disk"


def _is_claim(entry: Entry, query: StoredQuery) -> bool:
    """Whether an entry is of the claim that WebBuddy shows."""
    return query.started is not None and is_same_claim(claim_of(entry.query), query.started)


# --- When everything has settled ----------------------------------------------------------------------


def problems_of(
    query: StoredQuery,
    ledger: Ledger,
    evidence: Evidence,
    lives: Mapping[int, Life] | None = None,
    *,
    log_first: bool = False,
) -> Iterator[str]:
    """Say what is wrong with a query that has settled, or should have.

    Args:
        query: As WebBuddy shows it.
        ledger: What handlers have done.
        evidence: What else is known.
        lives: What is known of our processes, by their numbers.
        log_first: Whether its log had to be there before its result: WebBuddy never took only the latter.
    """
    plan, starts = ledger.plans[query.query_text], ledger.starts[query.query_text]
    claims = Claims.of(query, starts, evidence, lives or {})
    for claim in claims.all:
        yield from _starts(claims, claim)
    if evidence.deleted:
        return
    if query.status not in ("done", "failed"):
        yield f"stuck: it is {query.status}"
    for claim in claims.all:
        for deed in claim.deeds:
            yield from _deed(claims, claim, deed)
    for deed in claims.strays:
        yield from _stray(claims, deed)
    yield from _late_entries(claims)
    yield from _order(claims)
    yield from _repeats(claims)
    decider = _decider(claims)
    if decider is not None:
        yield from _log(claims, decider, plan, log_first=log_first)


def _starts(claims: Claims, claim: Claim) -> Iterator[str]:
    deaths, settled = claims.deaths(claim), _settled(claim, claims.evidence)
    most = 1 + deaths + sum(start.postponed for start in claim.starts)
    if len(claim.starts) > most:
        yield f"its handler was started {len(claim.starts)} times, at most {most} were expected"
    if settled is not None and len(claim.starts) > settled:
        yield "its handler was started again although its outcome was on disk"


def _settled(claim: Claim, evidence: Evidence) -> int | None:
    return min((n for at, n in evidence.settled.items() if is_same_claim(at, claim.at)), default=None)


# --- What we have made of it ----------------------------------------------------------------------


def _deed(claims: Claims, claim: Claim, deed: Deed) -> Iterator[str]:
    """Say what is wrong with a change by the holder of a claim.

    A result over what somebody else has made of the query meanwhile is nothing that a worker could avoid,
    as long as it could not know.
    """
    change, life = deed.change, claims.life(deed.act.life)
    late = change.at - claim.lost_at
    before = [other.change.status for other in claim.deeds if other.place < deed.place]
    if before and before[-1] != change.status:
        yield f"wrong: we made it {change.status} after we had made it {before[-1]}"
    if _is_outdated(claims, claim, deed):
        yield f"wrong: we made it {change.status} by a claim, after a later claim of ours had ended it"
    shown_at = claims.evidence.last_shown(deed.act.life, change.at)
    if not claims.evidence.could_be_asked(deed.act.life, change.at):
        late = 0.0
    elif deed.act.life in claims.lives:
        yield from _look(claims.evidence, deed, life, shown_at)
    if late > life.blind:
        yield f"wrong: we made it {change.status} {late:.0f} s after it was no longer ours"
    if change.status != "queued" and deed.act.answer is not None:
        yield from _answer(claims, claim, deed)


def _is_outdated(claims: Claims, claim: Claim, deed: Deed) -> bool:
    """Whether the same process had already said how a later claim ended: it knows of that, without a look."""
    later = [other for newer in claims.all if newer.place > claim.place for other in newer.deeds]
    return any(other.place < deed.place and other.act.life == deed.act.life for other in later)


def _look(evidence: Evidence, deed: Deed, life: Life, shown_at: float) -> Iterator[str]:
    """Say where a process has changed a query without having looked at it, or claimed it, shortly before.

    It looks also before each try that follows one of which it did not hear what came of it.
    """
    change = deed.change
    shown = change.at - shown_at
    if shown > life.blind:
        yield f"wrong: we made it {change.status} without a look, the last was {shown:.0f} s before"
    elif shown_at < evidence.last_lost(change.status, deed.act, change.at):
        yield f"wrong: we made it {change.status} without a look since a try that may have got through"


def _answer(claims: Claims, claim: Claim, deed: Deed) -> Iterator[str]:
    status, answer, run = deed.change.status, deed.act.answer or "", claim.last_said
    if run is not None and run.has_said(status, answer):
        return
    if claims.deaths(claim) and is_of_a_crash(answer):
        return
    said = [start.said for start in claim.starts]
    yield f"wrong: it is {status} with {answer!r}, its handler has said {said}"


def _stray(claims: Claims, deed: Deed) -> Iterator[str]:
    """Say what is wrong with a change by a process that can't have held the query.

    It may put back what was claimed by another, and then never heard of.
    """
    change = deed.change
    held = next((claim for claim in reversed(claims.all) if claim.place < deed.place), None)
    if change.status != "queued" or held is None:
        yield f"wrong: it was made {change.status} by one who can't have held it"
        return
    late = change.at - held.lost_at
    if late > claims.life(deed.act.life).blind:
        yield f"wrong: it was put back {late:.0f} s after it was no longer ours"
    until = change.at - SILENCE
    if any(held.at <= entry.at <= until for entry in claims.query.entries):
        yield "wrong: it was put back by one who can't have held it, and it was not silent"


# --- Its log --------------------------------------------------------------------------------------


def _late_entries(claims: Claims) -> Iterator[str]:
    for entry in claims.query.entries:
        claim = claims.of_entry(entry)
        if claim is None:
            continue
        lost_at = claim.lost_before(claims.query.history, entry.at)
        life = claims.life(life_of(claims.evidence.authors[entry.id]))
        late = entry.at - lost_at
        if late > max(life.blind, life.blind_at_work(lost_at, entry.at)):
            yield f"wrong: we logged {entry.text!r} {late:.0f} s after it was no longer ours"


def _order(claims: Claims) -> Iterator[str]:
    """Say which lines are out of order: of each run, and of all of them where none came beside another."""
    lines = dict.fromkeys(_lines(claims.query.logs))  # each where it came first
    marks = [(int(run), int(number)) for line in lines for run, number in _MARK.findall(line)]
    if len(claims.all) > 1:
        marks.sort(key=lambda mark: mark[0])  # which leaves the order within each as it is
    if marks != sorted(marks):
        yield f"its log is out of order: {marks}"


def _repeats(claims: Claims) -> Iterator[str]:
    """Say which lines are there too often: one may be repeated only where an answer was lost."""
    evidence = claims.evidence
    found: dict[str, int] = {}
    for entry in claims.query.entries:
        if evidence.authors.get(entry.id) in evidence.lost_entries:
            continue
        for line in dict.fromkeys(_lines([entry.text])):
            found[line] = found.get(line, 0) + 1
    for line, count in found.items():
        if _MARK.fullmatch(line) and count > 1:
            yield f"its log has {line!r} {count} times, and no answer was lost"
    for first, most in (
        ("Claimed by", len(claims.all)),
        ("Done after", len(claims.all) + len(evidence.deaths)),
        ("Failed after", len(claims.all) + len(evidence.deaths)),
    ):
        count = sum(count for line, count in found.items() if line.startswith(first))
        if count > most:
            yield f"its log has {first!r} {count} times, at most {most} were expected"


def _decider(claims: Claims) -> Claim | None:
    """Find the claim by which the query has ended; None: it was ended by others, or by a blind one of us."""
    last = len(claims.query.history) - 1
    if not is_ours(claims.query.history[last]):
        return None
    for claim in claims.all:
        if any(deed.place == last for deed in claim.deeds):
            return claim if claim.lost_at == math.inf else None
    return None


def _log(claims: Claims, claim: Claim, plan: Plan, *, log_first: bool) -> Iterator[str]:
    query, run = claims.query, claim.last_said
    lines = _lines(query.logs)
    for at, line in claims.evidence.durable:
        if is_same_claim(at, claim.at) and line not in lines:
            yield f"its log lacks {line!r}, which was on disk when its process died"
    missing = [text for start in claim.starts for text in _due(claims, start) if text not in lines]
    if missing:
        yield f"its log lacks {missing}"
    if run is not None and not is_of_a_crash(query.answer_text):
        yield from _log_of_decider(lines, plan, run, alone=_is_alone(claims))
    if log_first and _is_alone(claims) and query.entries and query.entries[-1].at > query.history[-1].at:
        yield f"its result came before {query.entries[-1].text!r}"


def _due(claims: Claims, start: Start) -> list[str]:
    """What a run has logged, but for what may have died with its process."""
    died_at = claims.life(start.life).died_at
    return [text for time, text in start.lines if time < died_at - LAZY]


def _log_of_decider(lines: Sequence[str], plan: Plan, run: Start, *, alone: bool) -> Iterator[str]:
    due = [f"<{run.number}.{number}>" for number in range(1, plan.lines + 1)]
    missing = [text for text in due if text not in lines]
    if missing:
        yield f"its log lacks {missing} of the run that decided"
        return
    rest = lines[-1:] if alone else lines[lines.index(due[-1]) :]
    if not any(map(_END.match, rest)):
        yield f"its log does not end with its end: {lines[-1:]}"


def _is_alone(claims: Claims) -> bool:
    """Whether one claim was all that there was, and nobody else has touched the query."""
    return len(claims.all) == 1 and claims.evidence.is_untouched


def _lines(entries: Sequence[str]) -> list[str]:
    """Take entries apart into lines, without their times."""
    return [re.sub(r"^\+\d+\.\ds ", "", part) for entry in entries for part in entry.split(SEPARATOR)]
