"""`RetryLater`: a query is put aside, on disk, and holds no consumer."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import trio
from structlog.typing import EventDict
from trio.testing import MockClock

from tests.journals import Disk
from trio_worker import Context, Query, RetryLater, clock
from trio_worker.errand import Errand
from trio_worker.testing import WebBuddy, open_worker, trio_time


class Limited:
    """A handler that meets a rate limit so many times."""

    def __init__(self, times: int, seconds: float = 600) -> None:
        self.times = times
        self.seconds = seconds
        self.called: list[tuple[int, int, float]] = []

    async def handle(self, query: Query, ctx: Context) -> str:
        self.called.append((query.id, ctx.attempt, trio.current_time()))
        if "limited" in query.query_text and ctx.attempt <= self.times:
            raise RetryLater(self.seconds, "rate limit")
        return f"answer {query.id}"


async def test_it_is_tried_again_when_it_is_due(autojump_clock: MockClock) -> None:
    """Not before, and soon after; its author reads why, and the log goes on."""
    agent = Limited(2)
    async with open_worker(agent.handle) as worker:
        query = await worker.ask("limited")
    assert query.statuses == ["queued", "in_progress", "done"]
    assert [attempt for _, attempt, _ in agent.called] == [1, 2, 3]
    times = [at for _, _, at in agent.called]
    assert times[1] - times[0] == pytest.approx(600, abs=1)
    log = " ".join(query.logs)
    assert "Put aside for 600 s: rate limit" in log
    assert "Attempt 3 by test-worker" in log


async def test_it_holds_no_consumer(autojump_clock: MockClock) -> None:
    """One consumer, ten queries aside: the eleventh is answered at once."""
    agent = Limited(1)
    async with open_worker(agent.handle, num_workers=1) as worker:
        for _ in range(10):
            worker.webbuddy.add_query("limited")
        await trio.sleep(5)
        query = worker.webbuddy.add_query("easy")
        with trio.fail_after(1):
            await worker.webbuddy.until(lambda: query.status == "done")
        await worker.webbuddy.until(worker.webbuddy.all_ended)


async def test_what_is_due_comes_before_what_is_new(autojump_clock: MockClock) -> None:
    """A consumer takes what is due before it claims."""

    async def handle(query: Query, ctx: Context) -> str:
        order.append(query.id)
        if query.id == 1 and ctx.attempt == 1:
            raise RetryLater(50, "not yet")
        await trio.sleep(100)
        return "ok"

    order: list[int] = []
    async with open_worker(handle, num_workers=1) as worker:
        worker.webbuddy.add_query("limited")
        await trio.sleep(1)
        for _ in range(3):
            worker.webbuddy.add_query("new")
        await worker.webbuddy.until(worker.webbuddy.all_ended)
    assert order == [1, 2, 1, 3, 4]


async def test_it_has_a_limit_of_its_own(autojump_clock: MockClock) -> None:
    """After so many times it is failed, saying so."""
    agent = Limited(100, seconds=10)
    async with open_worker(agent.handle, max_retries=3) as worker:
        query = await worker.ask("limited")
    assert query.status == "failed"
    assert query.answer_text == ("The agent asked to try again later too often (times: 4, allowed: 3).")
    assert len(agent.called) == 4


async def test_it_survives_a_restart(autojump_clock: MockClock, tmp_path: Path) -> None:
    """Stopped while a query is aside: the next start tries it when it is due, and counts on."""
    agent = Limited(1)
    webbuddy = WebBuddy(now=trio_time())
    async with webbuddy.running():
        async with open_worker(agent.handle, webbuddy=webbuddy, state_dir=tmp_path):
            query = webbuddy.add_query("limited")
            await trio.sleep(100)
            began = trio.current_time()
        assert trio.current_time() - began < 1  # the stop does not wait for it
        assert query.status == "in_progress"
        await trio.sleep(100)
        async with open_worker(agent.handle, webbuddy=webbuddy, state_dir=tmp_path):
            await webbuddy.until(lambda: query.status == "done")
    assert [attempt for _, attempt, _ in agent.called] == [1, 2]
    assert agent.called[1][2] - agent.called[0][2] == pytest.approx(600, abs=2)


@pytest.mark.parametrize("how", ["deleted", "requeued", "answered"])
async def test_one_that_somebody_took_meanwhile_is_forgotten(how: str, autojump_clock: MockClock) -> None:
    """It is looked at before it is run again."""
    agent = Limited(1)
    async with open_worker(agent.handle, polling_interval=1e5) as worker:
        webbuddy = worker.webbuddy
        query = webbuddy.add_query("limited")
        await trio.sleep(100)
        if how == "deleted":
            webbuddy.delete_query(query.id)
        elif how == "requeued":
            webbuddy.requeue(query.id)
        else:
            webbuddy.set_status(query, "done", webbuddy.accounts[2])
        await trio.sleep(1000)
        assert len(agent.called) == 1
        assert webbuddy.count("patch") == 0
        assert worker.journal is not None
        assert worker.journal.entries == {}


@pytest.mark.parametrize("seconds", [-1, math.nan, math.inf, "soon", True, None])
async def test_nonsense_is_the_handlers_error(
    seconds: object, autojump_clock: MockClock, events: list[EventDict]
) -> None:
    """Not put aside for ever, and not a crash."""

    async def handle(query: Query, ctx: Context) -> str:
        raise RetryLater(seconds, "eh")  # type: ignore[arg-type]

    async with open_worker(handle) as worker:
        query = await worker.ask("x")
    assert query.status == "failed"
    assert "ValueError" in query.answer_text


async def test_out_of_a_nursery(autojump_clock: MockClock) -> None:
    """Raised in a task of the handler's own nursery, which wraps it."""

    async def child(ctx: Context) -> None:
        if ctx.attempt == 1:
            raise RetryLater(5, "from within")

    async def handle(query: Query, ctx: Context) -> str:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child, ctx)
            await trio.lowlevel.checkpoint()
        return "ok"

    async with open_worker(handle) as worker:
        assert (await worker.ask("x")).status == "done"


