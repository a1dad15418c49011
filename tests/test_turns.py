"""How many calls go at once: many, one after an overlap, and many again by probing."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_worker.turns import Turns


def good(turns: Turns, calls: int) -> int:
    for _ in range(calls):
        turns.went_well()
    return turns.at_once


async def hold(turns: Turns, until: trio.Event, log: list[str], name: str) -> None:
    async with turns:
        log.append(name)
        await until.wait()


def test_nothing_is_held_back_while_nothing_is_wrong() -> None:
    """64 at once from the start, and good calls change nothing (PostgreSQL)."""
    turns = Turns()
    assert turns.at_once == 64
    assert good(turns, 10_000) == 64


def test_an_overlap_lets_one_call_go_at_a_time() -> None:
    """After a plain 500 the calls take turns, until patience is over."""
    turns = Turns()
    turns.overlapped()
    assert turns.at_once == 1
    assert good(turns, 63) == 1


def test_probing_doubles_with_every_patience_good_calls() -> None:
    """1, then 2, 4, 8, …, 64, one step for each 64 good calls."""
    turns = Turns()
    turns.overlapped()
    assert [good(turns, 64) for _ in range(7)] == [2, 4, 8, 16, 32, 64, 64]


def test_an_overlap_while_probing_makes_the_patience_four_times_longer() -> None:
    """A probe that fails is not repeated soon: after 64, 256, 1024, 4096, 4096 good calls."""
    turns = Turns()
    turns.overlapped()
    for patience in (64, 256, 1024, 4096, 4096):
        assert good(turns, patience - 1) == 1
        assert good(turns, 1) == 2
        turns.overlapped()
        assert turns.at_once == 1


def test_an_overlap_starts_the_count_afresh() -> None:
    """Good calls from before it do not count towards the next probe."""
    turns = Turns()
    turns.overlapped()
    good(turns, 64 + 63)
    turns.overlapped()  # at 2: patience 256
    assert good(turns, 255) == 1
    assert good(turns, 1) == 2


def test_once_at_the_most_again_the_patience_is_as_at_first() -> None:
    """A failed probe of long ago does not count."""
    turns = Turns(most=4, patience=8)
    turns.overlapped()
    good(turns, 8)
    turns.overlapped()  # at 2, while probing: patience 32
    assert good(turns, 32 + 32) == 4
    turns.overlapped()
    assert good(turns, 8) == 2


def test_the_losers_of_one_overlap_count_once() -> None:
    """Five calls that failed together are one reason, not five: patience stays."""
    turns = Turns()
    for _ in range(5):
        turns.overlapped()
    assert good(turns, 64) == 2
    for _ in range(5):
        turns.overlapped()
    assert good(turns, 255) == 1
    assert good(turns, 1) == 2


def test_a_failure_of_a_lone_call_does_not_hold_the_others_back_for_ever() -> None:
    """A server on which one call in ten fails for another reason gets parallel calls again."""
    turns = Turns()
    turns.overlapped()
    for _ in range(7):
        good(turns, 9)
        turns.overlapped()
    assert good(turns, 1) == 2


async def refused(turns: Turns, calls: int) -> int:
    """Make so many calls at once, each of which is refused for now."""

    async def one() -> None:
        async with turns:
            await goes_on.wait()
            turns.overloaded()

    goes_on = trio.Event()
    async with trio.open_nursery() as nursery:
        for _ in range(calls):
            nursery.start_soon(one)
        await wait_all_tasks_blocked()
        goes_on.set()
    return turns.at_once


async def test_an_overload_halves_the_calls(autojump_clock: object) -> None:
    """All that were refused together are one reason; the next round is another, down to one call."""
    turns = Turns()
    halves = []
    for _ in range(8):
        halves.append(await refused(turns, turns.at_once))
        await trio.sleep(1)
    assert halves == [32, 16, 8, 4, 2, 1, 1, 1]


async def test_after_an_overload_good_calls_dare_more_again(autojump_clock: object) -> None:
    """Twice as many after each patience, and the patience is no longer than before."""
    turns = Turns()
    assert await refused(turns, 64) == 32
    await trio.sleep(1)
    assert await refused(turns, 1) == 16
    assert [good(turns, 64) for _ in range(3)] == [32, 64, 64]


async def test_no_more_calls_at_once_than_allowed(nursery: trio.Nursery) -> None:
    """The third of two waits, first come first served, and the number can be raised in the middle."""
    turns = Turns(most=2, patience=1)
    done, log = trio.Event(), list[str]()
    for name in "abcd":
        nursery.start_soon(hold, turns, done, log, name)
        await wait_all_tasks_blocked()
    assert log == ["a", "b"]
    assert turns.under_way == 2
    turns.overlapped()
    done.set()
    await wait_all_tasks_blocked()
    assert log == ["a", "b", "c", "d"]
    assert turns.under_way == 0


async def test_after_an_overlap_the_next_waits_for_all_that_are_under_way(nursery: trio.Nursery) -> None:
    """Lowering the number lets running calls finish, and none beside them."""
    turns = Turns(most=3)
    first, second = trio.Event(), trio.Event()
    log = list[str]()
    nursery.start_soon(hold, turns, first, log, "a")
    nursery.start_soon(hold, turns, second, log, "b")
    await wait_all_tasks_blocked()
    turns.overlapped()
    nursery.start_soon(hold, turns, second, log, "c")
    nursery.start_soon(hold, turns, second, log, "d")
    first.set()
    await wait_all_tasks_blocked()
    assert sorted(log) == ["a", "b"]
    second.set()
    await wait_all_tasks_blocked()
    assert len(log) == 4


async def test_a_probe_wakes_whoever_waits(nursery: trio.Nursery) -> None:
    """A raised number is used at once."""
    turns = Turns(patience=1)
    turns.overlapped()
    done, log = trio.Event(), list[str]()
    for name in "abc":
        nursery.start_soon(hold, turns, done, log, name)
    await wait_all_tasks_blocked()
    assert len(log) == 1
    turns.went_well()
    await wait_all_tasks_blocked()
    assert len(log) == 2
    done.set()


async def test_a_cancelled_waiter_leaves_nothing_behind(nursery: trio.Nursery) -> None:
    """Its turn goes to the next, and nothing is lost however often that happens."""
    turns = Turns(most=1)
    done, log = trio.Event(), list[str]()
    nursery.start_soon(hold, turns, done, log, "first")
    await wait_all_tasks_blocked()
    for _ in range(100):
        with trio.CancelScope() as scope:
            scope.cancel()
            async with turns:
                pytest.fail("it was not its turn")
    async with trio.open_nursery() as waiters:
        for name in "ab":
            waiters.start_soon(hold, turns, done, log, name)
        await wait_all_tasks_blocked()
        waiters.cancel_scope.cancel()
    done.set()
    await wait_all_tasks_blocked()
    assert log == ["first"]
    async with turns:
        assert turns.under_way == 1
    assert turns.under_way == 0


async def test_a_second_turn_for_one_task_is_an_error_not_a_deadlock() -> None:
    """Whoever nests calls learns of it at once."""
    turns = Turns(most=1)
    async with turns:
        with pytest.raises(RuntimeError):
            await turns.__aenter__()


def test_its_repr_says_how_it_stands() -> None:
    """For a debugger."""
    turns = Turns()
    turns.overlapped()
    assert repr(turns) == "<Turns: 0 of 1 under way, at most 64>"


async def test_whoever_waits_for_long_keeps_the_place(autojump_clock: object) -> None:
    """First come, first served, also beyond the 2 s after which each waiter looks up."""
    turns = Turns()
    turns.overlapped()
    order: list[int] = []

    async def call(number: int) -> None:
        async with turns:
            await trio.sleep(0.9)
        order.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(40):
            nursery.start_soon(call, number)
            await trio.sleep(0.85)
    assert order == list(range(40))


async def test_a_turn_that_comes_with_the_cancellation_goes_on_to_the_next(nursery: trio.Nursery) -> None:
    """In the same moment: it is not lost with whoever was cancelled."""
    turns = Turns(most=1)
    done, log = trio.Event(), list[str]()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as waiters:
            async with turns:
                waiters.start_soon(hold, turns, done, log, "cancelled")
                await wait_all_tasks_blocked()
                nursery.start_soon(hold, turns, done, log, "next")
                await wait_all_tasks_blocked()
                scope.cancel()  # it is woken by this first, and then has the turn
            assert turns.under_way == 1
    await wait_all_tasks_blocked()
    assert log == ["next"]
    done.set()


async def test_only_a_probe_that_went_wrong_makes_the_patience_longer(autojump_clock: object) -> None:
    """An overlap after an overload, before any probe, says nothing of probes."""
    turns = Turns()
    assert await refused(turns, 1) == 32
    turns.overlapped()
    assert good(turns, 64) == 2


async def test_nobody_overtakes_who_waits_already(autojump_clock: object, nursery: trio.Nursery) -> None:
    """When a call begins to hang there is room for one more: for the one that came first."""
    turns = Turns()
    turns.overlapped()
    done, log = trio.Event(), list[str]()
    nursery.start_soon(hold, turns, done, log, "hangs")
    await trio.sleep(1)
    nursery.start_soon(hold, turns, done, log, "first")
    await trio.sleep(1.5)  # it looks up at 3 s
    nursery.start_soon(hold, turns, done, log, "second")
    await trio.sleep(1)
    assert log == ["hangs", "first"]
    done.set()
