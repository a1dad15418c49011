"""A worker that is taken away: what it works on has its grace, and what is left of that goes on elsewhere."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from tests.fleet import INTERVAL, workers
from trio_worker.testing import WebBuddy
from trio_worker.testing.memory_bus import MemoryBus

GRACE = 25.0  # seconds


async def test_what_ends_within_the_grace_is_not_disturbed(
    webbuddy: WebBuddy, autojump_clock: MockClock
) -> None:
    """It is done by the worker that began it, though that has been told to stop."""
    async with workers(webbuddy, 2, MemoryBus(), shutdown_grace=GRACE) as (first, _):
        query = webbuddy.add_query("15")
        await webbuddy.until(lambda: query.status == "in_progress")
        await trio.sleep(1)  # until the handler is at work
        first.stop.ask()
        await first.ended.wait()
        assert query.status == "done"
        assert not [line for line in query.logs if "worker-1" in line]


@pytest.mark.parametrize("bus", [MemoryBus(), None], ids=["bus", "no bus"])
async def test_what_is_put_back_goes_on_at_once(
    webbuddy: WebBuddy, autojump_clock: MockClock, bus: MemoryBus | None
) -> None:
    """Over the bus within two round trips; without one it waits for somebody's poll."""
    webbuddy.slow = 0.05
    async with workers(webbuddy, 2, bus, shutdown_grace=GRACE, polling_interval=INTERVAL * 10) as (first, _):
        query = webbuddy.add_query("600")
        await webbuddy.until(lambda: query.status == "in_progress")
        await trio.sleep(1)
        told_at = trio.current_time()
        first.stop.ask()
        await webbuddy.until(lambda: query.status == "queued")
        back_at = trio.current_time()
        await webbuddy.until(lambda: query.status == "in_progress")
        waited = trio.current_time() - back_at
        assert GRACE - 6 <= back_at - told_at <= GRACE
        await first.ended.wait()
        await webbuddy.until(lambda: query.status == "done")
    assert any("worker-1" in line for line in query.logs)
    assert waited <= 0.2 if bus is not None else waited > 5
