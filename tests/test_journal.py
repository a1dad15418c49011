"""The journal of a worker: what is held, from one process to the next."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
import trio
from structlog.typing import EventDict
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.journals import (
    Disk,
    fact_in,
    held_in,
    leave_behind,
    losses,
    make_entry,
    opened,
    read,
    state_folder,
)
from tests.neighbour import start_neighbour
from trio_worker import clock
from trio_worker.errors import JournalError, JournalIllError
from trio_worker.journal import open_journal
from trio_worker.journal_file import HeldLine, Tombstone
from trio_worker.journal_rows import fact
from trio_worker.journal_writer import LAZY
from trio_worker.query import Done
from trio_worker.runners import inline, open_thread


@pytest.fixture
def wall_clock(autojump_clock: MockClock) -> Callable[[], float]:
    """A wall clock that goes with virtual time. Each test sets it, since a fixture has another context."""
    return lambda: 1e9 + autojump_clock.current_time()


def stone(query_id: int, *, until: float) -> Tombstone:
    return Tombstone(query_id=query_id, created="x", until=until, attempts=2, retries=0, deaths=1, blamed=1)


def change(path: str, sql: str, *values: object) -> None:
    """What an operator does, over a connection of his own."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(sql, values)
    connection.close()


# --- From its beginning to its end --------------------------------------------------------------------


