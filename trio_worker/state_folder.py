"""The folder on disk in which workers keep what they hold, and who of them is alive.

::

    WORKER_STATE_DIR/
    └── localhost-8000-worker-1f2e3d4c/    one WebBuddy, one account
        ├── 0000019ab3c1d2e4-9f0c.journal  of one process
        ├── 0000019ab3c1d2e4-9f0c.lock     locked by that process as long as it lives
        ├── process-0.slot, process-0.sock where living processes ask each other: `trio_worker.neighbours`
    └── queue.slot                     locked by the one that counts the queue: `trio_worker.queue_length`

A lock that is free means that its process is dead, and whoever gets it may take what is in the journal. No
process ids and no host names: in containers every worker is process 1, and the next one has another name.
The kernel gives a lock back when its process ends, however it ends.

Everything here blocks.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import attrs

from trio_worker import clock
from trio_worker.errors import JournalError

__all__ = ["DRAIN", "JOURNAL", "SET_ASIDE", "Address", "LockedFile", "StateFolder", "kept_from_takers"]

JOURNAL, LOCK = ".journal", ".lock"
DRAIN = ".drain"  # an order to the process of that name: see `trio_worker.orders`
SET_ASIDE = ".unreadable-"  # after the journal's name, and followed by when that was, in epoch seconds
_SQLITES_OWN = ("-wal", "-shm", "-journal")


@attrs.frozen
class Address:
    """Whose queries they are: journals of another address are left alone.

    Attributes:
        webbuddy_url: The base URL, without a trailing slash.
        account: The worker's account.
    """

    webbuddy_url: str
    account: str

    @property
    def folder_name(self) -> str:
        """A name that people recognize and that no other address has."""
        text = f"{self.webbuddy_url}\n{self.account}"
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        host = re.sub(r"^[a-z]+://", "", self.webbuddy_url)
        readable = re.sub(r"[^A-Za-z0-9.]+", "-", f"{host}-{self.account}").strip("-.")[:60]
        return f"{readable}-{digest}"


@attrs.define(eq=False)
class LockedFile:
    """A journal that is ours, since we hold its lock.

    Attributes:
        path: The journal.
    """

    path: Path
    _descriptor: int

    def release(self) -> None:
        """Give the lock back: whoever comes next may take what is there. Again, it does nothing."""
        if self._descriptor >= 0:
            _close_in_children.discard(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def remove(self) -> None:
        """Delete the journal, and give the lock back."""
        order = self.path.with_suffix(DRAIN)
        files = (self.path, *(_beside(self.path, end) for end in _SQLITES_OWN), order, _lock_of(self.path))
        for path in files:
            path.unlink(missing_ok=True)
        self.release()

    def set_aside(self) -> Path:
        """Rename a journal that can't be read, so that nobody tries it again, and give the lock back.

        Returns:
            Its new path.
        """
        new = _beside(self.path, f"{SET_ASIDE}{int(clock.now())}")
        for end in ("", *_SQLITES_OWN):
            old = _beside(self.path, end)
            if old.exists():
                old.rename(_beside(new, end))
        _lock_of(self.path).unlink(missing_ok=True)
        self.release()
        return new


@attrs.frozen
class StateFolder:
    """The folder of one address.

    Args:
        root: ``WORKER_STATE_DIR``.
        address: Whose queries they are.
    """

    root: Path
    address: Address

    @property
    def path(self) -> Path:
        """Where its journals are."""
        return self.root / self.address.folder_name

    def make(self) -> None:
        """Create what is missing, readable by its owner only: queries and answers lie in it.

        Raises:
            JournalError: It can't be created or written to.
        """
        try:
            # A root that is there keeps its mode: a mounted volume belongs to whoever has mounted it.
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path.mkdir(mode=0o700, exist_ok=True)
            self.path.chmod(0o700)
        except OSError as error:
            raise self.unusable(error) from error

    def new(self) -> LockedFile:
        """Make a name for a journal, and lock it. The journal itself is the caller's to create.

        Raises:
            JournalError: The folder can't be written to.
        """
        while True:
            # By time, so that they are taken over in the order in which they began.
            name = f"{int(clock.now() * 1000):016x}-{secrets.token_hex(2)}"
            try:
                file = _lock(self.path / (name + JOURNAL))
            except OSError as error:
                raise self.unusable(error) from error
            if file is not None:
                return file

    def take_free(self) -> Iterator[LockedFile]:
        """Lock, one by one, the journals of processes that are dead, the oldest first.

        Each must be released or removed by the caller.

        Raises:
            JournalError: The folder can't be read or written to.
        """
        try:
            for path in sorted(self.path.glob(f"*{JOURNAL}")):
                file = _lock(path)
                if file is not None and path.exists():
                    yield file
                elif file is not None:  # its process has removed it in this moment
                    file.remove()
            self._clean_up()
        except OSError as error:
            raise self.unusable(error) from error

    def take_slot(self) -> tuple[int, LockedFile]:
        """Take the lowest number that no living process of the folder has, for as long as this one lives.

        Returns:
            The number, and its lock, to be released.

        Raises:
            JournalError: The folder can't be written to.
        """
        for number in count():
            lock = self.take_part(f"process-{number}")
            if lock is not None:
                return number, lock
        raise AssertionError  # there is no last number

    def take_part(self, name: str) -> LockedFile | None:
        """Take upon us what one process of the folder does for all, for as long as this one lives.

        Args:
            name: Of that; a file's name.

        Returns:
            Its lock, to be released; None while another process has it.

        Raises:
            JournalError: The folder can't be written to.
        """
        path = self.path / f"{name}.slot"
        try:
            descriptor = _hold(path)
        except OSError as error:
            raise self.unusable(error) from error
        return None if descriptor is None else LockedFile(path, descriptor)

    def journals(self) -> list[Path]:
        """List all journals, whoever has them."""
        return sorted(self.path.glob(f"*{JOURNAL}"))

    def unusable(self, error: OSError) -> JournalError:
        """Say what is wrong with it, and what is expected."""
        obstacle = next((path for path in (self.path, *self.path.parents) if path.is_file()), None)
        reason = f"{error.strerror or error} ({error.filename or self.path})"
        if obstacle is not None:
            reason = "it is a file" if obstacle == self.root else f"{obstacle} is a file"
        return JournalError(
            f"WORKER_STATE_DIR is {str(self.root)!r}: {reason}: expected a folder on a local disk that this"
            " user may write to"
        )

    def _clean_up(self) -> None:
        """Remove what lies there without a journal: of processes that died early, and of readers."""
        paths = {path.with_suffix(JOURNAL) for end in (LOCK, DRAIN) for path in self.path.glob(f"*{end}")}
        for end in _SQLITES_OWN:
            paths |= {
                path.with_name(path.name.removesuffix(end)) for path in self.path.glob(f"*{JOURNAL}{end}")
            }
        for path in sorted(paths):
            if not path.exists() and (file := _lock(path)) is not None:
                file.remove() if not path.exists() else file.release()


def _beside(path: Path, end: str) -> Path:
    return path.with_name(path.name + end)


def _lock_of(path: Path) -> Path:
    return path.with_suffix(LOCK)


def _lock(path: Path) -> LockedFile | None:
    """Lock a journal's lock file; None when another process has it."""
    descriptor = _hold(_lock_of(path))
    return None if descriptor is None else LockedFile(path, descriptor)


