"""Claims that are under way, and claims whose answers were lost, in the journal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.journals import Disk, losses, make_entry, opened, read, state_folder, transactions
from trio_worker import clock
from trio_worker.errors import JournalIllError
from trio_worker.journal import Journal


@pytest.fixture
def wall_clock(autojump_clock: MockClock) -> Callable[[], float]:
    """A wall clock that goes with virtual time. Each test sets it, since a fixture has another context."""
    return lambda: 1e9 + autojump_clock.current_time()


# --- Claims that are under way --------------------------------------------------------------------------


def mark(journal: Journal) -> tuple[float, float] | None:
    """What the next process would hear of claims, if we died now."""
    facts = read(journal.path).facts
    return (facts["claiming_since"], facts["claiming_until"]) if "claiming_since" in facts else None


async def claim(journal: Journal, server_now: float, seconds: float, *, longest: float = 30.0) -> None:
    await journal.claiming(server_now, longest)
    await trio.sleep(seconds)
    journal.claimed()


async def test_a_claim_is_marked_on_disk_before_it_is_sent(autojump_clock: MockClock, tmp_path: Path) -> None:
    """From its beginning to the longest that it can take."""
    disk = Disk()
    async with opened(tmp_path, disk) as journal:
        disk.stuck = True
        with trio.move_on_after(1) as patience:
            await journal.claiming(100.0, 30.0)
        assert patience.cancelled_caught
        disk.go_on()
        await journal.claiming(101.0, 30.0)
        marked = mark(journal)
        assert marked is not None
        assert marked[0] <= 101.0
        assert marked[1] >= 131.0
        journal.claimed()


async def test_many_claims_share_one_mark_a_second(
    autojump_clock: MockClock, nursery: trio.Nursery, tmp_path: Path
) -> None:
    """Ten seconds of claims, fifty a second: ten commits or so."""
    async with opened(tmp_path) as journal:
        before = transactions(journal.path)
        for number in range(500):
            nursery.start_soon(claim, journal, 100.0 + number / 50, 0.3)
            await trio.sleep(0.02)
        assert transactions(journal.path) - before <= 11
        await trio.sleep(1)


async def test_one_after_the_other_claims_share_one_mark_a_second(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """A lone consumer too; and what else is written does not make it more."""
    async with opened(tmp_path) as journal:
        before = transactions(journal.path)
        for number in range(100):
            await claim(journal, 100.0 + number / 10, 0.05)
            await journal.keep(make_entry(number)).durable()
            await trio.sleep(0.05)
        assert transactions(journal.path) - before <= 100 + 2 * 11  # a mark, and its removal


async def test_a_mark_covers_every_claim_that_is_under_way(
    autojump_clock: MockClock, nursery: trio.Nursery, tmp_path: Path
) -> None:
    """From the beginning of the oldest, which hangs, to the end of the newest."""
    async with opened(tmp_path) as journal:
        nursery.start_soon(claim, journal, 100.0, 25.0)
        for number in range(1, 21):
            await trio.sleep(1)
            await journal.claiming(100.0 + number, 30.0)
            marked = mark(journal)
            assert marked is not None
            assert marked[0] == 100.0
            assert marked[1] >= 130.0 + number
            journal.claimed()
        await trio.sleep(7)
        await journal.claiming(127.0, 30.0)
        marked = mark(journal)
        assert marked is not None
        assert marked[0] == 127.0
        journal.claimed()


async def test_when_no_claim_is_under_way_there_is_no_mark(autojump_clock: MockClock, tmp_path: Path) -> None:
    """After a second: an idle worker that is killed has lost nothing."""
    async with opened(tmp_path) as journal:
        await claim(journal, 100.0, 0.1)
        await trio.sleep(1)
        assert mark(journal) is None
        await claim(journal, 105.0, 20.0)
        assert mark(journal) is not None
        await trio.sleep(0.2)
        assert mark(journal) is None


async def test_a_claim_right_after_the_removal_of_a_mark_has_a_new_one(
    autojump_clock: MockClock, nursery: trio.Nursery, tmp_path: Path
) -> None:
    """At any moment: while a claim is under way, there is a mark on disk that covers it."""
    async with opened(tmp_path) as journal:
        for tenths in range(1, 31):
            began = 100.0 + tenths
            await claim(journal, began, 0.0)
            await trio.sleep(tenths / 10)
            await journal.claiming(began + tenths / 10, 30.0)
            for _ in range(3):
                marked = mark(journal)
                assert marked is not None
                assert marked[0] <= began + tenths / 10 <= marked[1] - 30.0
                await trio.sleep(0.4)
            journal.claimed()
            await trio.sleep(tenths % 3)


async def test_the_end_removes_the_mark(autojump_clock: MockClock, tmp_path: Path) -> None:
    """Nothing is left, and the end does not wait for the mark's second."""
    async with opened(tmp_path) as journal:
        await claim(journal, 100.0, 0.1)
        began = trio.current_time()
    assert trio.current_time() - began < 0.01
    assert list(state_folder(tmp_path).path.iterdir()) == []


