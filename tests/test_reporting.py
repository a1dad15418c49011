"""The result gets to WebBuddy: repeated until it was taken, or until WebBuddy says that it never will be."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
import trio
import trio.testing
from structlog.typing import EventDict
from trio.testing import MockClock

from tests.tapped import Body, TappedWebBuddy
from trio_worker import Context, Query, QueryFailed
from trio_worker.delivery import LOG_PATIENCE
from trio_worker.parts import SPARE_REPORTS
from trio_worker.query import Done
from trio_worker.testing import StoredQuery, WebBuddy, open_worker, trio_time

RARELY = 86_400.0
JSON = {"Content-Type": "application/json"}


async def quick(query: Query, ctx: Context) -> str:
    ctx.log("working")
    await trio.sleep(1)
    ctx.log("worked")
    return f"answer {query.id}"


async def claimed(webbuddy: WebBuddy, number: int = 1) -> None:
    """Wait until so many handlers are at work, with the first entries of their logs shipped."""
    await webbuddy.until(lambda: len(webbuddy.with_status("in_progress")) == number)
    await trio.sleep(0.5)


async def ended(webbuddy: WebBuddy, query: StoredQuery) -> None:
    await webbuddy.until(lambda: query.status in ("done", "failed"))


def named(events: list[EventDict], start: str) -> list[EventDict]:
    return [event for event in events if event["event"].startswith(start)]


# --- What is sent ------------------------------------------------------------------------------------


async def test_what_a_report_says(autojump_clock: MockClock) -> None:
    """`status`, `answer_text` and `query_finished`: aware, in UTC, ISO 8601."""
    body = Body("/api/queries/1/")
    webbuddy = TappedWebBuddy(body)
    async with open_worker(quick, webbuddy=webbuddy) as worker:
        query = await worker.ask("done")
        ended_at = webbuddy.now()
    (report,) = body.seen
    assert set(report) == {"status", "answer_text", "query_finished"}
    assert (report["status"], report["answer_text"]) == ("done", "answer 1")
    finished = datetime.fromisoformat(report["query_finished"])
    assert finished.utcoffset() == timedelta(0)
    assert query.started is not None
    assert query.started + 1 <= finished.timestamp() <= ended_at


async def test_what_a_failure_says(autojump_clock: MockClock) -> None:
    """The reason is the answer's text."""

    async def handle(query: Query, ctx: Context) -> str:
        raise QueryFailed("No such page.")

    body = Body("/api/queries/1/")
    async with open_worker(handle, webbuddy=TappedWebBuddy(body)) as worker:
        await worker.ask("failed")
    (report,) = body.seen
    assert (report["status"], report["answer_text"]) == ("failed", "No such page.")
    assert datetime.fromisoformat(report["query_finished"]).utcoffset() == timedelta(0)


async def test_a_release_leaves_the_answer_alone(autojump_clock: MockClock) -> None:
    """A requeued query keeps the answer of an earlier run; only its status is set."""

    async def handle(query: Query, ctx: Context) -> str:
        await trio.sleep_forever()
        return "never"

    body = Body("/api/queries/1/")
    async with open_worker(handle, webbuddy=TappedWebBuddy(body)) as worker:
        query = worker.webbuddy.add_query("long", answer_text="an earlier one")
        await claimed(worker.webbuddy)
    assert body.seen == [{"status": "queued"}]
    assert query.answer_text == "an earlier one"


