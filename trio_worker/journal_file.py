"""The journal on disk: what one process holds, in SQLite. Everything here blocks.

One file a process, so that nobody waits for another's commit. In WAL mode a commit is one write and
one fsync, and others may read meanwhile.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path

import attrs

from trio_worker.errors import JournalError
from trio_worker.journal_rows import SCHEMA, Contents, Entry, HeldLine, LostClaim, Statement, Tombstone
from trio_worker.journal_usage import USAGE_SCHEMA, StoredUsage
from trio_worker.settings import JournalSync

__all__ = [
    "VERSION",
    "Contents",
    "CorruptJournalError",
    "Entry",
    "HeldLine",
    "JournalFile",
    "LostClaim",
    "NewerJournalError",
    "Statement",
    "StoredUsage",
    "Tombstone",
    "describe",
]

VERSION = 1

PATIENCE = 5.0  # seconds for which an operator's look, or change, is waited for


class CorruptJournalError(JournalError):
    """What is in the file is no journal, or no longer one."""


class NewerJournalError(JournalError):
    """A newer trio-worker has written it."""


class JournalFile:
    """An open journal. To be used by one thread at a time.

    Args:
        path: The file, created where it is missing; None: in memory, for tests.
        sync: ``full``: a commit is safe from a power cut; ``normal``: only from the death of the process.
        read_only: Whether it is another process's, and only looked at.
        patience: Seconds for which another's lock on it is waited for.

    Raises:
        CorruptJournalError: It is not a journal, or a damaged one.
        NewerJournalError: A newer version has written it.
        JournalError: It can't be opened, created or written to.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        sync: JournalSync = "full",
        read_only: bool = False,
        patience: float = PATIENCE,
    ) -> None:
        self.path = path
        self._is_begun = True  # False: its process, which we look at, has made the file, and no more yet
        try:
            self._connection = _connect(path, read_only=read_only, patience=patience)
            try:
                self._prepare(sync, read_only=read_only)
            except BaseException:
                self._connection.close()
                raise
            self._is_file = _identity(path)
        except sqlite3.Error as error:
            kind = CorruptJournalError if _is_corrupt(error) else JournalError
            raise kind(f"the journal {path} can't be used: {describe(error)}") from error

    def load(self) -> Contents:
        """Read everything.

        Raises:
            CorruptJournalError: It is damaged.
            JournalError: The disk does not give it at the moment.
        """
        try:
            return self._contents()
        except sqlite3.Error as error:
            # Busy, or a disk that gives an error today: it may well be read tomorrow.
            kind = CorruptJournalError if _is_corrupt(error) or _is_foreign(error) else JournalError
            raise kind(f"the journal {self.path} can't be read: {describe(error)}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptJournalError(f"the journal {self.path} can't be read: {error}") from error

    def apply(self, statements: Iterable[Statement]) -> None:
        """Carry out statements as one transaction, durable when this returns.

        Raises:
            sqlite3.Error: Nothing of it was done.
        """
        if self.path is not None and _identity(self.path) != self._is_file:
            # SQLite writes on into a file without a name: of what is in it, nobody would ever hear.
            raise sqlite3.OperationalError("the file is gone: start the worker anew")
        with self._connection:  # commits, or rolls back
            self._connection.execute("BEGIN IMMEDIATE")
            for sql, values in statements:
                self._connection.execute(sql, values)

    def held_ids(self) -> set[int]:
        """Read the numbers of the queries in it, but for dead letters: those are nobody's claim any more."""
        if not self._is_begun:
            return set()
        rows = self._connection.execute("SELECT query_id FROM held WHERE dead IS NULL")
        return {int(number) for (number,) in rows}

    def dead_letters(self) -> dict[str, bool]:
        """Read of each entry, by its name, whether it is a dead letter."""
        return {name: bool(dead) for name, dead in self._connection.execute(_WHICH_ARE_DEAD)}

    def tombstones(self, query_id: int, created: str) -> list[Tombstone]:
        """Read what is remembered of a query."""
        if not self._is_begun:
            return []
        names = ", ".join(field.name for field in attrs.fields(Tombstone))
        sql = f"SELECT {names} FROM tombstones WHERE query_id = ? AND created = ?"  # noqa: S608 - our names
        rows = self._connection.execute(sql, (str(query_id), created)).fetchall()
        return [Tombstone.from_row(dict(zip(names.split(", "), row, strict=True))) for row in rows]

    def is_empty(self) -> bool:
        """Whether the next process has to know of nothing in it.

        Raises:
            sqlite3.Error: It can't be read.
        """
        (something,) = self._connection.execute(_IS_SOMETHING_THERE).fetchone()
        return not something

    def close(self) -> None:
        """Close the file. Again, it does nothing."""
        self._connection.close()

    def _prepare(self, sync: JournalSync, *, read_only: bool) -> None:
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise NewerJournalError(
                f"the journal {self.path} was written by a newer trio-worker (format {version}, known here:"
                f" {VERSION}): start that version, or move the file away"
            )
        if read_only:
            self._is_begun = version > 0
            return
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute(f"PRAGMA synchronous = {sync.upper()}")
        self._connection.execute("PRAGMA journal_size_limit = 16777216")
        self._connection.execute("PRAGMA mmap_size = 0")
        self._check()
        if version == 0:
            self._connection.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
        else:
            self._connection.execute(USAGE_SCHEMA)

    def _check(self) -> None:
        (verdict,) = self._connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise CorruptJournalError(f"the journal {self.path} is damaged: {' '.join(verdict.split())}")

    def _contents(self) -> Contents:
        if not self._is_begun:
            return Contents()
        with self._connection:  # one transaction: its process may write meanwhile
            self._connection.execute("BEGIN")
            return self._all_rows()

    def _all_rows(self) -> Contents:
        select = self._connection.execute
        lines: dict[str, list[HeldLine]] = {}
        for held, *line in select("SELECT held, number, time, text FROM lines ORDER BY held, number"):
            lines.setdefault(held, []).append(HeldLine.from_row(*line))
        self._connection.row_factory = sqlite3.Row
        try:
            rows = select("SELECT * FROM held ORDER BY claimed_at, rowid").fetchall()
            tombstones = select("SELECT * FROM tombstones").fetchall()
            lost = select("SELECT * FROM lost ORDER BY since, id").fetchall()
            usages = select("SELECT * FROM usage ORDER BY rowid").fetchall() if self._knows_usage() else []
        finally:
            self._connection.row_factory = None
        return Contents(
            facts=dict(select("SELECT name, value FROM facts").fetchall()),
            entries=[Entry.from_row(row, lines.get(row["id"], [])) for row in rows],
            tombstones=[Tombstone.from_row(dict(row)) for row in tombstones],
            lost=[LostClaim(**dict(row)) for row in lost],
            usages=[StoredUsage.from_row(dict(row)) for row in usages],
        )

    def _knows_usage(self) -> bool:
        """Whether there is such a table: not where an earlier version has the file, and we only look."""
        return self._connection.execute(_HAS_USAGE).fetchone() is not None


_WHICH_ARE_DEAD = "SELECT id, dead IS NOT NULL FROM held"

_IS_SOMETHING_THERE = """
SELECT EXISTS (SELECT 1 FROM held) OR EXISTS (SELECT 1 FROM tombstones) OR EXISTS (SELECT 1 FROM lost)
    OR EXISTS (SELECT 1 FROM usage) OR EXISTS (SELECT 1 FROM facts WHERE name = 'claiming_since')
"""

_HAS_USAGE = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'usage'"


def _identity(path: Path | None) -> tuple[int, int] | None:
    """Which file that is; None: there is none."""
    try:
        found = None if path is None else path.stat()
    except OSError:
        found = None
    return None if found is None else (found.st_dev, found.st_ino)


def describe(error: sqlite3.Error) -> str:
    """Say in plain words what SQLite, and the disk behind it, complains of."""
    code = getattr(error, "sqlite_errorname", "") or ""
    for start, words in _WORDS.items():
        if code.startswith(start):
            return f"{words} ({error})"
    return str(error)


_WORDS = {
    "SQLITE_FULL": "the disk is full",
    "SQLITE_READONLY": "it is read-only",
    "SQLITE_CANTOPEN": "it can't be opened or created",
    "SQLITE_IOERR": "the disk gives an error",
    "SQLITE_NOTADB": "it is not a journal",
    "SQLITE_CORRUPT": "it is damaged",
}


def _is_corrupt(error: sqlite3.Error) -> bool:
    return (getattr(error, "sqlite_errorname", "") or "").startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT"))


def _is_foreign(error: sqlite3.Error) -> bool:
    """Whether it lacks a table or a column, or has a text that is none (an error without a name)."""
    return getattr(error, "sqlite_errorname", "") in ("SQLITE_ERROR", "")


def _connect(path: Path | None, *, read_only: bool, patience: float) -> sqlite3.Connection:
    mode = "ro" if read_only else "rwc"
    name = ":memory:" if path is None else f"{path.absolute().as_uri()}?mode={mode}"
    # autocommit, so that no transaction begins unseen; the writer's thread is not the one that opens it.
    return sqlite3.connect(name, uri=True, isolation_level=None, check_same_thread=False, timeout=patience)
