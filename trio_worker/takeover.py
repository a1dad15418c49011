"""Taking over what dead processes have left on disk. Everything here blocks.

A journal whose lock is free is read, judged (how did its process die, and who was at work?), copied into our
own file in one transaction, and then deleted. To die half-way is harmless: each entry has a name of its
own, and is not copied twice.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import attrs
import structlog

from trio_worker import clock
from trio_worker.errors import JournalError
from trio_worker.journal_file import Contents, CorruptJournalError, Entry, JournalFile, LostClaim, describe
from trio_worker.journal_rows import Statement, Tombstone, fact
from trio_worker.journal_usage import StoredUsage
from trio_worker.orders import Orders, read_orders
from trio_worker.settings import JournalSync
from trio_worker.state_folder import LockedFile, StateFolder

__all__ = ["OwnJournal", "boot_id", "fact", "settle"]

T = TypeVar("T")

log = structlog.get_logger(__name__)


def boot_id() -> str | None:
    """Name the machine's present run, from its boot on; None where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None


def settle(contents: Contents, *, boot: str | None) -> None:
    """Judge the end of the process that has left this, and who was to blame.

    A death counts for each query whose handler was at work; only one that was alone is blamed, and not while
    a handler that had been given up ran on. A stop
    that was asked for, however rudely it ended, and a reboot count for nobody.

    Args:
        contents: What it left; changed in place.
        boot: Of this run of the machine.
    """
    orderly = bool(contents.facts.get("stopping"))
    others = bool(contents.facts.get("left_behind"))
    rebooted = contents.facts.get("boot") != boot
    running = [entry for entry in contents.entries if entry.running]
    for entry in running:
        entry.running = False
        if not orderly and not rebooted:
            entry.deaths += 1
            entry.blamed += len(running) == 1 and not others
    since, until = contents.facts.get("claiming_since"), contents.facts.get("claiming_until")
    if isinstance(since, float) and isinstance(until, float):
        # Named after its time: a journal whose taker died half-way is judged again.
        name = f"claiming {since!r} {until!r}"
        contents.lost.append(LostClaim(id=name, since=since, until=until, noted_at=clock.now()))
    contents.facts = {}