def _hold(lock: Path) -> int | None:
    # Closed in a program that a handler starts: it would keep the lock when we are dead.
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Its last owner may have removed it between our two calls: a lock that nobody else can see.
        is_there = os.path.samestat(os.fstat(descriptor), os.stat(lock))
    except (BlockingIOError, FileNotFoundError):
        is_there = False
    except BaseException:
        os.close(descriptor)
        raise
    if not is_there:
        os.close(descriptor)
        return None
    _close_in_children.add(descriptor)
    return descriptor


@contextmanager
def kept_from_takers(journal: Path) -> Iterator[bool]:
    """Keep a journal whose process is dead from being taken over in the body.

    For a moment only: a worker that starts in the meantime takes that journal for a neighbour's, and
    looks again ten seconds later.

    Yields:
        Whether that is so; False: its process lives, or somebody takes it over just now.
    """
    try:
        descriptor = os.open(_lock_of(journal), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # a journal that was copied here by hand
        yield True
        return
    except OSError:  # another user's
        yield False
        return
    try:
        yield _share(descriptor)
    finally:
        os.close(descriptor)


def _share(descriptor: int) -> bool:
    try:
        # Shared, so that two commands do not take each other for a worker.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


_close_in_children: set[int] = set()


def _forget_locks() -> None:
    """Close the locks in a forked child (multiprocessing): it would keep them when we are dead.

    To close a copy does not unlock it.
    """
    for descriptor in _close_in_children:
        os.close(descriptor)
    _close_in_children.clear()


os.register_at_fork(after_in_child=_forget_locks)
