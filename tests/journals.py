"""What the tests of the journal share: entries, a disk that can be held up, and looks at what is on it."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import trio

from trio_worker.errors import JournalIllError
from trio_worker.journal import Journal, open_journal
from trio_worker.journal_file import Contents, Entry, JournalFile
from trio_worker.journal_rows import Statement, fact
from trio_worker.query import Query
from trio_worker.runners import Job, Runner, inline
from trio_worker.state_folder import Address, StateFolder
from trio_worker.takeover import OwnJournal, boot_id

T = TypeVar("T")

ADDRESS = Address("http://localhost:8000", "worker")


def state_folder(root: Path) -> StateFolder:
    """The folder of one address, made."""
    folder = StateFolder(root, ADDRESS)
    folder.make()
    return folder


def make_entry(number: int = 1, **fields: Any) -> Entry:
    """A query that is held."""
    query = Query(id=number, query_text=f"question {number}", status="in_progress")
    return Entry(**{"id": f"entry-{number}", "query": query, "source": "push", "claimed_at": 1e9, **fields})


def open_own(root: Path) -> OwnJournal:
    """This process's journal, with what dead ones have left."""
    return OwnJournal.open(StateFolder(root, ADDRESS), "full")


def numbers(contents: Contents) -> list[int]:
    """Of the queries that are held there."""
    return [entry.query.id for entry in contents.entries]


def leave_behind(
    folder: StateFolder, *entries: Entry, statements: Iterable[Statement] = (), name: str | None = None
) -> Path:
    """A journal whose process is dead."""
    lock = folder.new()
    path = lock.path if name is None else folder.path / name
    file = JournalFile(path)
    file.apply([fact("boot", boot_id()), *statements, *Contents(entries=list(entries)).insertion()])
    file.close()
    lock.release()
    return path


def read(path: str | Path) -> Contents:
    """What a second connection sees."""
    file = JournalFile(Path(path), read_only=True)
    try:
        return file.load()
    finally:
        file.close()


def held_in(path: str | Path) -> list[int]:
    """The numbers of the queries that a second connection sees."""
    return numbers(read(path))


def fact_in(path: str | Path, name: str = "x") -> Any:
    """One fact, as a second connection sees it."""
    return read(path).facts.get(name)


def transactions(path: str | Path) -> int:
    """How many there were: the frames of the write-ahead log that end one."""
    # https://sqlite.org/fileformat2.html#walformat
    log = Path(f"{path}-wal").read_bytes()
    page_size, salts = struct.unpack(">8xI", log[:12])[0], log[16:24]
    frames = [log[at : at + 24] for at in range(32, len(log), 24 + page_size)]
    return sum(frame[8:16] == salts and frame[4:8] != b"\0\0\0\0" for frame in frames)


class Disk:
    """A runner whose work is done at once or, while it is stuck, when the test says so."""

    def __init__(self) -> None:
        self.stuck = False
        self.calls = 0
        self._jobs: deque[Job[Any]] = deque()

    def __call__(self, function: Callable[[], T]) -> Job[T]:
        self.calls += 1
        job = Job(function)
        self._jobs.append(job)
        if not self.stuck:
            self.go_on()
        return job

    def go_on(self) -> None:
        """Do what waits, and no longer hold anything up."""
        self.stuck = False
        while self._jobs:
            self.do_one()

    def do_one(self) -> None:
        """Do the oldest of what waits."""
        job = self._jobs.popleft()
        job.run()
        job.finish()


def losses(journal: Journal) -> list[tuple[float, float]]:
    """What is noted, which is the same on disk."""
    noted = [(lost.since, lost.until) for lost in journal.lost]
    assert sorted(noted) == sorted((lost.since, lost.until) for lost in read(journal.path).lost)
    return noted


@asynccontextmanager
async def opened(root: Path, runner: Runner = inline) -> AsyncIterator[Journal]:
    """This process's journal, on disk."""
    async with open_journal(state_folder(root), runner=runner) as journal:
        yield journal


class Waiters:
    """Those who wait for their receipts: who has got his, and who was told that he does not."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.durable: list[int] = []
        self.failed: dict[int, str] = {}
        self._nursery = nursery

    def keep(self, journal: Journal, *numbers: int) -> None:
        for number in numbers:
            self._nursery.start_soon(self._wait, journal, number)

    async def _wait(self, journal: Journal, number: int) -> None:
        try:
            await journal.keep(make_entry(number)).durable()
        except JournalIllError as error:
            self.failed[number] = str(error)
        else:
            self.durable.append(number)
