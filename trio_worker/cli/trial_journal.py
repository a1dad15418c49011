"""Whether a start could make its journal in a folder: one is made, and removed again. Blocks."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from trio_worker.errors import JournalError
from trio_worker.journal_file import JournalFile, describe
from trio_worker.journal_rows import fact
from trio_worker.settings import JournalSync
from trio_worker.state_folder import LockedFile, StateFolder

__all__ = ["try_out"]

# What a query, its log and its answer take, and some. As a fact: to whoever would find this journal, it
# holds nothing.
FILLING = "?" * 65_536


def try_out(folder: StateFolder, sync: JournalSync) -> None:
    """Make a journal and write to it, as a start and its first query would. Nothing is left behind.

    A start as another user would find a folder of ours, in which it may not write.

    Args:
        folder: Where.
        sync: As in `JournalFile`.

    Raises:
        JournalError: It can't be created, written to or locked in, or there is no room.
    """
    # `exists` of what lies in a file is False, and `make` says what is wrong with that.
    made = [path for path in (folder.path, *folder.path.parents) if not path.exists()]
    try:
        folder.make()
        lock = folder.new()
        try:
            _write(lock, sync)
        finally:
            _remove(folder, lock)
    finally:
        _remove_folders(made)


def _write(lock: LockedFile, sync: JournalSync) -> None:
    try:
        file = JournalFile(lock.path, sync=sync)
        try:
            file.apply([fact("check", FILLING)])
        finally:
            file.close()
    except sqlite3.Error as error:
        raise JournalError(f"the journal {lock.path} can't be written to: {describe(error)}") from error


def _remove(folder: StateFolder, lock: LockedFile) -> None:
    try:
        lock.remove()
    except OSError as error:
        lock.release()
        raise folder.unusable(error) from error


def _remove_folders(made: list[Path]) -> None:
    for path in made:
        try:
            path.rmdir()
        except OSError:
            break  # it was not made, or a worker has begun to use it