# --- Until it was taken ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trouble", ["503", "500", "429", "down", "hang", "cut", "cut after", "garbage", "redirect"]
)
async def test_a_report_is_repeated_for_an_hour(trouble: str, autojump_clock: MockClock) -> None:
    """Whatever keeps it away, the answer is not lost."""
    async with open_worker(quick, request_timeout=10) as worker:
        webbuddy = worker.webbuddy
        query = webbuddy.add_query("patience")
        await claimed(webbuddy)
        for status in ("503", "500", "429"):
            if trouble == status:
                webbuddy.fail_next(int(status), calls=10**6, endpoint="patch")
        webbuddy.down, webbuddy.hang = trouble == "down", trouble == "hang"
        if trouble.startswith("cut"):
            webbuddy.cut_next(calls=10**6, endpoint="patch", after_commit=trouble == "cut after")
        if trouble == "garbage":
            webbuddy.garble_next(calls=10**6, endpoint="patch", after_commit=False)
        if trouble == "redirect":
            webbuddy.fail_next(301, calls=10**6, endpoint="patch", headers={"Location": "/sorry/"})
        await trio.sleep(3600)
        tries = webbuddy.count("patch")
        webbuddy.faults.clear()
        webbuddy.down = webbuddy.hang = False
        with trio.fail_after(70):
            await ended(webbuddy, query)
        assert (query.status, query.answer_text) == ("done", "answer 1")
        if trouble == "cut after":
            assert tries == 1  # a look shows that it had got through
        elif trouble not in ("down", "hang"):
            assert 60 < tries < 400


async def test_retry_after_is_honoured(autojump_clock: MockClock) -> None:
    """A server that asks for ten minutes gets ten minutes."""
    async with open_worker(quick) as worker:
        query = worker.webbuddy.add_query("later")
        await claimed(worker.webbuddy)
        worker.webbuddy.fail_next(503, endpoint="patch", headers={"Retry-After": "600"})
        await ended(worker.webbuddy, query)
        first, second = [call for call in worker.webbuddy.requests if call.endpoint == "patch"]
        assert 600 <= second.began - first.began <= 601


async def test_the_consumer_is_free_meanwhile(autojump_clock: MockClock) -> None:
    """One consumer works on, while the result of the first query can't be reported."""
    async with open_worker(quick, num_workers=1) as worker:
        first = worker.webbuddy.add_query("first")
        await claimed(worker.webbuddy)
        worker.webbuddy.fail_next(503, calls=20, endpoint="patch")
        for number in range(5):
            worker.webbuddy.add_query(f"query {number}")
        await worker.webbuddy.until(lambda: not worker.webbuddy.with_status("queued"))
        assert first.status == "in_progress"
        await worker.webbuddy.until(worker.webbuddy.all_ended)
        for query in worker.webbuddy.queries.values():
            assert query.answer_text == f"answer {query.id}"


async def test_what_waits_to_be_reported_is_bounded(autojump_clock: MockClock) -> None:
    """When so many results wait that no more should, claiming waits; and goes on by itself."""
    consumers = 3
    most = consumers + SPARE_REPORTS
    async with open_worker(quick, num_workers=consumers, polling_interval=RARELY) as worker:
        webbuddy = worker.webbuddy
        await trio.sleep(1)
        webbuddy.fail_next(503, calls=10**6, endpoint="patch")
        for number in range(2 * most):
            webbuddy.add_query(f"query {number}")
        await trio.sleep(1000)
        waiting = len(webbuddy.with_status("in_progress"))
        assert most <= waiting <= most + consumers
        claims = webbuddy.count("claim_next")
        await trio.sleep(1000)
        assert webbuddy.count("claim_next") == claims
        webbuddy.faults.clear()
        with trio.fail_after(300):
            await webbuddy.until(webbuddy.all_ended)
        assert all(query.answer_text == f"answer {query.id}" for query in webbuddy.queries.values())


# --- Never -------------------------------------------------------------------------------------------


async def test_a_refused_result_becomes_a_failure(autojump_clock: MockClock, events: list[EventDict]) -> None:
    """400: once more as `failed`, with what WebBuddy said."""
    async with open_worker(quick) as worker:
        query = worker.webbuddy.add_query("refused")
        await claimed(worker.webbuddy)
        body = b'{"answer_text": ["No swearing."]}'
        worker.webbuddy.fail_next(400, endpoint="patch", headers=JSON, body=body)
        await ended(worker.webbuddy, query)
    assert query.statuses == ["queued", "in_progress", "failed"]
    assert query.answer_text == "WebBuddy did not accept the answer: answer_text: No swearing."
    assert worker.webbuddy.count("patch") == 2
    assert len(named(events, "WebBuddy refused the result")) == 1


