"""Open or closed."""

from __future__ import annotations

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_worker.gate import Gate


async def pass_through(gate: Gate, passed: list[float]) -> None:
    await gate.wait()
    passed.append(trio.current_time())


async def test_it_begins_open() -> None:
    """And while it is, to wait is no checkpoint: a consumer that asks six gates loses no time."""
    gate = Gate()
    with trio.CancelScope() as scope:
        scope.cancel()
        await gate.wait()
    assert gate.is_open
    assert not scope.cancelled_caught


async def test_closed_it_holds_everybody_until_it_opens(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """All of them, at once."""
    gate = Gate()
    gate.close()
    gate.close()
    assert not gate.is_open
    passed: list[float] = []
    for _ in range(3):
        nursery.start_soon(pass_through, gate, passed)
    await trio.sleep(5)
    gate.close()
    assert passed == []
    gate.open()
    gate.open()
    await wait_all_tasks_blocked()
    assert passed == [5.0, 5.0, 5.0]


async def test_one_that_closes_again_at_once_lets_nobody_pass(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """Who was woken looks again: what was allowed a moment ago may not be now."""
    gate = Gate()
    gate.close()
    passed: list[float] = []
    nursery.start_soon(pass_through, gate, passed)
    await wait_all_tasks_blocked()
    gate.open()
    gate.close()
    await wait_all_tasks_blocked()
    assert passed == []
    gate.open()


def test_it_is_kept_by_a_condition() -> None:
    """Opened and closed by what is true now."""
    gate = Gate()
    gate.keep(open=False)
    assert not gate.is_open
    gate.keep(open=True)
    assert gate.is_open