async def test_what_is_held_at_the_end_is_there_at_the_next_start(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """As it was last written: the next process has it all."""
    async with opened(tmp_path) as journal:
        entry = make_entry(7, running=True, attempts=1)
        journal.keep(entry)
        journal.keep(make_entry(8))
        journal.write(HeldLine(1, "+0.1s", "one").insertion(entry.id), within=LAZY)
        entry.running, entry.outcome = False, Done("42")
        journal.write(entry.update("running", "outcome"))
        journal.bury(stone(5, until=2e9))
        journal.note_lost(1.0, 2.0)
        lost = list(journal.lost)
    async with opened(tmp_path) as journal:
        entry.lines = [HeldLine(1, "+0.1s", "one")]
        assert journal.entries == {"entry-7": entry, "entry-8": make_entry(8)}
        assert list(journal.tombstones.values()) == [stone(5, until=2e9)]
        assert journal.lost == lost


async def test_an_empty_one_leaves_nothing(autojump_clock: MockClock, tmp_path: Path) -> None:
    """What was forgotten is forgotten at the end, although lazily; twice makes no difference."""
    async with opened(tmp_path) as journal:
        entry = make_entry(7, lines=[HeldLine(1, "", "one")])
        journal.keep(entry)
        journal.forget(entry)
        journal.forget(entry)
        journal.stopping()
        assert journal.entries == {}
    assert list(state_folder(tmp_path).path.iterdir()) == []


@pytest.mark.parametrize("held", [True, False])
async def test_however_it_is_left_the_lock_is_given_back(
    held: bool, autojump_clock: MockClock, tmp_path: Path
) -> None:
    """By an error or a cancellation: another process may have it, and an empty one is gone."""
    with pytest.RaisesGroup(ZeroDivisionError):
        async with opened(tmp_path) as journal:
            if held:
                journal.keep(make_entry(7))
            raise ZeroDivisionError
    with trio.CancelScope() as scope:
        async with opened(tmp_path) as journal:
            assert list(journal.entries) == ["entry-7"] * held
            scope.cancel()
            await trio.sleep_forever()
    async with opened(tmp_path) as journal:
        assert list(journal.entries) == ["entry-7"] * held
        assert state_folder(tmp_path).journals() == [Path(journal.path)]


async def test_in_memory_nothing_is_left(autojump_clock: MockClock, tmp_path: Path) -> None:
    """The same journal, for tests of everything else."""
    async with open_journal(None, runner=inline) as journal:
        await journal.keep(make_entry(7)).durable()
        assert await journal.held_here() == {7}
        assert await journal.take_over() == []
        assert journal.path == "in memory"


async def test_it_works_in_a_thread(tmp_path: Path) -> None:
    """As it does in a worker: with a real disk, and real time."""
    with trio.fail_after(60):
        async with open_thread("the disk") as runner, opened(tmp_path, runner) as journal:
            for number in range(50):
                await journal.keep(make_entry(number)).durable()
                assert held_in(journal.path)[-1] == number
            for entry in list(journal.entries.values()):
                journal.forget(entry)
    assert list(state_folder(tmp_path).path.iterdir()) == []


async def test_what_cannot_be_opened_is_an_error(autojump_clock: MockClock, tmp_path: Path) -> None:
    """At the start, with the sentence for the operator."""
    path = leave_behind(state_folder(tmp_path), make_entry(7))
    path.write_bytes(b"garbage" * 1000)
    with pytest.raises(JournalError, match="set aside"):
        async with opened(tmp_path):
            raise AssertionError("it must not begin")


async def test_a_stop_is_on_disk(autojump_clock: MockClock, tmp_path: Path) -> None:
    """Whatever kills us from now on, nobody is blamed: by the event loop, or by any other thread."""
    async with opened(tmp_path) as journal:
        journal.stopping()
        await journal.write().durable()
        assert fact_in(journal.path, "stopping") == 1
    async with opened(tmp_path) as journal:
        await trio.to_thread.run_sync(journal.stopping_by_force)
        assert fact_in(journal.path, "stopping") == 1


# --- Tombstones ---------------------------------------------------------------------------------------


async def test_what_is_buried_is_remembered_for_its_time(
    autojump_clock: MockClock, wall_clock: Callable[[], float], tmp_path: Path
) -> None:
    """By number and creation; then it is forgotten, here and on disk."""
    clock.source.set(wall_clock)
    async with opened(tmp_path) as journal:
        journal.bury(stone(5, until=clock.now() + 100))
        journal.bury(stone(6, until=clock.now() + 10_000))
        assert journal.exhume(5, "x") == stone(5, until=clock.now() + 100)
        assert journal.exhume(5, "another database") is None
        assert journal.exhume(7, "x") is None
        await trio.sleep(101)
        assert journal.exhume(5, "x") is None
        await trio.sleep(1)
        assert [tombstone.query_id for tombstone in read(journal.path).tombstones] == [6]


async def test_to_remember_costs_no_commit(autojump_clock: MockClock, tmp_path: Path) -> None:
    """It is asked at every claim."""
    disk = Disk()
    async with opened(tmp_path, disk) as journal:
        journal.bury(stone(6, until=2e10))
        await trio.sleep(1)
        calls = disk.calls
        assert journal.exhume(5, "x") is None
        await trio.sleep(1)
        assert disk.calls == calls


async def test_what_a_neighbour_remembers_is_found(autojump_clock: MockClock, tmp_path: Path) -> None:
    """A query that it has put back may be handed out to us; of several, the worst."""
    async with opened(tmp_path) as journal:
        assert await journal.exhume_elsewhere(5, "x") is None
        worst = attrs.evolve(stone(5, until=2e9), attempts=3)
        for tombstone in (stone(5, until=2e9), worst, stone(6, until=2e9)):
            leave_behind(state_folder(tmp_path), statements=[tombstone.insertion()])
        journal.bury(attrs.evolve(worst, attempts=9))  # which is not a neighbour's
        assert await journal.exhume_elsewhere(5, "x") == worst
        assert await journal.exhume_elsewhere(5, "another database") is None


async def test_a_neighbour_that_cannot_be_read_remembers_nothing(
    autojump_clock: MockClock, tmp_path: Path, events: list[EventDict]
) -> None:
    """The query is run all the same, and it is logged."""
    async with opened(tmp_path) as journal:
        leave_behind(state_folder(tmp_path)).write_bytes(b"garbage" * 1000)
        assert await journal.exhume_elsewhere(5, "x") is None
        assert [event["event"] for event in events] == ["neighbours' journals can't be read"]


# --- Neighbours -----------------------------------------------------------------------------------------


async def test_what_a_neighbour_leaves_is_taken_while_it_runs(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """Given once; what is ours already is not given again."""
    async with opened(tmp_path) as journal:
        assert await journal.take_over() == []
        marks = [fact("claiming_since", 5.5), fact("claiming_until", 66.5), stone(5, until=2e9).insertion()]
        leave_behind(state_folder(tmp_path), make_entry(7, running=True), statements=marks)
        leave_behind(state_folder(tmp_path), make_entry(8))
        found = await journal.take_over()
        assert [(entry.query.id, entry.deaths) for entry in found] == [(7, 1), (8, 0)]
        assert list(journal.entries.values()) == found
        assert losses(journal) == [(5.5, 66.5)]
        assert journal.exhume(5, "x") is not None
        journal.entries["entry-7"].outcome = Done("42")
        leave_behind(state_folder(tmp_path), make_entry(7), statements=marks)
        assert await journal.take_over() == []
        assert journal.entries["entry-7"].outcome == Done("42")
        assert len(losses(journal)) == 1


async def test_what_a_cancelled_call_has_taken_is_not_lost(autojump_clock: MockClock, tmp_path: Path) -> None:
    """The stop comes in the middle of a look round."""
    disk = Disk()
    async with opened(tmp_path, disk) as journal:
        leave_behind(state_folder(tmp_path), make_entry(7))
        disk.stuck = True
        with trio.move_on_after(1):
            await journal.take_over()
        assert journal.entries == {}
        disk.go_on()
        assert await journal.held_here() == {7}
    async with opened(tmp_path) as journal:
        assert list(journal.entries) == ["entry-7"]


async def test_while_our_disk_is_full_nothing_is_taken(autojump_clock: MockClock, tmp_path: Path) -> None:
    """An error, and the next time it is there."""
    async with opened(tmp_path) as journal:
        path = leave_behind(state_folder(tmp_path), make_entry(7, dead="x" * 1_000_000))
        await journal.write(("PRAGMA max_page_count = 20", ())).durable()
        with pytest.raises(JournalIllError, match="the disk is full"):
            await journal.take_over()
        assert held_in(path) == [7]
        await journal.write(("PRAGMA max_page_count = 2000", ())).durable()
        assert [entry.query.id for entry in await journal.take_over()] == [7]


async def test_what_is_held_here_is_ours_and_the_neighbours(tmp_path: Path) -> None:
    """Whether it is on disk yet, or in memory yet."""
    with trio.fail_after(60):
        async with start_neighbour(tmp_path) as neighbour, opened(tmp_path) as journal:
            await neighbour.ask("open")
            await neighbour.ask("hold 7")
            journal.keep(make_entry(8))
            assert await journal.held_here() == {7, 8}
            leave_behind(state_folder(tmp_path), make_entry(9))
            assert await journal.held_here() == {7, 8, 9}


# --- What an operator does ------------------------------------------------------------------------------


async def test_a_dead_letter_is_revived(autojump_clock: MockClock, tmp_path: Path) -> None:
    """By another connection; given once."""
    async with opened(tmp_path) as journal:
        for number in (1, 2, 3):
            journal.keep(make_entry(number, dead="400: no"))
        journal.keep(make_entry(4))
        assert await journal.revived() == []
        change(journal.path, "UPDATE held SET dead = NULL WHERE query_id = ?", "2")
        change(journal.path, "DELETE FROM held WHERE query_id = ?", "3")
        (alive,) = await journal.revived()
        assert alive is journal.entries["entry-2"]
        assert alive.dead is None
        assert list(journal.entries) == ["entry-1", "entry-2", "entry-4"]
        assert await journal.revived() == []


async def test_without_dead_letters_the_disk_is_left_alone(autojump_clock: MockClock, tmp_path: Path) -> None:
    """Every ten seconds, all day."""
    disk = Disk()
    async with opened(tmp_path, disk) as journal:
        await journal.keep(make_entry(4)).durable()
        disk.stuck = True
        assert await journal.revived() == []
        disk.go_on()


async def test_what_is_not_yet_written_is_not_taken_for_the_operators_will(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """A query becomes a dead letter while the disk is busy: on disk it is none yet, or is not there."""
    disk = Disk()
    async with opened(tmp_path, disk) as journal, trio.open_nursery() as nursery:
        entry, found = make_entry(1), []

        async def look() -> None:
            found.append(await journal.revived())

        await journal.keep(entry).durable()
        disk.stuck = True
        journal.write(fact("x", 1))
        await wait_all_tasks_blocked()
        entry.dead = "400: no"
        journal.write(entry.update("dead"))
        journal.keep(make_entry(2, dead="400: no"))
        nursery.start_soon(look)
        await wait_all_tasks_blocked()
        disk.go_on()
        await wait_all_tasks_blocked()
        assert found == [[]]
        assert list(journal.entries) == ["entry-1", "entry-2"]
        assert entry.dead == "400: no"