async def test_a_failure_that_is_refused_too_is_noted(
    autojump_clock: MockClock, events: list[EventDict]
) -> None:
    """A dead letter: an error in the operator's log; the answer is kept, and the worker goes on."""
    async with open_worker(quick) as worker:
        query = worker.webbuddy.add_query("refused")
        await claimed(worker.webbuddy)
        worker.webbuddy.fail_next(400, calls=2, endpoint="patch", headers=JSON, body=b"{}")
        await trio.sleep(600)
        assert query.status == "in_progress"
        assert worker.webbuddy.count("patch") == 2
        assert (await worker.ask("next")).status == "done"
        assert worker.journal is not None
        (entry,) = [entry for entry in worker.journal.entries.values() if entry.dead is not None]
        assert entry.outcome == Done(f"answer {query.id}")
        assert entry.dead is not None
    (event,) = named(events, "WebBuddy refuses every result")
    assert (event["log_level"], event["query"]) == ("error", query.id)


@pytest.mark.parametrize("when", ["while it runs", "before the report"])
async def test_a_deleted_query_is_gone(when: str, autojump_clock: MockClock, events: list[EventDict]) -> None:
    """404 for its result, or for the look before a second try: noted, not repeated, nobody's error."""
    async with open_worker(quick) as worker:
        query = worker.webbuddy.add_query("gone")
        await claimed(worker.webbuddy)
        if when == "before the report":
            worker.webbuddy.fail_next(503, endpoint="patch")
            await worker.webbuddy.until(lambda: worker.webbuddy.count("patch") == 1)
        worker.webbuddy.delete_query(query.id)
        await trio.sleep(600)
        assert worker.webbuddy.count("patch") == 1
        assert worker.webbuddy.calls["patch" if when == "while it runs" else "read", 404] == 1
        assert (await worker.ask("next")).status == "done"
    assert len(named(events, "the query is no longer ours")) == 1
    assert not [event for event in events if event["log_level"] in ("error", "critical")]


async def test_an_answer_from_a_proxy_is_not_webbuddys_last_word(autojump_clock: MockClock) -> None:
    """A 404 without JSON, or a 405 page: the backend is being replaced; the result is kept."""
    async with open_worker(quick) as worker:
        query = worker.webbuddy.add_query("proxy")
        await claimed(worker.webbuddy)
        worker.webbuddy.fail_next(404, calls=3, endpoint="patch")
        worker.webbuddy.fail_next(405, calls=3, endpoint="patch")
        await ended(worker.webbuddy, query)
    assert (query.status, query.answer_text) == ("done", "answer 1")


# --- Log entries in trouble --------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", ["503", "500", "hang", "cut", "garbage"])
async def test_a_log_that_can_not_be_sent_never_fails_a_query(
    trouble: str, autojump_clock: MockClock, events: list[EventDict]
) -> None:
    """While other calls get through it holds the result back for 60 s, and arrives whole in the end."""

    async def handle(query: Query, ctx: Context) -> str:
        for number in range(100):
            ctx.log(f"line {number}")
            await trio.sleep(1)
        return "well"

    webbuddy = WebBuddy(now=trio_time())
    break_endpoint(webbuddy, "logs", trouble)
    async with open_worker(handle, webbuddy=webbuddy, request_timeout=7) as worker:
        query = await worker.ask("mute")
        assert (query.status, query.answer_text) == ("done", "well")
        assert query.started is not None
        assert query.history[-1].at - query.started == pytest.approx(100 + LOG_PATIENCE, abs=1)
        assert query.logs == []
        webbuddy.faults.clear()
        await webbuddy.until(lambda: bool(query.logs) and "Done after" in query.logs[-1])
    (event,) = named(events, "WebBuddy takes no log entries")
    assert event["query"] == query.id
    text = " ".join(query.logs)
    assert [number for number in range(100) if f"line {number} " not in text + " "] == []


