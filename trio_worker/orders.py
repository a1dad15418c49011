"""What an operator orders the workers of a state folder to do, while they run. Everything here blocks.

::

    localhost-8000-worker-1f2e3d4c/
    ├── paused                         all workers of the folder, also those that start later
    ├── 0000019ab3c1d2e4-9f0c.journal
    └── 0000019ab3c1d2e4-9f0c.drain    the process of that journal

Files, and neither signals nor requests: they reach each process on the folder, also hypercorn's children,
and those in other containers, whose process ids and ports nobody knows here. Who may give orders is who may
write into the folder: the worker's user.
"""

from __future__ import annotations

from pathlib import Path

import attrs

from trio_worker.state_folder import DRAIN, StateFolder, kept_from_takers

__all__ = ["Orders", "draining", "living", "order_drain", "pause", "read_orders", "resume"]

PAUSED = "paused"


@attrs.frozen
class Orders:
    """What is ordered.

    Attributes:
        paused: To take nothing new.
        drain: To take nothing new, and to end.
    """

    paused: bool = False
    drain: bool = False


def read_orders(folder: StateFolder, journal: Path) -> Orders:
    """Read what the process of a journal is to do.

    Raises:
        JournalError: The folder can't be read.
    """
    try:
        names = {path.name for path in (folder.path / PAUSED, _order_for(journal)) if _is_there(path)}
    except OSError as error:
        raise folder.unusable(error) from error
    return Orders(PAUSED in names, _order_for(journal).name in names)


def pause(folder: StateFolder) -> bool:
    """Order all workers of the folder to take nothing new.

    Returns:
        Whether that is news.

    Raises:
        JournalError: The folder can't be written to.
    """
    folder.make()
    return _write(folder, folder.path / PAUSED)


def resume(folder: StateFolder) -> bool:
    """Take that back.

    Returns:
        Whether that is news.

    Raises:
        JournalError: The folder can't be written to.
    """
    try:
        (folder.path / PAUSED).unlink()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise folder.unusable(error) from error
    return True


def order_drain(folder: StateFolder) -> list[Path]:
    """Order each process that lives to drain.

    Returns:
        Their journals.

    Raises:
        JournalError: The folder can't be written to.
    """
    journals = living(folder)
    for journal in journals:
        _write(folder, _order_for(journal))
    return journals


def living(folder: StateFolder) -> list[Path]:
    """List the journals whose processes live."""
    return [journal for journal in folder.journals() if _lives(journal)]


def draining(folder: StateFolder) -> list[Path]:
    """List those of them that are ordered to drain."""
    return [journal for journal in living(folder) if _order_for(journal).exists()]


def _lives(journal: Path) -> bool:
    with kept_from_takers(journal) as is_dead:
        return not is_dead and journal.exists()


def _order_for(journal: Path) -> Path:
    return journal.with_suffix(DRAIN)


def _is_there(path: Path) -> bool:
    try:
        path.lstat()  # `exists` takes some errors for no
    except FileNotFoundError:
        return False
    return True


def _write(folder: StateFolder, path: Path) -> bool:
    try:
        path.touch(mode=0o600, exist_ok=False)
    except FileExistsError:
        return False
    except OSError as error:
        raise folder.unusable(error) from error
    return True
