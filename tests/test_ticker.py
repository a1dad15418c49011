"""Waking by the clock."""

from __future__ import annotations

import itertools

import pytest
import trio
from trio.testing import MockClock

from trio_worker import Context, Query
from trio_worker.testing import open_worker
from trio_worker.ticker import look_again, tick
from trio_worker.wakeups import Wakeups


async def quick(query: Query, ctx: Context) -> str:
    return "ok"


class Rings:
    """When a consumer that is always free is woken."""

    def __init__(self) -> None:
        self.wakeups = Wakeups()
        self.times: list[float] = []

    async def listen(self) -> None:
        with self.wakeups.listen() as listener:
            while True:
                await self.wakeups.wait(listener)
                self.times.append(trio.current_time())
                self.wakeups.found_nothing(self.wakeups.newest)


async def test_the_first_tick_is_at_the_start(autojump_clock: MockClock) -> None:
    """A query that waits already when the worker starts does not wait for the first interval."""
    async with open_worker(quick, polling_interval=30) as worker:
        query = await worker.ask("early", push=False)
        assert query.status == "done"
        assert trio.current_time() < 1


@pytest.mark.parametrize("interval", [0.5, 30.0, 3600.0])
async def test_the_interval_has_ten_percent_of_jitter(
    interval: float, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """Not in step with the other workers, and on average as often as was asked for."""
    rings = Rings()
    nursery.start_soon(rings.listen)
    nursery.start_soon(tick, rings.wakeups, lambda: interval)
    await trio.sleep(interval * 1000)
    gaps = [later - earlier for earlier, later in itertools.pairwise(rings.times)]
    assert rings.times[0] == 0
    assert min(gaps) >= interval * 0.9 - 0.001
    assert max(gaps) <= interval * 1.1 + 0.001
    assert max(gaps) - min(gaps) > interval * 0.15
    assert sum(gaps) / len(gaps) == pytest.approx(interval, rel=0.02)
    nursery.cancel_scope.cancel()


async def test_a_push_that_found_nothing_is_looked_after_once(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """About a second later, once; a tick that found nothing is not."""
    rings = Rings()
    nursery.start_soon(rings.listen)
    nursery.start_soon(look_again, rings.wakeups)
    await trio.sleep(10)
    rings.wakeups.tick()
    await trio.sleep(10)
    assert len(rings.times) == 1
    rings.wakeups.push()
    await trio.sleep(100)
    assert rings.times[1] == 20
    assert 20.9 <= rings.times[2] <= 21.1
    assert len(rings.times) == 3
    nursery.cancel_scope.cancel()


async def test_many_pushes_that_found_nothing_cost_a_claim_a_second(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """Anybody can send pushes: the second looks gather."""
    rings = Rings()
    nursery.start_soon(rings.listen)
    nursery.start_soon(look_again, rings.wakeups)
    for _ in range(600):
        rings.wakeups.push()
        await trio.sleep(0.1)
    await trio.sleep(100)
    assert len(rings.times) <= 600 + 60 / 0.9 + 2
    nursery.cancel_scope.cancel()


async def test_a_query_that_nobody_pushes_is_found_by_the_poll(autojump_clock: MockClock) -> None:
    """Within an interval, and marked as found that way."""
    async with open_worker(quick, polling_interval=30) as worker:
        await trio.sleep(100)
        query = await worker.ask("unpushed", push=False)
        assert query.started is not None
        assert query.started - query.created <= 33
        await trio.sleep(1)
        assert "Claimed by test-worker (poll)" in query.logs[0]