def break_endpoint(webbuddy: WebBuddy, endpoint: str, trouble: str, calls: int = 10**6) -> None:
    how: dict[str, Any] = {"calls": calls, "endpoint": endpoint}
    if trouble == "hang":
        webbuddy.hang_next(**how)
    elif trouble == "cut":
        webbuddy.cut_next(**how)
    elif trouble == "garbage":
        webbuddy.garble_next(**how, after_commit=False)
    else:
        webbuddy.fail_next(int(trouble), **how)


@pytest.mark.parametrize("trouble", ["503", "500", "hang", "cut", "garbage"])
async def test_a_log_that_gets_through_at_last_is_complete(trouble: str, autojump_clock: MockClock) -> None:
    """Trouble that is over before the 30 s are: everything arrives, in order, before the result."""

    async def handle(query: Query, ctx: Context) -> str:
        for number in range(10):
            ctx.log(f"<{number}>")
            await trio.sleep(1)
        return "well"

    webbuddy = WebBuddy(now=trio_time())
    break_endpoint(webbuddy, "logs", trouble, calls=3)
    async with open_worker(handle, webbuddy=webbuddy, request_timeout=5) as worker:
        query = await worker.ask("late")
    text = " ".join(query.logs)
    found = [text.index(f"<{number}>") for number in range(10)]
    assert found == sorted(found)
    assert query.logs[-1].endswith("s")
    assert query.entries[-1].at <= query.history[-1].at


async def test_a_refused_entry_is_dropped_alone(autojump_clock: MockClock, events: list[EventDict]) -> None:
    """400: that entry is never repeated, the others arrive."""

    async def handle(query: Query, ctx: Context) -> str:
        for number in range(5):
            await trio.sleep(1)
            ctx.log(f"<{number}>")
        return "well"

    async with open_worker(handle) as worker:
        query = worker.webbuddy.add_query("odd")
        await claimed(worker.webbuddy)
        worker.webbuddy.fail_next(400, endpoint="logs", headers=JSON, body=b'{"log_data": ["No."]}')
        await ended(worker.webbuddy, query)
    assert query.status == "done"
    assert [text for text in query.logs if text.startswith("<")] == ["<1>", "<2>", "<3>"]
    assert "<4>" in query.logs[-1]
    (event,) = named(events, "WebBuddy refused a log entry")
    assert event["query"] == query.id


async def test_a_result_goes_out_where_only_the_look_is_ill(autojump_clock: MockClock) -> None:
    """A query that can't be read, though all else is answered: after ten minutes it is done without."""

    async def handle(query: Query, ctx: Context) -> str:
        await trio.sleep(40)
        return "answer"

    async with open_worker(handle, watch_interval=0, polling_interval=5) as worker:
        worker.webbuddy.fail_next(502, calls=10**6, endpoint="read")
        query = worker.webbuddy.add_query("x")
        began = trio.current_time()
        with trio.fail_after(900):
            await worker.webbuddy.until(lambda: query.status == "done")
        assert trio.current_time() - began > 600


async def test_a_database_that_was_reset_while_a_result_waits(autojump_clock: MockClock) -> None:
    """The number comes again, for another query: the old result is kept as a dead letter."""
    async with open_worker(quick, polling_interval=5) as worker:
        webbuddy = worker.webbuddy
        webbuddy.add_query("old")
        await claimed(webbuddy)
        webbuddy.fail_next(503, calls=10**6, endpoint="patch")
        await trio.sleep(10)
        webbuddy.reset_database()
        webbuddy.faults.clear()
        new = webbuddy.add_query("new")
        await ended(webbuddy, new)
        await trio.sleep(120)
        assert new.statuses == ["queued", "in_progress", "done"]
        assert worker.journal is not None
        (kept,) = worker.journal.entries.values()
        assert "reset" in (kept.dead or "")
