"""`/readyz`: each reason for which the worker takes nothing new, as it comes and as it goes."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
import trio
from trio.testing import MockClock

from tests.forerunner import claimed_by_the_dead, leave_behind
from trio_worker import Context, Query, RetryLater
from trio_worker.errors import Unavailable
from trio_worker.testing import RunningWorker, WebBuddy, open_worker, trio_time
from trio_worker.web.readiness import Readiness


async def quick(query: Query, ctx: Context) -> str:
    return "ok"


async def slow(query: Query, ctx: Context) -> str:
    await trio.sleep(600)
    return "ok"


def reasons(worker: RunningWorker) -> list[str]:
    return list(worker.front.readiness.reasons)


async def readyz(worker: RunningWorker) -> httpx.Response:
    assert worker.webbuddy.push_transport is not None
    transport = worker.webbuddy.push_transport
    async with httpx.AsyncClient(transport=transport, base_url="http://worker.test") as client:
        return await client.get("/readyz")


def test_before_the_service() -> None:
    """While the journal is opened, for example."""
    assert Readiness().reasons == {"service": "it has not started yet"}


async def test_from_the_start_to_the_stop(autojump_clock: MockClock) -> None:
    """Ready once it has logged in, and until it is asked to stop, though a query still runs."""
    webbuddy = WebBuddy(now=trio_time())
    webbuddy.slow = 2
    async with open_worker(slow, webbuddy=webbuddy, processing_timeout=1000) as worker:
        await trio.sleep(1)
        answer = await readyz(worker)
        assert answer.status_code == 503
        assert answer.json() == {
            "ready": False,
            "reasons": {"login": "it has not logged in to WebBuddy yet"},
        }
        await trio.sleep(10)
        assert ((await readyz(worker)).json()) == {"ready": True, "reasons": {}}
        webbuddy.slow = 0
        webbuddy.add_query("a question")
        await trio.sleep(10)
        worker.stop.ask()
        await trio.sleep(5)
        assert (await readyz(worker)).json() == {"ready": False, "reasons": {"service": "it is stopping"}}


async def test_webbuddy_is_away_from_the_start(autojump_clock: MockClock) -> None:
    """Then it says why it has not logged in, and not that alone."""
    webbuddy = WebBuddy(now=trio_time())
    webbuddy.down = True
    async with open_worker(quick, webbuddy=webbuddy) as worker:
        await trio.sleep(10)
        reason = worker.front.readiness.reasons["login"]
        assert reason.startswith("it has not logged in to WebBuddy yet: POST /api/login/: no connection")
        webbuddy.down = False
        await trio.sleep(60)
        assert reasons(worker) == []


async def test_what_is_noted_though_it_is_ready(autojump_clock: MockClock) -> None:
    """WebBuddy is away for a while with a result to be reported, and pushes are broken: 200, with notes."""

    async def handle(query: Query, ctx: Context) -> str:
        await trio.sleep(20)
        return "ok"

    webbuddy = WebBuddy(now=trio_time())
    async with open_worker(handle, webbuddy=webbuddy) as worker:
        webbuddy.add_query("a question")
        await trio.sleep(10)
        assert "notes" not in (await readyz(worker)).json()
        webbuddy.down = True
        worker.front.health.is_broken = True
        worker.front.wakeups.tick()
        await trio.sleep(35)
        answer = await readyz(worker)
        assert (answer.status_code, answer.json()["ready"]) == (200, True)
        notes = answer.json()["notes"]
        assert notes.pop("webbuddy").startswith("WebBuddy has been in trouble for 35 s (POST ")
        assert notes == {
            "pushes": "pushes have stopped coming",
            "results": "1 result waits to be reported",
        }
        webbuddy.down = worker.front.health.is_broken = False
        await trio.sleep(60)
        assert "notes" not in (await readyz(worker)).json()


async def test_a_minute_without_webbuddy_is_put_up_with(autojump_clock: MockClock) -> None:
    """Longer is a reason, which says for how long, and why; gone with the first good answer."""
    webbuddy = WebBuddy(now=trio_time())
    async with open_worker(quick, webbuddy=webbuddy) as worker:
        await trio.sleep(10)
        webbuddy.down = True
        worker.front.wakeups.tick()
        await trio.sleep(59)
        assert reasons(worker) == []
        await trio.sleep(16)
        assert reasons(worker) == ["webbuddy"]
        reason = worker.front.readiness.reasons["webbuddy"]
        assert reason.startswith(
            "for 75 s no query can be claimed (POST /api/queries/claim_next/: no connection"
        )
        webbuddy.down = False
        await webbuddy.until(lambda: webbuddy.count("claim_next", 404) > 1)
        await trio.sleep(1)
        assert reasons(worker) == []


async def test_a_worker_without_a_free_consumer_notices_as_well(autojump_clock: MockClock) -> None:
    """Nothing is claimed while all are busy: then it is its looks that fail."""
    webbuddy = WebBuddy(now=trio_time())
    async with open_worker(slow, webbuddy=webbuddy, num_workers=1, processing_timeout=1000) as worker:
        webbuddy.add_query("a question")
        await trio.sleep(10)
        webbuddy.down = True
        await trio.sleep(150)
        assert reasons(worker) == ["webbuddy"]
        assert worker.front.readiness.reasons["webbuddy"].endswith("(WebBuddy does not answer)")
        webbuddy.down = False
        await trio.sleep(61)
        assert reasons(worker) == []


async def test_one_call_that_failed_is_no_outage(autojump_clock: MockClock) -> None:
    """Where nothing else is asked of it for long; a second failure, over a minute behind it, is one."""

    async def handle(query: Query, ctx: Context) -> str:
        for _ in range(2):
            await trio.sleep(200)
            with pytest.raises(Unavailable):
                await ctx.project()
        await trio.sleep(200)
        await ctx.project()
        return await slow(query, ctx)

    webbuddy = WebBuddy(now=trio_time())
    async with open_worker(
        handle, webbuddy=webbuddy, polling_interval=3_600, processing_timeout=2_000, watch_interval=0
    ) as worker:
        webbuddy.fail_next(503, endpoint="project", calls=2)
        webbuddy.add_query("a question")
        await trio.sleep(390)
        assert (webbuddy.count("project", 503), reasons(worker)) == (1, [])
        await trio.sleep(200)
        assert (webbuddy.count("project", 503), reasons(worker)) == (2, ["webbuddy"])
        await trio.sleep(200)
        assert (webbuddy.count("project", 200), reasons(worker)) == (1, [])


async def test_that_only_claims_fail_is_a_reason(autojump_clock: MockClock) -> None:
    """The other calls go well, which helps nobody in the queue."""
    webbuddy = WebBuddy(now=trio_time())
    async with open_worker(slow, webbuddy=webbuddy, processing_timeout=1000) as worker:
        webbuddy.add_query("a question")
        await trio.sleep(10)
        webbuddy.fail_next(503, endpoint="claim_next", calls=10_000)
        await trio.sleep(150)
        assert reasons(worker) == ["webbuddy"]
        assert "WebBuddy answered 503" in worker.front.readiness.reasons["webbuddy"]


async def test_that_only_log_entries_fail_is_none(autojump_clock: MockClock) -> None:
    """The query goes on, and more can be claimed."""

    async def handle(query: Query, ctx: Context) -> str:
        ctx.log("at work")
        return await slow(query, ctx)

    webbuddy = WebBuddy(now=trio_time())
    async with open_worker(
        handle, webbuddy=webbuddy, num_workers=1, processing_timeout=1000, watch_interval=0
    ) as worker:
        webbuddy.fail_next(503, endpoint="logs", calls=10_000)
        webbuddy.add_query("a question")
        await trio.sleep(300)
        assert webbuddy.count("logs", 503) > 5
        assert reasons(worker) == []


async def test_a_refused_log_in(autojump_clock: MockClock) -> None:
    """Whoever is told so, a free consumer or a query's look; WebBuddy itself is well."""
    webbuddy = WebBuddy(now=trio_time())
    async with open_worker(slow, webbuddy=webbuddy, num_workers=3, processing_timeout=1000) as worker:
        for number in range(2):
            webbuddy.add_query(f"question {number}")
        await trio.sleep(10)
        webbuddy.refuse_logins = True
        webbuddy.expire_tokens()
        await trio.sleep(300)
        assert reasons(worker) == ["login"]
        assert "refused the log-in of user 'worker'" in worker.front.readiness.reasons["login"]
        await webbuddy.until(lambda: not worker.journal.entries or trio.current_time() > 900)  # type: ignore[union-attr]
        webbuddy.refuse_logins = False
        await trio.sleep(130)
        assert reasons(worker) == []


