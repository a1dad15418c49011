"""Two things in one instant: each was once a query lost, stuck, taken away or answered late."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
import trio
from structlog.typing import EventDict
from trio.testing import MockClock

from trio_worker import Context, Query
from trio_worker.credentials import Credentials
from trio_worker.held import Held
from trio_worker.journal import open_journal
from trio_worker.phrases import ENGLISH
from trio_worker.query import Done
from trio_worker.query import Query as ClaimedQuery
from trio_worker.reporting import Deliveries
from trio_worker.runners import inline
from trio_worker.stop import Stop, only_cancelled
from trio_worker.testing import WebBuddy, open_worker, trio_time
from trio_worker.webbuddy import open_webbuddy


async def long(query: Query, ctx: Context) -> str:
    await trio.sleep(1000)
    return "ok"


async def quick(query: Query, ctx: Context) -> str:
    await trio.sleep(0.02)
    return "answered"


@pytest.mark.parametrize("seconds", [0.3, 1.5])
async def test_claims_that_wait_for_their_turn_are_not_sent_after_the_stop(
    seconds: float, autojump_clock: MockClock
) -> None:
    """While calls take turns many claims wait; sent after the stop, they would leave queries behind."""
    async with open_worker(long, num_workers=20, polling_interval=1000) as worker:
        webbuddy = worker.webbuddy
        await webbuddy.until(lambda: webbuddy.count("claim_next") == 1)
        webbuddy.fail_next(500, endpoint="claim_next")  # SQLite's way to say: one at a time
        worker.front.pushed(1)
        await trio.sleep(5)
        webbuddy.slow = seconds
        for number in range(20):
            webbuddy.add_query(str(number))
        await trio.sleep(0.2)
        began = webbuddy.now()
        worker.stop.ask()
        await worker.ended.wait()
        late = [call for call in webbuddy.requests if call.endpoint == "claim_next" and call.began > began]
    assert late == []
    assert {query.status for query in webbuddy.queries.values()} == {"queued"}


async def test_claims_that_wait_for_the_log_in_are_not_sent_after_the_stop(autojump_clock: MockClock) -> None:
    """The stop comes before the token: the claim that wanted it is not sent any more."""
    webbuddy = WebBuddy(now=trio_time(), slow=4)
    async with open_worker(long, webbuddy=webbuddy) as worker:
        webbuddy.add_query("waits")
        await webbuddy.until(lambda: len(webbuddy.requests) == 1)
        worker.stop.ask()
        await worker.ended.wait()
    assert webbuddy.count("claim_next") == 0


@pytest.mark.parametrize("round_", range(10))  # the order of tasks within one instant is random
async def test_a_loop_that_was_blocked_over_the_deadlines_of_the_stop(
    round_: int, autojump_clock: MockClock
) -> None:
    """The time for the log ends in the same instant as the handler: it is reported all the same."""

    async def blocks(query: Query, ctx: Context) -> str:
        await trio.sleep(19)
        autojump_clock.jump(5.2)  # as `time.sleep` would: nothing else runs meanwhile
        return "done"

    async with open_worker(blocks, num_workers=1) as worker:
        query = worker.webbuddy.add_query("blocks")
        await trio.sleep(1)
        worker.stop.ask()
        await worker.ended.wait()
    assert query.status in ("done", "queued")


@pytest.mark.parametrize("round_", range(5))
async def test_a_release_whose_answer_is_lost_is_not_repeated_on_another_worker(
    round_: int, autojump_clock: MockClock
) -> None:
    """Once it got through, the query belongs to the next worker: its answer must stand."""
    webbuddy = WebBuddy(now=trio_time())
    async with open_worker(long, webbuddy=webbuddy, num_workers=1) as first:
        query = webbuddy.add_query("handed over")
        await webbuddy.until(lambda: query.status == "in_progress")
        await trio.sleep(1)
        async with open_worker(quick, webbuddy=webbuddy, num_workers=1, polling_interval=0.05):
            webbuddy.cut_next(endpoint="patch", after_commit=True)
            first.stop.hurry()
            await first.ended.wait()
            await webbuddy.until(lambda: query.status == "done")
            await trio.sleep(60)
    assert query.statuses == ["queued", "in_progress", "queued", "in_progress", "done"]


async def test_a_release_that_did_not_get_through_is_repeated(autojump_clock: MockClock) -> None:
    """Cut before it was carried out: the query is still ours, so it is put back again."""
    async with open_worker(long, num_workers=1) as worker:
        query = worker.webbuddy.add_query("put back")
        await worker.webbuddy.until(lambda: query.status == "in_progress")
        worker.webbuddy.cut_next(endpoint="patch", after_commit=False)
        worker.stop.hurry()
        await worker.ended.wait()
    assert query.statuses == ["queued", "in_progress", "queued"]
    assert worker.webbuddy.count("read", 200) == 1


@contextmanager
def silent_server() -> Iterator[int]:
    """A port where a connection can be begun and never comes about: its backlog is full."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):
            caller = stack.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(server.getsockname())
        yield server.getsockname()[1]


