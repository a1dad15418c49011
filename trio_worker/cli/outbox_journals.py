"""What the journals of a state folder hold, and what an operator may change in them. All of it blocks.

Others' journals are read without their locks: SQLite lets one read while another writes. Nothing is made
or repaired here; that is a worker's to do.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Literal

import attrs

from trio_worker.errors import JournalError
from trio_worker.journal_file import Contents, Entry, JournalFile, describe
from trio_worker.state_folder import JOURNAL, SET_ASIDE, StateFolder, kept_from_takers

__all__ = ["Change", "Found", "Holdings", "Others", "change_letters", "look_beside", "look_into"]

LOOKS = 5  # at a folder in which workers take journals over while it is read
BUSY_SECONDS = 5.0  # for which a worker's own commit is waited for

Change = Literal["retry", "drop"]

# Each says again what it is for: between a look and a change, a worker may have taken the letter up.
_CHANGES: dict[Change, tuple[str, ...]] = {
    "retry": ("UPDATE held SET dead = NULL WHERE id = ? AND dead IS NOT NULL",),
    "drop": (
        "DELETE FROM held WHERE id = ? AND dead IS NOT NULL",
        "DELETE FROM lines WHERE held = ? AND held NOT IN (SELECT id FROM held)",
    ),
}


@attrs.frozen
class Found:
    """A query that is held.

    Attributes:
        entry: What its journal knows.
        journal: Its journal.
        owned: Whether that journal's process lives.
    """

    entry: Entry
    journal: Path
    owned: bool

    @property
    def is_dead_letter(self) -> bool:
        """Whether it waits for an operator's word."""
        return self.entry.dead is not None


@attrs.define
class Holdings:
    """What is in one address's folder.

    Attributes:
        found: The queries, the oldest claim first.
        problems: A sentence for each journal that can't be read.
        set_aside: Unreadable journals that a worker has put out of its way.
        facts: Of the newest journal: ``url``, ``account`` and so on.
    """

    found: list[Found] = attrs.field(factory=list)
    problems: list[str] = attrs.field(factory=list)
    set_aside: list[Path] = attrs.field(factory=list)
    facts: dict[str, object] = attrs.field(factory=dict)

    @property
    def dead_letters(self) -> list[Found]:
        """Those that wait for an operator's word."""
        return [found for found in self.found if found.is_dead_letter]


@attrs.frozen
class Others:
    """What is held for another address.

    Attributes:
        path: Its folder.
        url: Its WebBuddy; None where no journal says so.
        account: Its account.
        held: How many queries.
        unreadable: How many of its journals can't be read, or were set aside.
    """

    path: Path
    url: object
    account: object
    held: int
    unreadable: int


def look_into(folder: StateFolder) -> Holdings:
    """Read all that is held in a folder; empty when there is none.

    Raises:
        JournalError: It can't be listed.
    """
    try:
        return _look_into(folder.path)
    except OSError as error:
        raise folder.unusable(error) from error


def look_beside(folder: StateFolder) -> list[Others]:
    """Count what is held for other addresses in the same WORKER_STATE_DIR.

    Raises:
        JournalError: It can't be listed.
    """
    try:
        paths = sorted(path for path in folder.root.iterdir() if _is_an_address(path) and path != folder.path)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise folder.unusable(error) from error
    others = []
    for path in paths:
        try:
            there = _look_into(path)
        except OSError:
            continue  # another user's, whose worker has that folder to itself
        unreadable = len(there.problems) + len(there.set_aside)
        if there.found or unreadable:
            url, account = there.facts.get("url"), there.facts.get("account")
            others.append(Others(path, url, account, len(there.found), unreadable))
    return others


def _is_an_address(path: Path) -> bool:
    # WORKER_STATE_DIR may be a folder that has other things in it.
    return re.search(r"-[0-9a-f]{8}$", path.name) is not None and path.is_dir()


def _look_into(path: Path) -> Holdings:
    """Look again when a journal has gone meanwhile: what it held may be in one that had been read."""
    for _ in range(LOOKS):
        # Not Path.glob: to that, a folder that may not be read is an empty one.
        try:
            names = sorted(os.listdir(path))
        except FileNotFoundError:
            return Holdings()
        journals = [path / name for name in names if name.endswith(JOURNAL)]
        holdings = _read_all(journals)
        holdings.set_aside = [path / name for name in names if re.search(rf"{SET_ASIDE}\d+$", name)]
        if all(journal.exists() for journal in journals):
            break
    return holdings


def _read_all(journals: Iterable[Path]) -> Holdings:
    holdings = Holdings()
    found: dict[str, Found] = {}
    for journal in journals:
        try:
            owned, contents = _read(journal)
        except JournalError as error:
            if journal.exists():
                holdings.problems.append(str(error))
            continue
        holdings.facts |= contents.facts
        for entry in contents.entries:
            known = found.get(entry.id)
            # In two journals while it is taken over, or when a taker died half-way: then the first counts,
            # as for the next taker.
            if known is None or (owned and not known.owned):
                found[entry.id] = Found(entry, journal, owned)
    holdings.found = sorted(found.values(), key=lambda found: (found.entry.claimed_at, found.entry.query.id))
    return holdings


def _read(journal: Path) -> tuple[bool, Contents]:
    with kept_from_takers(journal) as free:
        pass  # only to see whether it is: a worker that starts now is not to wait for the reading
    file = JournalFile(journal, read_only=True)
    try:
        return not free, file.load()
    finally:
        file.close()


# --- Changes --------------------------------------------------------------------------------------------


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
    for _ in range(LOOKS):
        letters = [found for found in look_into(folder).dead_letters if found.entry.id in names]
        if not letters:
            return []
        problems: list[str] = []
        for journal in sorted({found.journal for found in letters}):
            try:
                _change(journal, change, names, patience)
            except (sqlite3.Error, OSError) as error:
                if journal.exists():
                    problems.append(_why_not(journal, error))
        if problems:
            return problems
    return ["workers hand a letter on faster than it can be changed: try again"]


def _change(journal: Path, change: Change, names: Collection[str], patience: float) -> None:
    # Where its process is dead, nobody must read it between our look and our commit: that taker would
    # write the letter down in its own journal as it was.
    with kept_from_takers(journal):
        # "rw": a journal that has been taken over since must not be created anew.
        uri = f"{journal.absolute().as_uri()}?mode=rw"
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=patience)
        try:
            with connection:  # commits, or rolls back
                connection.execute("BEGIN IMMEDIATE")
                for sql in _CHANGES[change]:
                    connection.executemany(sql, [(name,) for name in names])
        finally:
            connection.close()


def _why_not(journal: Path, error: sqlite3.Error | OSError) -> str:
    reason = describe(error) if isinstance(error, sqlite3.Error) else error.strerror
    return f"the journal {journal} can't be written to: {reason}"
