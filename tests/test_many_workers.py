"""Fifty workers of five consumers on one queue, in virtual time: how fast, how many claims, how fair."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import trio
from trio.testing import MockClock

from tests.fleet import claims, waited, workers
from trio_worker import Context, Query
from trio_worker.bus_redis import BATCH_SECONDS, WAIT_SECONDS
from trio_worker.testing import WebBuddy, open_worker
from trio_worker.testing.memory_bus import MemoryBus

WORKERS, CONSUMERS = 50, 5
ROUND_TRIP = 0.05  # seconds
AS_REDIS = {"batch": BATCH_SECONDS, "wait": WAIT_SECONDS}


def shares(webbuddy: WebBuddy) -> list[int]:
    """How many queries each of the workers has claimed, the fewest first."""
    names = [query.logs[0].split("Claimed by ")[1].split()[0] for query in webbuddy.queries.values()]
    counted = Counter(names)
    return sorted(counted[f"worker-{index}"] for index in range(WORKERS))


@pytest.mark.parametrize(("bus", "most"), [({}, 1.25), (AS_REDIS, 2)], ids=["pipe", "redis"])
async def test_half_busy_with_all_pushes_to_one(
    bus: dict[str, float], most: float, webbuddy: WebBuddy, autojump_clock: MockClock
) -> None:
    """Each query is claimed within a quarter of a second, and costs hardly more than one claim.

    With Redis up to two: of hints that come in one batch, each of two workers may find what the other was
    told of, and so look for more. Whose wait began first is chance there, and so are the shares.
    """
    webbuddy.slow = ROUND_TRIP
    chance = random.Random(7)  # noqa: S311
    async with workers(webbuddy, WORKERS, MemoryBus(**bus), num_workers=CONSUMERS, polling_interval=86_400.0):
        before = claims(webbuddy)
        for _ in range(600):
            webbuddy.add_query(str(chance.uniform(5, 60)))
            await trio.sleep(chance.expovariate(WORKERS * CONSUMERS / 32.5 / 2))
        await webbuddy.until(webbuddy.all_ended)
    waits = sorted(waited(webbuddy, number) for number in webbuddy.queries)
    assert waits[int(len(waits) * 0.99)] <= 0.25
    assert (claims(webbuddy) - before) / len(waits) <= most
    if bus:
        return
    # All but the first, which is pushed to, are free as often.
    others = shares(webbuddy)[:-1]
    mean = sum(others) / len(others)
    assert others[0] >= 0.8 * mean
    assert others[-1] <= 1.2 * mean


@pytest.mark.parametrize(("trouble", "seconds"), [("503", 3600), ("down", 300)])
async def test_after_an_outage(
    trouble: str, seconds: float, webbuddy: WebBuddy, autojump_clock: MockClock
) -> None:
    """Nobody begins with all consumers at once, and soon all are at work.

    Where nobody answers at all, each worker knocks every two seconds, however long: five minutes do.
    """
    webbuddy.slow = ROUND_TRIP
    async with workers(webbuddy, WORKERS, MemoryBus(**AS_REDIS), num_workers=CONSUMERS):
        if trouble == "down":
            webbuddy.down = True
        else:
            webbuddy.fail_next(503, calls=10**9)
        await trio.sleep(seconds)
        before, back = webbuddy.count("claim_next", 200), webbuddy.now()
        for _ in range(500):
            webbuddy.add_query("20", push=False)
        webbuddy.down = False
        webbuddy.faults.clear()
        await trio.sleep(1)
        assert webbuddy.count("claim_next", 200) - before <= 2 * WORKERS
        await webbuddy.until(webbuddy.all_ended)
        assert webbuddy.now() - back < 120  # two rounds of 20 s, and at most a minute until the next try


async def test_fair_shares(webbuddy: WebBuddy, autojump_clock: MockClock) -> None:
    """While there is more to do than workers, each does as much as any other, give or take a fifth."""
    webbuddy.slow = ROUND_TRIP
    async with workers(webbuddy, WORKERS, MemoryBus(**AS_REDIS), num_workers=CONSUMERS):
        for _ in range(1250):
            webbuddy.add_query("20", push=False)
        webbuddy.push(1)
        await webbuddy.until(webbuddy.all_ended)
    found = shares(webbuddy)
    mean = sum(found) / WORKERS
    assert 0.8 * mean <= found[0]
    assert found[-1] <= 1.2 * mean


async def test_a_slow_worker_does_not_starve_a_fast_one(
    webbuddy: WebBuddy, autojump_clock: MockClock
) -> None:
    """Each claims when it is free, and so gets what it can do: ten times as fast, ten times as much."""

    async def slowly(query: Query, ctx: Context) -> str:
        await trio.sleep(100)
        return "done"

    webbuddy.slow = ROUND_TRIP
    bus = MemoryBus(**AS_REDIS)
    async with (
        open_worker(slowly, webbuddy=webbuddy, bus=bus, num_workers=5, name="slow"),
        workers(webbuddy, 1, bus, num_workers=5),
    ):
        for _ in range(550):
            webbuddy.add_query("10")
        await webbuddy.until(webbuddy.all_ended)
        assert 0.95 * 500 <= shares(webbuddy)[-1] <= 1.05 * 500