async def test_a_claim_that_is_under_way_at_the_end_is_noted_as_lost(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """By the next process."""
    async with opened(tmp_path) as journal:
        await journal.claiming(100.0, 30.0)
    async with opened(tmp_path) as journal:
        (lost,) = journal.lost
        assert (lost.since, lost.until) == (100.0, 131.0)


async def test_on_a_disk_that_is_ill_nothing_is_claimed(autojump_clock: MockClock, tmp_path: Path) -> None:
    """Not by a mark that never came to the disk; when it is well again, with a new one."""
    disk = Disk()
    async with opened(tmp_path, disk) as journal:
        disk.stuck = True
        with pytest.raises(JournalIllError):
            await journal.claiming(100.0, 30.0)
        with pytest.raises(JournalIllError):
            await journal.claiming(100.5, 30.0)
        disk.go_on()
        await trio.sleep(0.5)
        assert mark(journal) is None
        await journal.claiming(200.0, 30.0)
        assert mark(journal) == (200.0, 231.0)
        journal.claimed()


async def test_a_claim_that_is_cancelled_before_it_is_sent_leaves_no_mark(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """While it waits for the disk."""
    async with opened(tmp_path) as journal:
        with trio.CancelScope() as scope:
            scope.cancel()
            await journal.claiming(100.0, 30.0)
        await trio.sleep(2)
        assert mark(journal) is None


# --- Claims whose answers are lost ----------------------------------------------------------------------


async def test_losses_of_one_moment_are_one_note(
    autojump_clock: MockClock, wall_clock: Callable[[], float], tmp_path: Path
) -> None:
    """Those that overlap, or are less than two seconds apart, in whatever order they become known."""
    clock.source.set(wall_clock)
    async with opened(tmp_path) as journal:
        for since, until in [(100.0, 101.0), (100.5, 101.5), (102.9, 103.0), (96.0, 98.1), (99.0, 99.1)]:
            journal.note_lost(since, until)
            await trio.sleep(1)
        assert losses(journal) == [(96.0, 103.0)]
        journal.note_lost(50.0, 94.0)
        journal.note_lost(105.0, 105.5)
        await trio.sleep(1)
        assert losses(journal) == [(96.0, 103.0), (50.0, 94.0), (105.0, 105.5)]


async def test_a_clock_that_is_set_back_makes_no_loss_smaller(
    autojump_clock: MockClock, wall_clock: Callable[[], float], tmp_path: Path
) -> None:
    """An end before the beginning."""
    clock.source.set(wall_clock)
    async with opened(tmp_path) as journal:
        journal.note_lost(100.0, 95.0)
        journal.note_lost(96.0, 97.0)
        await trio.sleep(1)
        assert losses(journal) == [(95.0, 100.0)]


async def test_a_note_takes_in_more_for_a_minute(
    autojump_clock: MockClock, wall_clock: Callable[[], float], tmp_path: Path
) -> None:
    """Or, on a server that loses claims all day, none would ever be old enough to be looked for."""
    clock.source.set(wall_clock)
    async with opened(tmp_path) as journal:
        for second in range(600):
            journal.note_lost(100.0 + second, 101.0 + second)
            await trio.sleep(1)
        noted = losses(journal)
        assert len(noted) == 10
        assert all(until - since <= 62 for since, until in noted)
        assert (noted[0][0], noted[-1][1]) == (100.0, 700.0)


async def test_a_note_that_covers_a_loss_costs_nothing(
    autojump_clock: MockClock, wall_clock: Callable[[], float], tmp_path: Path
) -> None:
    """Fifty consumers lose against each other, again and again."""
    clock.source.set(wall_clock)
    disk = Disk()
    async with opened(tmp_path, disk) as journal:
        calls = disk.calls
        for _ in range(50):
            journal.note_lost(100.0, 101.0)
            await trio.sleep(0.2)
        assert disk.calls - calls == 1
        assert losses(journal) == [(100.0, 101.0)]


async def test_what_has_grown_meanwhile_is_not_forgotten(
    autojump_clock: MockClock, wall_clock: Callable[[], float], tmp_path: Path
) -> None:
    """Who has looked has not looked for all of it."""
    clock.source.set(wall_clock)
    async with opened(tmp_path) as journal:
        journal.note_lost(100.0, 101.0)
        (looked_for,) = journal.lost
        journal.note_lost(101.0, 102.0)
        journal.forget_lost(looked_for)
        await trio.sleep(1)
        assert losses(journal) == [(100.0, 102.0)]
        journal.forget_lost(journal.lost[0])
        await trio.sleep(1)
        assert losses(journal) == []
