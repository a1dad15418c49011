"""What an operator may change in the journals of a state folder. All of it blocks."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Literal

from trio_worker.holdings import LOOKS, Found, look_into
from trio_worker.journal_file import describe
from trio_worker.state_folder import StateFolder, kept_from_takers

__all__ = ["Change", "change_letters", "let_go"]

BUSY_SECONDS = 5.0  # for which a worker's own commit is waited for

Change = Literal["retry", "drop"]

_LINES_OF_THE_DROPPED = "DELETE FROM lines WHERE held = ? AND held NOT IN (SELECT id FROM held)"

# Each says again what it is for: between a look and a change, a worker may have taken the letter up.
_CHANGES: dict[Change, tuple[str, ...]] = {
    "retry": ("UPDATE held SET dead = NULL WHERE id = ? AND dead IS NOT NULL",),
    "drop": ("DELETE FROM held WHERE id = ? AND dead IS NOT NULL", _LINES_OF_THE_DROPPED),
}
_LET_GO = ("DELETE FROM held WHERE id = ? AND dead IS NULL", _LINES_OF_THE_DROPPED)


def change_letters(
    folder: StateFolder, change: Change, names: Collection[str], *, patience: float = BUSY_SECONDS
) -> list[str]:
    """Have dead letters tried again, or drop them. What is no dead letter (any more) is left alone.

    A worker that lives and has it reads its own journal every ten seconds; any other journal is read
    by the next worker that starts.

    Args:
        folder: Where they are.
        change: What becomes of them.
        names: The names of their entries.
        patience: Seconds for which a worker's own commit is waited for.

    Returns:
        Why, for each journal that could not be written to; empty when all is done.

    Raises:
        JournalError: The folder can't be listed.
    """

    def change_one(journal: Path) -> None:
        # Where its process is dead, nobody must read it between our look and our commit: that taker would
        # write the letter down in its own journal as it was.
        with kept_from_takers(journal):
            _write(journal, _CHANGES[change], names, patience)

    return _in_each_journal(folder, names, lambda found: found.is_dead_letter, change_one)


def let_go(folder: StateFolder, names: Collection[str], *, patience: float = BUSY_SECONDS) -> list[str]:
    """Drop what dead workers have left, but for dead letters; not what a worker has taken up meanwhile.

    Args:
        folder: Where they are.
        names: The names of their entries.
        patience: As in `change_letters`.

    Returns:
        As `change_letters`, and a sentence for each that a worker has taken up.

    Raises:
        JournalError: The folder can't be listed.
    """

    def drop_one(journal: Path) -> None:
        with kept_from_takers(journal) as free:
            if free:
                _write(journal, _LET_GO, names, patience)

    problems = _in_each_journal(folder, names, lambda found: found.is_left, drop_one)
    taken = [found for found in look_into(folder).found if found.owned and found.entry.id in names]
    return problems + [f"query {found.entry.query.id}: a worker has taken it up meanwhile" for found in taken]


def _in_each_journal(
    folder: StateFolder,
    names: Collection[str],
    is_meant: Callable[[Found], bool],
    change: Callable[[Path], None],
) -> list[str]:
    """Change all journals in which they are, until none is left that is meant."""
    for _ in range(LOOKS):
        meant = [found for found in look_into(folder).found if found.entry.id in names and is_meant(found)]
        if not meant:
            return []
        problems: list[str] = []
        for journal in sorted({found.journal for found in meant}):
            try:
                change(journal)
            except (sqlite3.Error, OSError) as error:
                if journal.exists():
                    problems.append(_why_not(journal, error))
        if problems:
            return problems
    return ["workers hand it on faster than it can be changed: try again"]


def _write(journal: Path, changes: Collection[str], names: Collection[str], patience: float) -> None:
    # "rw": a journal that has been taken over since must not be created anew.
    uri = f"{journal.absolute().as_uri()}?mode=rw"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=patience)
    try:
        with connection:  # commits, or rolls back
            connection.execute("BEGIN IMMEDIATE")
            for sql in changes:
                connection.executemany(sql, [(name,) for name in names])
    finally:
        connection.close()


def _why_not(journal: Path, error: sqlite3.Error | OSError) -> str:
    reason = describe(error) if isinstance(error, sqlite3.Error) else error.strerror
    return f"the journal {journal} can't be written to: {reason}"