async def test_too_many_results_wait(autojump_clock: MockClock) -> None:
    """WebBuddy hands out queries, and takes no results."""
    webbuddy = WebBuddy(now=trio_time())
    async with open_worker(quick, webbuddy=webbuddy, num_workers=1) as worker:
        webbuddy.fail_next(503, endpoint="patch", calls=100_000)
        for number in range(80):
            webbuddy.add_query(f"question {number}")
        await trio.sleep(300)
        assert worker.front.readiness.reasons["results"] == (
            "65 results wait to be reported: nothing new is claimed"
        )
        webbuddy.faults.clear()
        await webbuddy.until(webbuddy.all_ended)
        await trio.sleep(1)
        assert reasons(worker) == []


async def test_too_many_are_put_aside(autojump_clock: MockClock) -> None:
    """A handler puts off each query: it would take the whole queue."""

    async def handle(query: Query, ctx: Context) -> str:
        if ctx.attempt == 1:
            raise RetryLater(600)
        return "ok"

    webbuddy = WebBuddy(now=trio_time())
    async with open_worker(handle, webbuddy=webbuddy, num_workers=10) as worker:
        for number in range(210):
            webbuddy.add_query(f"question {number}")
        await trio.sleep(300)
        assert reasons(worker) == ["recovery"]
        assert worker.front.readiness.reasons["recovery"].startswith("200 queries are put aside")
        await webbuddy.until(webbuddy.all_ended)
        assert reasons(worker) == []


async def test_a_query_runs_alone(autojump_clock: MockClock, tmp_path: Path) -> None:
    """Nothing is claimed beside one during which the worker has died twice."""
    webbuddy = WebBuddy(now=trio_time())
    _, entry = claimed_by_the_dead(webbuddy, deaths=1)
    leave_behind(tmp_path, webbuddy, [entry])
    async with open_worker(slow, webbuddy=webbuddy, state_dir=tmp_path, processing_timeout=1000) as worker:
        await trio.sleep(100)
        assert reasons(worker) == ["recovery"]
        assert worker.front.readiness.reasons["recovery"].startswith("a query runs alone")
        await webbuddy.until(webbuddy.all_ended)
        await trio.sleep(1)
        assert reasons(worker) == []
