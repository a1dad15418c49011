"""A drain: nothing new is taken, and what runs may take its time. In virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from structlog.typing import EventDict
from trio.testing import MockClock

from trio_worker import Context, Query, RetryLater
from trio_worker.handlers.loading import Handler
from trio_worker.testing import RunningWorker, StoredQuery, WebBuddy, open_worker, trio_time

TEN_HOURS = 36_000.0


async def handle(query: Query, ctx: Context) -> str:
    ctx.log("at work")
    await trio.sleep(TEN_HOURS)
    return "at last"


@asynccontextmanager
async def at_work(**settings: object) -> AsyncIterator[tuple[RunningWorker, StoredQuery]]:
    """A worker that works on a query of ten hours since ten seconds."""
    webbuddy = WebBuddy(now=trio_time())
    values = {"processing_timeout": 40_000, "max_processing_time": 40_000, "watch_interval": 3600}
    async with open_worker(handle, webbuddy=webbuddy, **(values | settings)) as worker:
        query = webbuddy.add_query("a question")
        await trio.sleep(10)
        yield worker, query


async def test_what_runs_ends_and_nothing_new_is_taken(
    autojump_clock: MockClock, events: list[EventDict]
) -> None:
    """Ten hours, with a grace of 25 s; then the worker ends by itself."""
    async with at_work() as (worker, query):
        worker.stop.drain()
        late = worker.webbuddy.add_query("late")
        await trio.sleep(TEN_HOURS - 60)
        assert (query.status, late.status, worker.ended.is_set()) == ("in_progress", "queued", False)
        assert worker.front.readiness.reasons == {
            "service": "it drains: what runs ends, nothing new is taken"
        }
        with trio.fail_after(120):
            await worker.ended.wait()
        assert (query.status, query.answer_text) == ("done", "at last")
        assert late.statuses == ["queued"]
    assert [event["event"] for event in events if "drain" in event["event"]] == [
        "draining: no new query is taken, what runs may take its time"
    ]


async def test_without_anything_to_do_it_ends_at_once(autojump_clock: MockClock) -> None:
    """Also when it is drained twice."""
    async with open_worker(handle) as worker:
        await trio.sleep(100)
        worker.stop.drain()
        worker.stop.drain()
        with trio.fail_after(1):
            await worker.ended.wait()


async def test_a_stop_during_a_drain_has_its_grace(autojump_clock: MockClock) -> None:
    """From when it is asked for: the query is put back, within the grace and not before it is nearly over."""
    async with at_work(shutdown_grace=25) as (worker, query):
        worker.stop.drain()
        await trio.sleep(3600)
        worker.stop.ask()
        began = trio.current_time()
        with trio.fail_after(25):
            await worker.ended.wait()
        assert query.statuses == ["queued", "in_progress", "queued"]
        assert trio.current_time() - began >= 19
        worker.stop.drain()  # changes nothing any more


async def test_a_drain_can_be_hurried(autojump_clock: MockClock) -> None:
    """Put back in two seconds, as after two signals."""
    async with at_work() as (worker, query):
        worker.stop.drain()
        await trio.sleep(100)
        worker.stop.hurry()
        with trio.fail_after(2.5):
            await worker.ended.wait()
        assert query.status == "queued"


async def test_results_are_waited_for(autojump_clock: MockClock) -> None:
    """WebBuddy is down for an hour: it is asked as seldom as ever, and then gets the result."""
    async with at_work() as (worker, query):
        worker.stop.drain()
        await trio.sleep(TEN_HOURS - 30)
        worker.webbuddy.fail_next(503, endpoint="patch", calls=100_000)
        await trio.sleep(3600)
        assert not worker.ended.is_set()
        assert worker.webbuddy.count("patch", 503) < 200
        worker.webbuddy.faults.clear()
        with trio.fail_after(70):
            await worker.ended.wait()
        assert query.status == "done"


async def test_the_log_still_goes_first(autojump_clock: MockClock) -> None:
    """WebBuddy is away altogether: there is no hurry in which a result would overtake its log."""
    async with at_work() as (worker, query):
        worker.stop.drain()
        await trio.sleep(TEN_HOURS - 30)
        worker.webbuddy.down = True
        await trio.sleep(3600)
        worker.webbuddy.down = False
        await worker.webbuddy.until(lambda: query.status == "done")
        assert query.logs[-1].startswith("Done after")


async def test_what_is_put_aside_waits_for_the_next_start(autojump_clock: MockClock, tmp_path: Path) -> None:
    """As at a stop: a drain would otherwise wait for days, and holds no consumer for it."""

    async def later(query: Query, ctx: Context) -> str:
        if ctx.attempt == 1:
            raise RetryLater(5000)
        return "ok"

    webbuddy = WebBuddy(now=trio_time())
    async with open_worker(later, webbuddy=webbuddy, state_dir=tmp_path) as worker:
        query = webbuddy.add_query("a question")
        await trio.sleep(10)
        worker.stop.drain()
        with trio.fail_after(5):
            await worker.ended.wait()
    assert query.status == "in_progress"
    async with open_worker(later, webbuddy=webbuddy, state_dir=tmp_path):
        await webbuddy.until(lambda: query.status == "done", within=6000)


async def test_a_handler_that_was_left_behind_does_not_hold_it_up(autojump_clock: MockClock) -> None:
    """It has no end: the process is ended by force once all others are through."""
    let_go = trio.Event()

    async def stuck(query: Query, ctx: Context) -> str:
        with trio.CancelScope(shield=True):
            await let_go.wait()
        return "ok"

    async with open_worker(stuck, processing_timeout=10) as worker:
        try:
            assert (await worker.ask("a question")).status == "failed"
            worker.stop.drain()
            with trio.fail_after(30):
                await worker.abandoned.wait()
        finally:
            let_go.set()


@pytest.mark.parametrize("seconds", [3.0, 1e6])
async def test_what_is_open_is_closed_in_the_grace(seconds: float, autojump_clock: MockClock) -> None:
    """That is no query: it may not take for ever."""
    closed: list[float] = []

    @asynccontextmanager
    async def agent() -> AsyncIterator[Handler]:
        yield handle  # type: ignore[misc]
        await trio.sleep(seconds)
        closed.append(trio.current_time())

    async with open_worker(agent) as worker:  # type: ignore[arg-type]
        await trio.sleep(10)
        worker.stop.drain()
        with trio.fail_after(25):
            await worker.ended.wait()
    assert len(closed) == (1 if seconds == 3 else 0)
