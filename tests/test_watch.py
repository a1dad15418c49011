"""While a handler works: a query that a person has ended, requeued or deleted is let go."""

from __future__ import annotations

import pytest
import trio
from structlog.typing import EventDict
from trio.testing import MockClock

from trio_worker import Context, Query
from trio_worker.testing import StoredQuery, WebBuddy, open_worker, trio_time

LET_GO = "query is no longer ours; its handler was stopped"


class Agent:
    """A handler that takes its time, and remembers how it ended."""

    def __init__(self) -> None:
        self.cancelled_at: list[float] = []

    async def handle(self, query: Query, ctx: Context) -> str:
        try:
            await trio.sleep(1000)
        except trio.Cancelled:
            self.cancelled_at.append(trio.current_time())
            raise
        return "answer"


def interfere(webbuddy: WebBuddy, query: StoredQuery, how: str) -> None:
    if how == "deleted":
        webbuddy.delete_query(query.id)
    elif how == "requeued":
        webbuddy.requeue(query.id)
    else:
        query.answer_text = "a person's answer"
        webbuddy.set_status(query, how, webbuddy.accounts[2])


@pytest.mark.parametrize("how", ["done", "failed", "deleted"])
async def test_a_query_that_somebody_ended_is_let_go(
    how: str, autojump_clock: MockClock, events: list[EventDict]
) -> None:
    """Its handler is cancelled within the interval, nothing is reported, nothing more is logged."""
    agent = Agent()
    async with open_worker(agent.handle, num_workers=1, processing_timeout=2000) as worker:
        webbuddy = worker.webbuddy
        query = webbuddy.add_query("long")
        await trio.sleep(100)
        interfere(webbuddy, query, how)
        began, logs = trio.current_time(), len(query.logs)
        await trio.sleep(60)
        assert [at - began <= 30 for at in agent.cancelled_at] == [True]
        assert worker.journal is not None
        assert worker.journal.entries == {}
        other = webbuddy.add_query("the consumer is free")
        await webbuddy.until(lambda: other.status == "in_progress")
        assert webbuddy.count("patch") == 0
        assert len(query.logs) == logs
    if how != "deleted":
        assert (query.status, query.answer_text) == (how, "a person's answer")
    assert [event["query"] for event in events if event["event"] == LET_GO] == [query.id]


async def test_a_query_that_was_requeued_is_claimed_anew(autojump_clock: MockClock) -> None:
    """The old run is cancelled and says nothing; the new one is a claim of its own."""
    agent = Agent()
    async with open_worker(
        agent.handle, num_workers=2, processing_timeout=2000, polling_interval=300
    ) as worker:
        webbuddy = worker.webbuddy
        query = webbuddy.add_query("long")
        await trio.sleep(100)
        webbuddy.requeue(query.id)
        await webbuddy.until(lambda: query.status == "done")
    assert len(agent.cancelled_at) == 1
    assert query.statuses == ["queued", "in_progress", "queued", "in_progress", "done"]


async def test_what_is_ours_goes_on(autojump_clock: MockClock) -> None:
    """A thousand seconds, a look every thirty, and nothing else changes."""
    agent = Agent()
    async with open_worker(agent.handle, processing_timeout=2000) as worker:
        query = await worker.ask("long")
    assert (query.status, agent.cancelled_at) == ("done", [])
    assert 25 <= worker.webbuddy.count("read") <= 34


async def test_an_outage_lets_go_of_nothing(autojump_clock: MockClock) -> None:
    """A WebBuddy that can't be asked has not taken anything away."""
    agent = Agent()
    async with open_worker(agent.handle, processing_timeout=2000) as worker:
        query = worker.webbuddy.add_query("long")
        await trio.sleep(100)
        worker.webbuddy.down = True
        await trio.sleep(800)
        worker.webbuddy.down = False
        await worker.webbuddy.until(lambda: query.status == "done")
    assert agent.cancelled_at == []


async def test_where_reads_are_missing_nothing_is_let_go(autojump_clock: MockClock) -> None:
    """The page that answers for an unknown path does not say that a query is gone."""
    agent = Agent()
    webbuddy = WebBuddy(now=trio_time(), missing=frozenset({"read", "by_status"}))
    async with open_worker(agent.handle, webbuddy=webbuddy, processing_timeout=2000) as worker:
        query = await worker.ask("long")
    assert (query.status, agent.cancelled_at) == ("done", [])


async def test_it_can_be_switched_off(autojump_clock: MockClock) -> None:
    """With 0 the handler goes on; only the look before the report finds out."""
    agent = Agent()
    async with open_worker(agent.handle, processing_timeout=2000, watch_interval=0) as worker:
        query = worker.webbuddy.add_query("long")
        await trio.sleep(100)
        assert worker.webbuddy.count("read") == 0
        interfere(worker.webbuddy, query, "failed")
        await trio.sleep(1000)
        assert worker.webbuddy.count("patch") == 0
    assert (agent.cancelled_at, query.status) == ([], "failed")


async def test_many_are_looked_at_by_pages(autojump_clock: MockClock) -> None:
    """With a hundred at work a round is two calls, and the one that was taken away is found."""
    agent = Agent()
    async with open_worker(
        agent.handle, num_workers=100, processing_timeout=2000, polling_interval=1e5
    ) as worker:
        webbuddy = worker.webbuddy
        for _ in range(100):
            webbuddy.add_query("long")
        await webbuddy.until(lambda: len(webbuddy.with_status("in_progress")) == 100)
        await trio.sleep(300)
        assert webbuddy.count("read") == 0
        assert 8 * 2 <= webbuddy.count("by_status") <= 10 * 2
        interfere(webbuddy, webbuddy.queries[50], "done")
        await trio.sleep(60)
        assert len(agent.cancelled_at) == 1


async def test_one_that_comes_to_us_again_is_let_go_at_once(autojump_clock: MockClock) -> None:
    """Requeued, and claimed by another consumer of ours: the first run ends then, not at the next look."""
    agent = Agent()
    async with open_worker(
        agent.handle, num_workers=2, processing_timeout=2000, polling_interval=1
    ) as worker:
        webbuddy = worker.webbuddy
        query = webbuddy.add_query("long")
        await trio.sleep(5)
        webbuddy.requeue(query.id)
        await webbuddy.until(lambda: query.statuses.count("in_progress") == 2)
        again = trio.current_time()
        await webbuddy.until(lambda: query.status == "done")
    assert agent.cancelled_at == [pytest.approx(again, abs=0.1)]
    assert query.statuses.count("done") == 1
