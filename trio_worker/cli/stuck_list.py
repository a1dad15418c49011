"""The list of the queries that are ``in_progress``, for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import attrs

from trio_worker.cli.age import age_text
from trio_worker.cli.held_here import HeldHere, Holder
from trio_worker.cli.outbox_table import counted
from trio_worker.query import Query

__all__ = ["Found", "hints", "oldest_first", "table"]

LONGEST_TEXT = 50  # characters of a query's text
MOST_NUMBERS = 10  # of queries that are named in a sentence


@attrs.frozen
class Found:
    """A query that is ``in_progress``.

    Attributes:
        query: As WebBuddy shows it.
        age: Seconds for which it has been so, or for which it has existed where WebBuddy does not tell;
            None when neither is known.
        holder: Who of this machine holds it, or has left it; None: nobody.
    """

    query: Query
    age: float | None
    holder: Holder | None

    @classmethod
    def at(cls, query: Query, now: float, held: HeldHere) -> Found:
        """Judge a query.

        Args:
            query: As WebBuddy shows it.
            now: WebBuddy's clock, in epoch seconds.
            held: Those that are held here.
        """
        since = query.query_started or query.query_created
        age = None if since is None else max(0.0, now - since.timestamp())
        return cls(query, age, held.of(query))

    def cells(self) -> tuple[str, ...]:
        """Give its line in the list."""
        query = self.query
        since = query.query_started or query.query_created
        return (
            str(query.id),
            query.project_name or str(query.project or "?"),
            f"{since.astimezone():%Y-%m-%d %H:%M:%S}" if since is not None else "?",
            age_text(self.age) if self.age is not None else "?",
            str(query.logs_count) if query.logs_count is not None else "?",
            self.holder.mark if self.holder is not None else "",
            _first_words(query.query_text),
        )


_HEAD = ("query", "project", "since", "age", "log entries", "", "text")


def table(found: Iterable[Found]) -> list[str]:
    """Align the columns; one in which nothing stands is left out."""
    rows = [_HEAD, *(one.cells() for one in found)]
    columns = [column for column in zip(*rows, strict=True) if any(column)]
    padded = [[cell.ljust(max(map(len, column))) for cell in column] for column in columns]
    return ["  ".join(cells).rstrip() for cells in zip(*padded, strict=True)]


def oldest_first(found: Found) -> tuple[float, int]:
    """Sort by age; what has none comes last."""
    return (-found.age if found.age is not None else 1.0, found.query.id)


def _first_words(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_TEXT else line[: LONGEST_TEXT - 1] + "…"


def hints(found: Iterable[Found]) -> Iterator[str]:
    """Say what is to become of those that dead workers of this machine have left."""
    holders = [one.holder for one in found if one.holder is not None]
    left = [holder for holder in holders if holder.found.is_left]
    own = [holder for holder in left if holder.other is None]
    if own:
        them = "it" if len(own) == 1 else "them"
        yield (
            f"{_left_here(own)}: the next that starts here takes {them} up, as WORKER_ON_CRASH says, and one"
            f" that runs does within 10 s. To let go of {them} instead: trio-worker outbox --drop"
            f" {_numbers(own)}, then this command again"
        )
    for other in {holder.other.path: holder.other for holder in left if holder.other is not None}.values():
        theirs = [holder for holder in left if holder.other == other]
        them = "it" if len(theirs) == 1 else "them"
        yield (
            f"{_left_here(theirs)} of {other.whose}: one that is started with {other.settings} takes {them}"
            f" up. To let go of {them} instead: {other.settings} trio-worker outbox --drop"
            f" {_numbers(theirs)}, then this command again"
        )
    letters = sum(holder.found.is_dead_letter for holder in holders)
    if letters:
        yield f"{counted(letters, 'dead letter is', 'dead letters are')} kept here: see trio-worker outbox"


def _left_here(holders: Sequence[Holder]) -> str:
    return f"{counted(len(holders), 'query was', 'queries were')} left here by a dead worker"


def _numbers(holders: Sequence[Holder]) -> str:
    numbers = [str(holder.found.entry.query.id) for holder in holders]
    return " ".join(numbers) if len(numbers) <= MOST_NUMBERS else "ID…"
