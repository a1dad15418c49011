"""A disk that hangs, or refuses to write the journal."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from structlog.typing import EventDict
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.journals import Disk, Waiters, held_in, make_entry, opened, state_folder
from tests.neighbour import start_neighbour
from trio_worker.errors import JournalIllError


@pytest.fixture
def waiters(nursery: trio.Nursery) -> Waiters:
    return Waiters(nursery)


async def test_a_disk_that_hangs_is_called_ill_after_five_seconds(
    autojump_clock: MockClock, waiters: Waiters, tmp_path: Path, events: list[EventDict]
) -> None:
    """Who waits is told, and so is whoever comes; nothing new is claimed. It is said once."""
    disk = Disk()
    async with opened(tmp_path, disk) as journal:
        disk.stuck = True
        waiters.keep(journal, 1)
        await trio.sleep(1)
        waiters.keep(journal, 2)
        await trio.sleep(3.9)
        assert (waiters.failed, journal.illness, journal.gate.is_open) == ({}, None, True)
        await trio.sleep(0.2)
        assert journal.illness == "the disk has not answered for 5 s"
        assert not journal.gate.is_open
        assert waiters.failed == {1: journal.illness, 2: journal.illness}
        waiters.keep(journal, 3)
        await wait_all_tasks_blocked()
        assert waiters.failed[3] == journal.illness
        await trio.sleep(1000)
        assert [event["event"] for event in events] == [
            "nothing new is claimed: the journal can't be written"
        ]
        disk.go_on()


async def test_a_file_that_is_gone_is_an_ill_disk(
    autojump_clock: MockClock, waiters: Waiters, tmp_path: Path, events: list[EventDict]
) -> None:
    """SQLite would write on where nobody finds it. What is mounted again is well again."""
    async with opened(tmp_path) as journal:
        folder = Path(journal.path).parent
        folder.rename(tmp_path / "away")
        waiters.keep(journal, 1)
        await trio.sleep(1)
        assert journal.illness == "the file is gone: start the worker anew"
        assert (waiters.failed, journal.gate.is_open) == ({1: journal.illness}, False)
        (tmp_path / "away").rename(folder)
        await trio.sleep(60)
        assert journal.illness is None
        assert journal.gate.is_open
        folder.rename(tmp_path / "away")
        shutil.copytree(tmp_path / "away", folder)
        waiters.keep(journal, 2)
        await trio.sleep(1)
        assert journal.illness == "the file is gone: start the worker anew", "another file is not ours"


async def test_a_disk_that_answers_again_is_well(
    autojump_clock: MockClock, waiters: Waiters, tmp_path: Path, events: list[EventDict]
) -> None:
    """All that was queued meanwhile is on it, and new receipts are good ones."""
    disk = Disk()
    async with opened(tmp_path, disk) as journal:
        disk.stuck = True
        waiters.keep(journal, 1)
        await trio.sleep(60)
        waiters.keep(journal, 2, 3)
        await trio.sleep(60)
        disk.go_on()
        await wait_all_tasks_blocked()
        assert (journal.illness, journal.gate.is_open) == (None, True)
        assert events[-1]["event"] == "the journal can be written to again"
        assert sorted(held_in(journal.path)) == [1, 2, 3]
        assert waiters.durable == []
        waiters.keep(journal, 4)
        await wait_all_tasks_blocked()
        assert waiters.durable == [4]


async def test_who_writes_the_moment_it_is_well_is_not_told_otherwise(
    autojump_clock: MockClock, nursery: trio.Nursery, tmp_path: Path
) -> None:
    """Although what he writes goes with what was queued while it was ill."""
    disk = Disk()
    async with opened(tmp_path, disk) as journal:

        async def write_when_well(number: int) -> None:
            await journal.gate.wait()
            receipts.append(journal.keep(make_entry(number)))

        disk.stuck = True
        journal.keep(make_entry(1))
        await trio.sleep(10)
        too_early, receipts = journal.keep(make_entry(2)), []
        for number in range(3, 33):  # some of them before the next commit begins, whoever is scheduled first
            nursery.start_soon(write_when_well, number)
        await wait_all_tasks_blocked()
        disk.go_on()
        await wait_all_tasks_blocked()
        for receipt in receipts:
            await receipt.durable()
        with pytest.raises(JournalIllError):
            await too_early.durable()


async def test_a_disk_that_is_slow_is_not_ill(
    autojump_clock: MockClock, waiters: Waiters, tmp_path: Path, events: list[EventDict]
) -> None:
    """Four seconds for each commit."""
    disk = Disk()
    async with opened(tmp_path, disk) as journal:
        disk.stuck = True
        for number in range(5):
            waiters.keep(journal, number)
            await trio.sleep(4)
            disk.do_one()
            await wait_all_tasks_blocked()
            assert waiters.durable[-1] == number
        assert events == []
        disk.go_on()


async def test_a_full_disk_is_an_illness(
    autojump_clock: MockClock, waiters: Waiters, tmp_path: Path, events: list[EventDict]
) -> None:
    """Told at once and in plain words; it is tried again for ever, with pauses."""
    disk = Disk()
    async with opened(tmp_path, disk) as journal:
        await journal.write(("PRAGMA max_page_count = 20", ())).durable()
        waiters.keep(journal, 1)
        await wait_all_tasks_blocked()
        journal.write(*make_entry(2, dead="x" * 1_000_000).insertion())
        waiters.keep(journal, 3)
        await wait_all_tasks_blocked()
        assert journal.illness == "the disk is full (database or disk is full)"
        assert waiters.failed == {3: journal.illness}
        assert not journal.gate.is_open
        await trio.sleep(3600)
        assert held_in(journal.path) == [1]
        assert 5 <= len([event for event in events if event["log_level"] == "error"]) <= 7


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, of half a megabyte."""
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=512k", "none", str(path)]
    if (
        os.geteuid() != 0
        or shutil.which("mount") is None
        or subprocess.run(command, capture_output=True).returncode
    ):
        pytest.skip("only root may mount one")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def fill_up(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 512)
        except OSError:
            pass  # now there is no room


async def test_a_disk_that_has_room_again_is_well(
    autojump_clock: MockClock, waiters: Waiters, small_disk: Path
) -> None:
    """A real one: full by another's fault, and then no longer."""
    async with opened(small_disk) as journal:
        ballast = small_disk / "ballast"
        fill_up(ballast)
        for number in range(1, 40):
            journal.write(*make_entry(number, dead="x" * 3000).insertion())
        waiters.keep(journal, 40)
        await wait_all_tasks_blocked()
        assert journal.illness is not None
        assert "disk" in waiters.failed[40]
        ballast.unlink()
        await trio.sleep(60)
        assert journal.illness is None
        assert held_in(journal.path) == list(range(1, 41))


async def test_a_disk_that_gives_errors_may_become_well(tmp_path: Path) -> None:
    """In a process whose files may not grow, and then may."""
    async with start_neighbour(tmp_path) as neighbour:
        assert await neighbour.ask("trouble") == "the disk gives an error (disk I/O error)"
    (path,) = state_folder(tmp_path).journals()
    assert held_in(path) == [7]


async def test_a_mistake_in_a_statement_is_a_bug_and_no_illness(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """It comes up, and what was on disk is still there."""
    with pytest.RaisesGroup(sqlite3.IntegrityError):
        async with opened(tmp_path) as journal:
            await journal.keep(make_entry(7)).durable()
            journal.write(("INSERT INTO held (id) VALUES ('x')", ()))
            await trio.sleep_forever()
    assert held_in(journal.path) == [7]
