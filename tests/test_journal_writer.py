"""Who waits for the disk, and what goes with which commit."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
import trio
from structlog.typing import EventDict
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.journals import Disk, Waiters, fact_in, held_in, make_entry, opened, transactions
from trio_worker.journal_rows import Statement, fact
from trio_worker.journal_writer import LAZY, JournalWriter


@pytest.fixture
def waiters(nursery: trio.Nursery) -> Waiters:
    return Waiters(nursery)


# --- Group commit -----------------------------------------------------------------------------------


async def test_what_is_queued_during_a_commit_shares_the_next(
    autojump_clock: MockClock, waiters: Waiters, tmp_path: Path
) -> None:
    """Fifty queries that are claimed while the disk is busy with one: two transactions."""
    disk = Disk()
    async with opened(tmp_path, disk) as journal:
        before = transactions(journal.path)
        disk.stuck = True
        waiters.keep(journal, 0)
        await wait_all_tasks_blocked()
        waiters.keep(journal, *range(1, 51))
        await wait_all_tasks_blocked()
        assert (waiters.durable, held_in(journal.path)) == ([], [])
        disk.do_one()
        await wait_all_tasks_blocked()
        assert (waiters.durable, held_in(journal.path)) == ([0], [0])
        disk.go_on()
        await wait_all_tasks_blocked()
        assert sorted(waiters.durable) == sorted(held_in(journal.path)) == list(range(51))
        assert transactions(journal.path) - before == 2


async def test_durable_means_that_others_see_it(autojump_clock: MockClock, tmp_path: Path) -> None:
    """On disk, for a second connection, and not before."""
    disk = Disk()
    async with opened(tmp_path, disk) as journal:
        disk.stuck = True
        receipt = journal.keep(make_entry(7))
        with trio.move_on_after(1) as patience:
            await receipt.durable()
        assert patience.cancelled_caught
        assert held_in(journal.path) == []
        disk.go_on()
        await receipt.durable()
        assert held_in(journal.path) == [7]


async def test_who_is_cancelled_while_he_waits_has_written_all_the_same(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """To write is synchronous; only the waiting is given up."""
    async with opened(tmp_path) as journal:
        with trio.CancelScope() as scope:
            scope.cancel()
            await journal.keep(make_entry(7)).durable()
        await wait_all_tasks_blocked()
        assert held_in(journal.path) == [7]


async def test_order_is_kept(autojump_clock: MockClock, tmp_path: Path) -> None:
    """Whatever waits and whatever does not."""
    async with opened(tmp_path) as journal:
        for number in range(20):
            journal.write(fact("x", number), within=LAZY if number % 3 else 0)
            if number % 7 == 0:
                await trio.sleep(0.05)
        await journal.write().durable()
        assert fact_in(journal.path) == 19


async def test_an_empty_write_is_a_receipt_for_what_was_before(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """Also while a commit is under way."""
    disk = Disk()
    async with opened(tmp_path, disk) as journal:
        disk.stuck = True
        journal.write(fact("x", 1))
        await wait_all_tasks_blocked()
        journal.write(fact("x", 2), within=LAZY)
        receipt = journal.write()
        disk.do_one()
        await wait_all_tasks_blocked()
        with trio.move_on_after(1) as patience:
            await receipt.durable()
        assert patience.cancelled_caught
        disk.go_on()
        await receipt.durable()
        assert fact_in(journal.path) == 2


# --- What nobody waits for ----------------------------------------------------------------------------


async def test_a_lazy_write_waits_for_a_tenth_of_a_second(autojump_clock: MockClock, tmp_path: Path) -> None:
    """At most: several of them cost one commit."""
    async with opened(tmp_path) as journal:
        before = transactions(journal.path)
        for number in range(9):
            journal.write(fact("x", number), within=LAZY)
            await trio.sleep(0.01)
        assert fact_in(journal.path) is None
        await trio.sleep(0.02)
        assert fact_in(journal.path) == 8
        assert transactions(journal.path) - before == 1


async def test_a_lazy_write_goes_with_an_earlier_commit(autojump_clock: MockClock, tmp_path: Path) -> None:
    """And costs none of its own: not then, and not later."""
    async with opened(tmp_path) as journal:
        before = transactions(journal.path)
        journal.write(fact("x", 1), within=LAZY)
        await journal.keep(make_entry(7)).durable()
        assert fact_in(journal.path) == 1
        await trio.sleep(1)
        assert transactions(journal.path) - before == 1


async def test_a_lazy_write_during_a_commit_is_not_forgotten(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """Its tenth of a second may be over before that commit is."""
    disk = Disk()
    async with opened(tmp_path, disk) as journal:
        disk.stuck = True
        journal.write(fact("y", 1))
        await wait_all_tasks_blocked()
        journal.write(fact("x", 1), within=LAZY)
        await trio.sleep(2)
        disk.go_on()
        await trio.sleep(0.1)
        assert fact_in(journal.path) == 1


async def test_a_collector_is_asked_when_the_commit_begins(autojump_clock: MockClock, tmp_path: Path) -> None:
    """Once, for all that has gathered by then, after what was queued; within a tenth of a second."""
    asked: list[float] = []
    lines: list[int] = []

    def collect() -> Iterable[Statement]:
        asked.append(trio.current_time())
        return [fact("x", len(lines))]

    async with opened(tmp_path) as journal:
        began, before = trio.current_time(), transactions(journal.path)
        for number in range(5):
            lines.append(number)
            journal.collect_later(collect)
            journal.write(fact("x", "too early"), within=LAZY)
            await trio.sleep(0.01)
        assert asked == []
        await trio.sleep(1)
        assert asked == pytest.approx([began + 0.1])
        assert fact_in(journal.path) == 5
        journal.collect_later(collect)
        await journal.write(fact("y", 1)).durable()
        assert len(asked) == 2
        assert transactions(journal.path) - before == 2


async def test_a_collector_that_has_nothing_costs_nothing(autojump_clock: MockClock, tmp_path: Path) -> None:
    """No commit; and one may ask for a later time, again and again."""
    asked: list[float] = []

    def collect() -> Iterable[Statement]:
        asked.append(trio.current_time() - began)
        if len(asked) < 3:
            journal.collect_later(collect, within=10.0)
        return []

    async with opened(tmp_path) as journal:
        began, before = trio.current_time(), transactions(journal.path)
        journal.collect_later(collect)
        await trio.sleep(100)
        assert asked == pytest.approx([0.1, 10.1, 20.1])
        assert transactions(journal.path) == before


# --- The end ------------------------------------------------------------------------------------------


async def test_the_end_writes_what_is_queued(autojump_clock: MockClock, tmp_path: Path) -> None:
    """At once: the lazy ones and the collectors too."""
    async with opened(tmp_path) as journal:
        journal.keep(make_entry(7))
        journal.keep(make_entry(8))
        journal.write(make_entry(8, attempts=5).update("attempts"), within=LAZY)
        journal.collect_later(lambda: make_entry(9).insertion())
        began = trio.current_time()
    assert trio.current_time() == began
    assert held_in(journal.path) == [7, 8, 9]


async def test_the_end_asks_the_collectors(autojump_clock: MockClock) -> None:
    """Also when the disk is busy, and nothing else is queued."""
    disk, written = Disk(), list[Statement]()
    writer = JournalWriter(written.extend, disk, name="in a list")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        disk.stuck = True
        writer.write(fact("x", 1))
        await wait_all_tasks_blocked()
        writer.collect_later(lambda: [fact("x", 2)])
        writer.close()
        await wait_all_tasks_blocked()
        disk.go_on()
    assert written == [fact("x", 1), fact("x", 2)]


async def test_cancelling_writes_what_is_queued(autojump_clock: MockClock, tmp_path: Path) -> None:
    """What is written by those who are cancelled, too."""
    with trio.CancelScope() as scope:
        async with opened(tmp_path) as journal:
            journal.keep(make_entry(7))
            scope.cancel()
            try:
                await trio.sleep_forever()
            finally:
                journal.keep(make_entry(8))
    assert scope.cancelled_caught
    assert held_in(journal.path) == [7, 8]


async def test_an_end_on_a_disk_that_hangs_takes_two_seconds_a_step(
    autojump_clock: MockClock, tmp_path: Path, events: list[EventDict]
) -> None:
    """Then it is given up, and said so: a stop is not held up by a disk."""
    disk = Disk()
    with trio.CancelScope() as scope:
        async with opened(tmp_path, disk) as journal:
            disk.stuck = True
            journal.keep(make_entry(7))
            began = trio.current_time()
            scope.cancel()
    assert trio.current_time() - began == pytest.approx(4.0)
    assert [event["event"] for event in events] == [
        "the journal could not be written to its end",
        "the disk does not answer: the journal is left as it is",
    ]
    disk.go_on()