async def test_a_stop_while_a_connection_is_being_made(events: list[EventDict]) -> None:
    """Trio makes connections in a nursery, so the cancellation comes in a group: it is no crash."""
    stop = Stop(grace=1, reserve=0.3)
    with silent_server() as port:
        url = f"http://127.0.0.1:{port}"
        async with (
            open_journal(None, runner=inline) as journal,
            open_webbuddy(url=url, credentials=Credentials("u", "p"), request_timeout=30) as webbuddy,
            trio.open_nursery() as nursery,
        ):
            deliveries = Deliveries(
                webbuddy=webbuddy,
                nursery=nursery,
                phrases=ENGLISH,
                stop=stop,
                most_waiting=9,
                look_after=30,
                revoke=lambda query, reason: None,
                put_back=lambda: None,
            )
            held, _ = Held.claimed(journal, ClaimedQuery(id=1, project=1), "push", ENGLISH)
            deliveries.of(held).end(Done("a"), "done")
            stop.ask()
            deliveries.close()
            nursery.cancel_scope.deadline = stop.end
    said = [event["event"] for event in events]
    assert not [event for event in said if "crashed" in event]
    assert [event for event in said if "waits for the next start" in event]


def test_only_cancelled() -> None:
    """A group of nothing else is one; a group with anything else is not."""

    async def main() -> BaseException:
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled as error:  # noqa: ASYNC103 - the end of this program
                cancelled = error
        return cancelled

    cancelled = trio.run(main)
    assert only_cancelled(cancelled)
    assert only_cancelled(BaseExceptionGroup("", [BaseExceptionGroup("", [cancelled]), cancelled]))
    assert not only_cancelled(BaseExceptionGroup("", [cancelled, ValueError()]))
    assert not only_cancelled(ValueError())


@pytest.mark.parametrize("status", [400, 403])
async def test_pages_of_somebody_before_the_api_lose_no_result(
    status: int, autojump_clock: MockClock
) -> None:
    """ALLOWED_HOSTS wrong for a minute, or a firewall's page: the answer arrives when that is over."""
    async with open_worker(quick, num_workers=1) as worker:
        await worker.webbuddy.until(lambda: worker.webbuddy.count("claim_next") == 1)
        page = b"<!doctype html><h1>Not here</h1>"
        worker.webbuddy.fail_next(status, calls=5, endpoint="patch", body=page)
        query = await worker.ask("an hour's work")
    assert (query.status, query.answer_text) == ("done", "answered")


async def test_a_tick_is_not_used_up_by_a_query_that_was_pushed(autojump_clock: MockClock) -> None:
    """A tick while the only consumer is busy: the newer query without a push is found as well."""
    begun: dict[str, float] = {}

    async def noted(query: Query, ctx: Context) -> str:
        begun[query.query_text] = trio.current_time()
        await trio.sleep(58 if query.query_text == "first" else 0.1)
        return "ok"

    async with open_worker(noted, num_workers=1, polling_interval=40) as worker:
        worker.webbuddy.add_query("first")
        await trio.sleep(5)
        worker.webbuddy.add_query("pushed")
        worker.webbuddy.add_query("not pushed", push=False)
        await worker.webbuddy.until(worker.webbuddy.all_ended)
    assert begun["not pushed"] - begun["pushed"] < 1


@pytest.mark.parametrize("round_", range(8))
async def test_a_neighbour_that_blocks_the_loop_makes_nobody_a_swallower(
    round_: int, autojump_clock: MockClock
) -> None:
    """Deadline and patience pass while the loop stands still: the handler is cancelled, not left behind."""

    async def handle(query: Query, ctx: Context) -> str:
        if query.query_text == "blocks":
            await trio.sleep(5)
            autojump_clock.jump(12)
            return "ok"
        return await long(query, ctx)

    async with open_worker(handle, num_workers=2, processing_timeout=10) as worker:
        good = worker.webbuddy.add_query("good")
        worker.webbuddy.add_query("blocks")
        await worker.webbuddy.until(worker.webbuddy.all_ended)
    assert good.answer_text == ENGLISH.timeout.format(limit=10)