async def test_during_the_stop_it_is_put_back(autojump_clock: MockClock) -> None:
    """Nobody knows whether there will be a next start: another worker may have it at once."""

    async def handle(query: Query, ctx: Context) -> str:
        await trio.sleep(10)
        raise RetryLater(5, "later")

    async with open_worker(handle) as worker:
        query = worker.webbuddy.add_query("x")
        await trio.sleep(1)
    assert query.statuses == ["queued", "in_progress", "queued"]


async def test_requeued_and_claimed_here_again_while_aside(autojump_clock: MockClock) -> None:
    """The old claim is let go for good: when it would be due, the new run is not disturbed."""
    called: list[int] = []

    async def handle(query: Query, ctx: Context) -> str:
        called.append(ctx.attempt)
        if len(called) == 1:
            raise RetryLater(60, "later")
        await trio.sleep(200)
        return "answer"

    async with open_worker(handle, polling_interval=5, watch_interval=1e5) as worker:
        query = worker.webbuddy.add_query("x")
        await trio.sleep(10)
        worker.webbuddy.requeue(query.id)
        with trio.fail_after(300):
            await worker.webbuddy.until(lambda: query.status == "done")
        assert worker.journal is not None
        await trio.sleep(10)
        assert worker.journal.entries == {}
    assert called == [1, 1]


async def test_a_clock_that_is_set_back_puts_nothing_off(autojump_clock: MockClock, tmp_path: Path) -> None:
    """Put aside by a machine whose clock was a year ahead: due at once when it is right again."""
    agent = Limited(1)
    webbuddy = WebBuddy(now=trio_time())
    right = clock.source.set(trio_time(1_795_000_000 + 365 * 86_400))
    async with webbuddy.running(), open_worker(agent.handle, webbuddy=webbuddy, state_dir=tmp_path):
        query = webbuddy.add_query("limited")
        await trio.sleep(10)
    clock.source.reset(right)
    async with webbuddy.running(), open_worker(agent.handle, webbuddy=webbuddy, state_dir=tmp_path):
        with trio.fail_after(10):
            await webbuddy.until(lambda: query.status == "done")


async def test_so_many_put_aside_take_nothing_new(autojump_clock: MockClock, events: list[EventDict]) -> None:
    """A rate limit that puts off each query must not take the whole queue from all other workers."""
    agent = Limited(1, seconds=86_400)
    async with open_worker(agent.handle, num_workers=2) as worker:
        for number in range(300):
            worker.webbuddy.add_query(f"limited {number}", push=False)
        await trio.sleep(3600)
        assert 200 <= len(worker.webbuddy.with_status("in_progress")) <= 202  # both may have been at it
        assert sum("put aside is due" in event["event"] for event in events) == 1
        with trio.fail_after(3 * 86_400):
            await worker.webbuddy.until(worker.webbuddy.all_ended, within=4 * 86_400)


async def test_an_attempt_is_on_disk_before_its_handler_starts(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """Else a handler that kills its worker at once would never be counted."""
    begun: list[float] = []

    async def handle(query: Query, ctx: Context) -> str:
        begun.append(trio.current_time())
        if ctx.attempt == 1:
            raise RetryLater(10, "later")
        return "ok"

    webbuddy, disk = WebBuddy(now=trio_time()), Disk()
    async with open_worker(handle, webbuddy=webbuddy, state_dir=tmp_path) as worker:
        query = webbuddy.add_query("x")
        await trio.sleep(5)
        assert worker.journal is not None
        worker.journal._writer._runner, disk.stuck = disk, True
        await trio.sleep(begun[0] + 12 - trio.current_time())  # it was due two seconds ago
        assert len(begun) == 1
        disk.go_on()
        await webbuddy.until(lambda: query.status == "done")
    assert len(begun) == 2


async def test_an_errand_ends_behind_a_query_that_is_put_aside(autojump_clock: MockClock) -> None:
    """However its tasks take turns: nothing is begun any more that would find the nursery closed."""
    for _ in range(12):  # Trio shuffles the tasks of each round

        async def handle(query: Query, ctx: Context) -> str:
            raise RetryLater(60, "not now")

        webbuddy = WebBuddy(now=trio_time())
        query = webbuddy.add_query("a question", push=False)
        errand = Errand(every=False)
        with trio.fail_after(60):
            async with open_worker(handle, webbuddy=webbuddy, errand=errand, num_workers=1) as worker:
                await worker.ended.wait()
        assert (query.status, errand.waiting) == ("in_progress", 1)