@attrs.define(eq=False)
class OwnJournal:
    """This process's journal file, its lock, and the folder in which others leave theirs.

    Attributes:
        folder: The folder; None: everything is in memory.
        sync: As in `JournalFile`.
        file: The open journal.
        found: What was in it, and in those that were taken over, when it was opened.
    """

    folder: StateFolder | None
    sync: JournalSync
    file: JournalFile
    lock: LockedFile | None
    found: Contents
    _told: set[Path] = attrs.field(factory=set)

    @classmethod
    def open(cls, folder: StateFolder | None, sync: JournalSync) -> OwnJournal:
        """Begin a journal, and take over those of dead processes.

        Raises:
            JournalError: The folder or a journal in it can't be used. A damaged one was set aside.
        """
        if folder is None:
            return cls(None, sync, JournalFile(None), None, Contents())
        folder.make()
        lock = folder.new()
        try:
            file = JournalFile(lock.path, sync=sync)
        except BaseException:
            _try_to_remove(lock)
            raise
        own = cls(folder, sync, file, lock, Contents())
        try:
            own.file.apply(own._first_facts())
            own.found = own._take_over_all(folder, at_start=True)
        except sqlite3.Error as error:
            own.close()
            raise JournalError(f"the journal {lock.path} can't be used: {describe(error)}") from error
        except BaseException:
            own.close()
            raise
        return own

    def take_over(self) -> Contents:
        """Take over the journals of processes that have died since.

        Raises:
            JournalError: The folder can't be used.
            sqlite3.Error: Our own journal can't be written to.
        """
        return Contents() if self.folder is None else self._take_over_all(self.folder, at_start=False)

    def orders(self) -> Orders:
        """Read what an operator wants this process to do.

        Raises:
            JournalError: The folder can't be read.
        """
        if self.folder is None or self.file.path is None:
            return Orders()
        return read_orders(self.folder, self.file.path)

    def held_by_others(self) -> set[int]:
        """Read the numbers of the queries in all other journals of the folder.

        Raises:
            JournalError: One of them can't be read.
        """
        while True:
            paths = [path for path in self.folder.journals() if path != self.file.path] if self.folder else []
            none = set[int]()
            numbers = none.union(*(_read_beside(path, JournalFile.held_ids, none) for path in paths))
            if all(path.exists() for path in paths):
                return numbers
            # One was taken over meanwhile: what was in it may be in one that had been read.

    def note_stopping(self, *, seconds: float) -> None:
        """Note that the process was asked to stop, whatever its other threads do; give up after a while."""
        if self.file.path is None:
            return
        uri = f"{self.file.path.absolute().as_uri()}?mode=rw"  # not to be created anew
        try:
            with closing(sqlite3.connect(uri, uri=True, timeout=seconds, isolation_level=None)) as connection:
                connection.execute(*fact("stopping", 1))
        except sqlite3.Error as error:
            log.warning("that the worker was asked to stop can't be noted", reason=describe(error))

    def tombstones_of_others(self, query_id: int, created: str) -> list[Tombstone]:
        """Read what all other journals of the folder remember of a query.

        Raises:
            JournalError: One of them can't be read.
        """
        stones: list[Tombstone] = []
        none: list[Tombstone] = []
        for path in self.folder.journals() if self.folder else ():
            if path != self.file.path:
                stones += _read_beside(path, lambda file: file.tombstones(query_id, created), none)
        return stones

    def close(self) -> None:
        """Close the file, and give its lock back. If nothing is in the file, it is deleted.

        The file itself is asked: what was taken over by a call that nobody waited for is nowhere else.
        """
        try:
            keep = not self.file.is_empty()
        except sqlite3.Error:
            keep = True
        self.file.close()
        if self.lock is not None:
            self.lock.release() if keep else _try_to_remove(self.lock)

    def _first_facts(self) -> list[Statement]:
        assert self.folder is not None  # noqa: S101 - in memory nothing is left to anybody
        address = self.folder.address
        return [fact("url", address.webbuddy_url), fact("account", address.account), fact("boot", boot_id())]

    def _take_over_all(self, folder: StateFolder, *, at_start: bool) -> Contents:
        entries: dict[str, Entry] = {}
        lost: dict[str, LostClaim] = {}
        usages: dict[str, StoredUsage] = {}
        tombstones: list[Tombstone] = []
        for lock in folder.take_free():
            found = self._take_over_one(lock, at_start=at_start)
            if found is not None:
                # In two journals when a taker died half-way. As on disk, the first to be read counts.
                entries |= {entry.id: entry for entry in found.entries if entry.id not in entries}
                lost |= {claim.id: claim for claim in found.lost if claim.id not in lost}
                usages |= {usage.id: usage for usage in found.usages}
                tombstones += found.tombstones
        return Contents(
            entries=list(entries.values()),
            tombstones=tombstones,
            lost=list(lost.values()),
            usages=list(usages.values()),
        )

    def _take_over_one(self, lock: LockedFile, *, at_start: bool) -> Contents | None:
        try:
            contents = self._read(lock)
            lock.remove()
            return contents
        except CorruptJournalError as error:
            problem = _set_aside(lock, error)
        except OSError as error:
            problem = JournalError(f"the journal {lock.path} can't be taken over: {error}")
        except JournalError as error:
            problem = error
        finally:
            lock.release()
        if at_start:
            raise problem
        if lock.path not in self._told:
            self._told.add(lock.path)
            log.error("a dead worker's journal is not taken over", reason=str(problem))
        return None

    def _read(self, lock: LockedFile) -> Contents:
        """Read a journal, judge what is in it, and make it ours."""
        theirs = JournalFile(lock.path, sync=self.sync)
        try:
            contents = theirs.load()
        finally:
            theirs.close()
        settle(contents, boot=boot_id())
        self.file.apply(contents.insertion())
        return contents


def _read_beside(path: Path, read: Callable[[JournalFile], T], nothing: T) -> T:
    try:
        file = JournalFile(path, read_only=True)
        try:
            return read(file)
        finally:
            file.close()
    except (sqlite3.Error, JournalError) as error:
        if not path.exists():
            return nothing  # its process has ended meanwhile
        raise JournalError(f"the journal {path} can't be read: {error}") from error


def _set_aside(lock: LockedFile, error: CorruptJournalError) -> JournalError:
    try:
        aside = lock.set_aside()
    except OSError as obstacle:
        return JournalError(f"{error}. It can't be set aside either: {obstacle}")
    return JournalError(
        f"{error}. It was set aside as {aside}; nothing was deleted. Start again to go on without it: queries"
        " that only it knew of stay in_progress until somebody puts them back (trio-worker stuck)"
    )


def _try_to_remove(lock: LockedFile) -> None:
    """Remove a journal in which nothing is; one that can't be removed harms nobody."""
    try:
        lock.remove()
    except OSError as error:
        log.warning("an empty journal can't be removed", journal=str(lock.path), reason=str(error))
        lock.release()
