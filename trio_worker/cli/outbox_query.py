"""One query that is held, in full, for people."""

from __future__ import annotations

from collections.abc import Iterator

from trio_worker import clock
from trio_worker.cli.age import age_text
from trio_worker.cli.outbox_table import OUTCOMES, counted, moment, state
from trio_worker.holdings import Found
from trio_worker.journal_file import Entry
from trio_worker.query import Done, Outcome

__all__ = ["in_full"]

LONGEST_TEXT = 2000  # characters of the query's text, and of its answer
_NAME_CELLS = 9


def in_full(found: Found) -> str:
    """Show all that is known of a query; long texts are cut."""
    entry = found.entry
    lines = [f"Query {entry.query.id}"]
    lines += [f"  {name.ljust(_NAME_CELLS)} {text}" for name, text in _facts(found)]
    lines += ["", "  text", *_indented(entry.query.query_text)]
    if entry.outcome is not None:
        lines += ["", f"  {OUTCOMES[type(entry.outcome)]}", *_indented(_answer(entry.outcome))]
    return "\n".join(lines)


def _facts(found: Found) -> Iterator[tuple[str, str]]:
    entry = found.entry
    yield "state", f"{state(found)} ({_holder(found)})"
    if entry.dead is not None:
        yield "why", _printable(" ".join(entry.dead.split()))
    yield "attempts", str(entry.attempts)
    if entry.retries:
        yield "put aside", counted(entry.retries, "time")
    yield "deaths", _deaths(entry, is_cut_off=found.is_left and entry.running)
    yield "claimed", _since(entry.claimed_at)
    if entry.ended_at is not None:
        yield "ended", _since(entry.ended_at)
    sent, unsent = counted(entry.entries, "entry", "entries"), counted(len(entry.lines), "line")
    yield "log", f"{sent} sent to WebBuddy, {unsent} unsent"
    yield "journal", str(found.journal)


def _holder(found: Found) -> str:
    if found.owned:
        return "held by a worker that lives"
    return "its worker is dead" if found.is_dead_letter else "its worker is dead: the next takes it up"


def _deaths(entry: Entry, *, is_cut_off: bool) -> str:
    alone = f", {entry.blamed} of them while it was alone at work" if entry.deaths else ""
    last = "; the one that has cut it off is counted by the next worker" if is_cut_off else ""
    return f"{entry.deaths} of its worker{alone}{last}"


def _since(epoch: float) -> str:
    return f"{moment(epoch)} ({age_text(max(0.0, clock.now() - epoch))} ago)"


def _answer(outcome: Outcome) -> str:
    return outcome.answer if isinstance(outcome, Done) else outcome.reason


def _indented(text: str) -> list[str]:
    cut = text[:LONGEST_TEXT]
    lines = [f"    {_printable(line)}".rstrip() for line in cut.splitlines()]
    if len(text) > len(cut):
        lines.append(f"    … and {len(text) - len(cut)} characters more")
    return lines


def _printable(text: str) -> str:
    """Text of others, without what a terminal would obey."""
    return "".join(letter if letter.isprintable() or letter == "\t" else "\ufffd" for letter in text)
