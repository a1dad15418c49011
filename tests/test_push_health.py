"""Whether it is noticed that pushes do not come any more, and not when nothing is wrong."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable
from datetime import UTC, datetime

import pytest
import trio
from structlog.typing import EventDict
from trio.testing import MockClock

from trio_worker import Context, Query
from trio_worker.push_health import MANY, OFTENER, PushHealth
from trio_worker.testing import RunningWorker, open_worker

BROKEN = "pushes have stopped coming"
INTERVAL = 30.0


async def quick(query: Query, ctx: Context) -> str:
    return "ok"


def said(events: Iterable[EventDict], beginning: str) -> int:
    return sum(event["event"].startswith(beginning) for event in events)


async def unpushed(worker: RunningWorker, number: int, *, apart: float = INTERVAL) -> None:
    """New queries, of which no push tells."""
    for _ in range(number):
        await worker.ask("unpushed", push=False)
        await trio.sleep(apart)


async def gaps(worker: RunningWorker) -> list[float]:
    """Seconds between polls while nothing comes."""
    before = worker.webbuddy.count("claim_next")
    await trio.sleep(10 * INTERVAL)
    times = [call.began for call in worker.webbuddy.requests if call.endpoint == "claim_next"][before:]
    return [later - earlier for earlier, later in itertools.pairwise(times)]


async def test_pushes_that_stop_are_noticed(autojump_clock: MockClock, events: list[EventDict]) -> None:
    """Once, with what to look at; and that they are back."""
    async with open_worker(quick, polling_interval=INTERVAL) as worker:
        await worker.ask("pushed")
        await unpushed(worker, MANY - 1)
        assert not worker.front.health.is_broken
        await unpushed(worker, MANY)
        assert worker.front.health.is_broken
        (warning,) = (event for event in events if event["event"].startswith(BROKEN))
        assert {"FASTAPI_URL", "WORKER_BIND"} <= set(warning["event"].replace(";", "").split())
        assert warning["log_level"] == "warning"
        assert (warning["in_a_row"], warning["last_push_seconds_ago"] > 0) == (MANY, True)
        await worker.ask("pushed again")
        assert not worker.front.health.is_broken
        assert said(events, "pushes come again") == 1
        await unpushed(worker, 2 * (MANY + 2) + 1)
        assert said(events, BROKEN) == 2


async def test_polls_stand_in_for_pushes(autojump_clock: MockClock) -> None:
    """While queries come, in steps down to a tenth of the interval; where none come, up again."""
    async with open_worker(quick, polling_interval=INTERVAL) as worker:
        await worker.ask("pushed")
        await unpushed(worker, MANY, apart=0)
        for _ in range(100):
            waiting = worker.webbuddy.add_query("in use", push=False)
            await trio.sleep(2)
        await worker.webbuddy.until(worker.webbuddy.all_ended)
        assert waiting.started is not None
        assert waiting.started - waiting.created <= 1.1 * INTERVAL / OFTENER + 1
        await trio.sleep(10 * INTERVAL)
        assert min(await gaps(worker)) >= 0.9 * INTERVAL
        await worker.ask("pushed")
        await unpushed(worker, MANY - 1)
        assert min(await gaps(worker)) >= 0.9 * INTERVAL


async def test_a_worker_that_never_had_a_push(autojump_clock: MockClock, events: list[EventDict]) -> None:
    """Nothing is broken there: it is told once, and polls as was asked for."""
    async with open_worker(quick, polling_interval=INTERVAL) as worker:
        await unpushed(worker, 5 * MANY)
        assert not worker.front.health.is_broken
        assert worker.front.health.next_interval() == INTERVAL
    assert said(events, "polling only") == 1
    assert said(events, BROKEN) == 0


async def test_what_says_nothing_about_pushes(autojump_clock: MockClock, events: list[EventDict]) -> None:
    """Queries of before the start, such as were put back, and a handful that came in one moment."""
    async with open_worker(quick, polling_interval=INTERVAL, num_workers=1) as worker:
        await trio.sleep(1000)
        await worker.ask("pushed")
        old = [worker.webbuddy.add_query("old", push=False) for _ in range(3 * MANY)]
        for query in old:
            query.created -= 990.0
        await trio.sleep(10 * INTERVAL)
        assert worker.front.health.missed == 0
        for query in old:
            query.created -= 5000.0
            worker.webbuddy.requeue(query.id)
        await trio.sleep(10 * INTERVAL)
        assert worker.front.health.missed == 0
        for _ in range(3 * MANY):
            worker.webbuddy.add_query("in one moment", push=False)
        await trio.sleep(10 * INTERVAL)
        assert worker.front.health.missed == 3 * MANY
        assert not worker.front.health.is_broken
    assert said(events, BROKEN) == 0


@pytest.mark.parametrize(("interval", "least"), [(0.5, 0.5), (5.0, 1.0), (30.0, 3.0), (3600.0, 360.0)])
async def test_how_often_is_polled_at_most(interval: float, least: float, autojump_clock: MockClock) -> None:
    """Ten times as often, but not more than once a second because of this."""
    health = PushHealth()
    health.begin(interval)
    await trio.sleep(1)
    health.heard()
    intervals = []
    for number in range(20):
        intervals.append(health.next_interval())
        await trio.sleep(intervals[-1])
        created = datetime.fromtimestamp(1e9 + trio.current_time(), UTC)
        query = Query(id=number, project=1, query_text="text", query_created=created)
        health.found(query, named=False, server_now=1e9 + trio.current_time())
    assert intervals[0] == interval
    assert min(intervals) == intervals[-1] == least
    assert [health.next_interval() for _ in range(20)][-1] == interval


async def test_a_backlog_of_queries_that_were_pushed(
    autojump_clock: MockClock, events: list[EventDict]
) -> None:
    """All consumers are busy for long: others are between them, but pushes do come."""
    async with open_worker(quick, polling_interval=INTERVAL, num_workers=1) as worker:
        health = worker.front.health
        await worker.ask("pushed")
        for number in range(2, 10 * MANY):
            await trio.sleep(INTERVAL)
            named = number % 2 == 0
            created = datetime.fromtimestamp(1e9 + trio.current_time(), UTC)
            query = Query(id=number, project=1, query_text="text", query_created=created)
            health.found(query, named=named, server_now=1e9 + trio.current_time())
    assert said(events, BROKEN) == 0


async def test_several_processes_share_the_pushes(autojump_clock: MockClock, events: list[EventDict]) -> None:
    """A day of four, each of which is told of some queries and finds others: all poll as they should."""
    healths = [PushHealth() for _ in range(4)]
    for health in healths:
        health.begin(INTERVAL)
    rng = random.Random(1)  # noqa: S311
    await trio.sleep(1)
    for number in range(3_000):
        await trio.sleep(rng.uniform(10, 50))
        told, finds = rng.choices(healths, k=2)
        told.heard()
        now = 1e9 + trio.current_time()
        query = Query(id=number, project=1, query_text="text", query_created=datetime.fromtimestamp(now, UTC))
        finds.found(query, named=told is finds, server_now=now)
    assert said(events, BROKEN) <= 4
    assert all(health.next_interval() == INTERVAL for health in healths)
