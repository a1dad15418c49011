"""Handlers that can't be stopped: some are put up with, too many make the worker say so and take no more."""

from __future__ import annotations

import math
import threading

import httpx
import pytest
import trio
from structlog.typing import EventDict
from trio.testing import MockClock

from trio_worker import Context, Query, RetryLater
from trio_worker.errand import Errand
from trio_worker.left_behind import LeftBehind
from trio_worker.testing import RunningWorker, open_worker
from trio_worker.web import make_app


def test_more_than_most_are_too_many(events: list[EventDict]) -> None:
    """Tasks and threads together; whoever wants to know is told each number, and once that it is too much."""
    told: list[int] = []
    complaints: list[str] = []
    left = LeftBehind(told.append, most=2, too_many=complaints.append)
    left.add(tasks=1)
    left.add(threads=1)
    assert (left.gate.is_open, left.problem) == (True, None)
    left.add(threads=1)
    left.add(tasks=1)
    assert not left.gate.is_open
    assert left.problem == (
        "4 handlers could not be stopped and still run: with more than 2 of them nothing new is claimed"
    )
    left.add(tasks=-1)
    assert not left.gate.is_open
    left.add(threads=-1)
    assert (left.gate.is_open, left.problem) == (True, None)
    assert told == [1, 2, 3, 4, 3, 2]
    assert complaints == [
        "3 handlers could not be stopped and still run: with more than 2 of them nothing new is claimed"
    ]
    assert [event["log_level"] for event in events] == ["error", "warning"]


class Stuck:
    """Swallows its cancellation until it is let go; at the latest at the end of a ``with`` block."""

    def __init__(self) -> None:
        self.let_go = trio.Event()

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc_info: object) -> None:
        self.let_go.set()

    async def __call__(self, query: Query, ctx: Context) -> str:
        with trio.CancelScope(shield=query.query_text == "stuck"):
            with trio.move_on_after(math.inf if query.query_text == "stuck" else 1):
                await self.let_go.wait()
        return "well"


async def ready(worker: RunningWorker) -> httpx.Response:
    app = make_app(
        pushed=worker.front.pushed,
        own_url=worker.settings.webbuddy_url,
        counts=worker.front.counts,
        readiness=worker.front.readiness,
    )
    transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://worker.test") as client:
        return await client.get("/readyz")


async def test_too_many_is_not_ready(autojump_clock: MockClock) -> None:
    """With more than there are consumers nothing is claimed, and `/readyz` says why, until some end."""
    handler = Stuck()
    async with open_worker(handler, num_workers=2, processing_timeout=10) as worker:
        with handler:
            for note in ("1 handler could not be stopped and still runs", "2 handlers could not be stopped"):
                assert (await worker.ask("stuck")).status == "failed"
                assert (await ready(worker)).json()["notes"]["handler"].startswith(note)
            assert (await worker.ask("other")).status == "done"
            assert (await ready(worker)).status_code == 200
            assert (await worker.ask("stuck")).status == "failed"
            answer = await ready(worker)
            assert answer.status_code == 503
            assert list(answer.json()["reasons"]) == ["handler"]
            assert "handler" not in answer.json().get("notes", {})
            assert answer.json()["reasons"]["handler"].startswith("3 handlers could not be stopped")
            waiting = worker.webbuddy.add_query("other")
            await trio.sleep(300)
            assert waiting.status == "queued"
            handler.let_go.set()
            await worker.webbuddy.until(lambda: waiting.status == "done")
            assert (await ready(worker)).status_code == 200


async def test_threads_count_as_well(autojump_clock: MockClock) -> None:
    """With one consumer the second is one too many.

    Virtual time does not wait for threads, which is what is wanted here: it passes while they are stuck.
    """
    go_on = threading.Event()

    def handle(query: Query, ctx: Context) -> str:
        go_on.wait(60)
        return "well"

    async with open_worker(handle, num_workers=1, processing_timeout=10) as worker:
        try:
            for _ in range(2):
                assert (await worker.ask("stuck")).status == "failed"
            waiting = worker.webbuddy.add_query("other")
            await trio.sleep(300)
            assert waiting.status == "queued"
            assert list(worker.front.readiness.reasons) == ["handler"]
        finally:
            go_on.set()
        await worker.webbuddy.until(lambda: waiting.status != "queued")
        assert worker.front.readiness.reasons == {}


async def test_what_was_put_aside_waits_as_well(autojump_clock: MockClock) -> None:
    """It is held already, and yet would add one more that can't be stopped."""
    handler = Stuck()
    calls: list[int] = []

    async def handle(query: Query, ctx: Context) -> str:
        if query.query_text == "later":
            calls.append(ctx.attempt)
            if ctx.attempt == 1:
                raise RetryLater(100)
        return await handler(query, ctx)

    async with open_worker(handle, num_workers=1, processing_timeout=10) as worker:
        with handler:
            later = worker.webbuddy.add_query("later")
            await worker.webbuddy.until(lambda: calls == [1])
            for _ in range(2):
                assert (await worker.ask("stuck")).status == "failed"
            await trio.sleep(300)
            assert (calls, later.status) == ([1], "in_progress")
            handler.let_go.set()
            with trio.fail_after(5):
                await worker.webbuddy.until(lambda: later.status == "done")
    assert calls == [1, 2]


@pytest.mark.parametrize("stuck", [2, 3])
async def test_an_errand_does_not_wait_for_them(stuck: int, autojump_clock: MockClock) -> None:
    """Nobody would ever let it go on: it ends, and says why it has not done all."""
    handler = Stuck()
    errand = Errand(every=True)
    async with open_worker(handler, num_workers=2, processing_timeout=10, errand=errand) as worker:
        with handler:
            for _ in range(stuck):
                worker.webbuddy.add_query("stuck", push=False)
            rest = [worker.webbuddy.add_query("other", push=False) for _ in range(50)]
            with trio.fail_after(120):
                await worker.abandoned.wait()
            left = [query for query in rest if query.status != "done"]
    assert {query.status for query in left} == (set() if stuck == 2 else {"queued"})
    assert (errand.failure is None) == (stuck == 2)
