"""The stop: no new query, running ones to their end or back into the queue, all of it within the grace."""

from __future__ import annotations

import threading
import time

import httpx
import pytest
import trio
import trio.testing
from structlog.typing import EventDict
from trio.testing import MockClock

from tests.tapped import TappedWebBuddy
from trio_worker import Context, Query
from trio_worker.phrases import ENGLISH
from trio_worker.query import Released
from trio_worker.stop import Stop, last_resort
from trio_worker.testing import RunningWorker, WebBuddy, open_worker, trio_time

GRACE = 25.0
STOPPING = "the worker is being stopped"


async def sleepy(query: Query, ctx: Context) -> str:
    """Takes as many seconds as the query says."""
    await trio.sleep(float(query.query_text))
    return "well"


async def stubborn(query: Query, ctx: Context) -> str:
    """Swallows its cancellation for as many seconds as the query says."""
    with trio.CancelScope(shield=True):
        await trio.sleep(float(query.query_text))
    return "too late"


async def running(worker: RunningWorker, number: int) -> None:
    """Wait until so many handlers are at work: not before the answers of their claims have arrived."""
    await worker.webbuddy.until(lambda: len(worker.webbuddy.with_status("in_progress")) == number)
    await trio.testing.wait_all_tasks_blocked()


async def stopped(worker: RunningWorker) -> float:
    """Ask for the stop; return the seconds until the service has ended, or its process would have been."""
    began = trio.current_time()
    worker.stop.ask()
    async with trio.open_nursery() as nursery:

        async def first(event: trio.Event) -> None:
            await event.wait()
            nursery.cancel_scope.cancel()

        nursery.start_soon(first, worker.ended)
        nursery.start_soon(first, worker.abandoned)
    return trio.current_time() - began


# --- The plan ----------------------------------------------------------------------------------------


async def test_the_deadlines_of_a_stop(autojump_clock: MockClock) -> None:
    """25 s: handlers have 20, those that clean up 1.25 more, everything is over a second before the end."""
    stop = Stop(grace=25, reserve=5)
    await trio.sleep(100)
    stop.ask()
    assert stop.asked.is_set()
    assert (stop.work_until, stop.leave_until, stop.end, stop.closed) == (120, 121.25, 124, 124)
    await trio.sleep(10)
    stop.ask()
    assert stop.work_until == 120


async def test_a_share_for_closing(autojump_clock: MockClock) -> None:
    """Where the handler has opened something, the service is over a fifth of the reserve earlier."""
    stop = Stop(grace=25, reserve=5, closes=True)
    stop.ask()
    assert (stop.work_until, stop.leave_until, stop.end, stop.closed) == (20, 21.25, 23, 24)


async def test_a_stop_that_nobody_has_signalled_is_forced_as_well(autojump_clock: MockClock) -> None:
    """The watchdog knows when it is to be over: what follows may block the loop."""
    stop = Stop(grace=25, reserve=5)
    began = time.monotonic()
    stop.ask()
    assert began + 25 <= stop.forced_end <= time.monotonic() + 25
    stop.hurry()
    assert began + 2 <= stop.forced_end <= time.monotonic() + 2


async def test_a_hurried_stop_is_over_within_two_seconds(autojump_clock: MockClock) -> None:
    """A second signal: now."""
    stop = Stop(grace=25, reserve=5)
    stop.ask()
    await trio.sleep(3)
    stop.hurry()
    stop.hurry()
    assert (stop.work_until, stop.leave_until, stop.end) == (3, 3.5, 4.6)


async def test_hurrying_late_prolongs_nothing(autojump_clock: MockClock) -> None:
    """A second signal in the last moment of the grace leaves the end where it was."""
    stop = Stop(grace=25, reserve=5)
    stop.ask()
    await trio.sleep(23.5)
    stop.hurry()
    assert (stop.work_until, stop.leave_until, stop.end) == (20, 21.25, 24)


async def test_hurry_alone_is_a_stop(autojump_clock: MockClock) -> None:
    """A crash hurries without having asked."""
    stop = Stop(grace=25, reserve=5)
    stop.hurry()
    assert stop.asked.is_set()
    assert stop.end == 1.6


@pytest.mark.parametrize("how", ["asked", "hurried", "cancelled", "crashed"])
async def test_the_last_resort(how: str, autojump_clock: MockClock) -> None:
    """What swallows its cancellation does not keep the process: `abandon` is called at the end."""
    abandoned_at: list[float] = []
    stop = Stop(grace=25, reserve=5)
    with trio.move_on_after(200, shield=False) as outer:
        try:
            async with last_resort(stop, lambda: abandoned_at.append(trio.current_time())):
                {"asked": stop.ask, "hurried": stop.hurry, "cancelled": outer.cancel, "crashed": stop.hurry}[
                    how
                ]()
                with trio.CancelScope(shield=True):
                    await trio.sleep(100)
                if how == "crashed":
                    raise ValueError  # noqa: TRY301
        except* ValueError:
            pass
    assert abandoned_at == pytest.approx([24.1 if how == "asked" else 1.7])


@pytest.mark.parametrize("how", ["asked", "not asked", "cancelled", "crashed"])
async def test_the_last_resort_is_not_needed(how: str, autojump_clock: MockClock) -> None:
    """When the body ends by itself, in time, nothing is abandoned."""
    stop = Stop(grace=25, reserve=5)
    with trio.CancelScope() as outer:
        try:
            async with last_resort(stop, lambda: pytest.fail("abandoned")):
                if how == "asked":
                    stop.ask()
                    await trio.sleep(20)
                if how == "cancelled":
                    outer.cancel()
                    await trio.sleep_forever()
                if how == "crashed":
                    raise ValueError  # noqa: TRY301
        except* ValueError:
            pass
    await trio.sleep(100)


# --- Within the grace --------------------------------------------------------------------------------


async def test_an_idle_worker_stops_at_once(autojump_clock: MockClock) -> None:
    """Nobody waits for the grace without need."""
    async with open_worker(sleepy) as worker:
        await trio.sleep(100)
        assert await stopped(worker) == 0


async def test_running_queries_are_finished_and_no_new_one_is_taken(autojump_clock: MockClock) -> None:
    """Within the grace; with their log entries."""
    async with open_worker(sleepy, num_workers=2) as worker:
        for seconds in ("5", "10", "1"):
            worker.webbuddy.add_query(seconds)
        await running(worker, 2)
        assert await stopped(worker) == pytest.approx(10, abs=0.1)
        first, second, third = worker.webbuddy.queries.values()
        assert (first.status, second.status, third.status) == ("done", "done", "queued")
        assert third.statuses == ["queued"]
        assert second.logs[-1] == "Done after 10.0 s"
        later = worker.webbuddy.add_query("1")
        await trio.sleep(100)
        assert later.statuses == ["queued"]


async def test_those_over_the_time_are_put_back(autojump_clock: MockClock) -> None:
    """Cancelled when the grace less its reserve is over; back in the queue, with a word in their log."""
    async with open_worker(sleepy) as worker:
        for seconds in ("19", "1000", "1000"):
            worker.webbuddy.add_query(seconds)
        await running(worker, 3)
        assert await stopped(worker) == pytest.approx(GRACE - 5, abs=0.1)
        done, *others = worker.webbuddy.queries.values()
        assert done.status == "done"
        for query in others:
            assert query.statuses == ["queued", "in_progress", "queued"]
            assert query.logs[-1] == f"Put back into the queue after 20.0 s: {STOPPING}"
            assert query.answer_text == ""
    assert not worker.abandoned.is_set()


async def test_where_queued_is_refused_the_query_fails_with_the_reason(autojump_clock: MockClock) -> None:
    """A WebBuddy that lets nobody put back: the user is told, rather than left waiting for ever."""
    async with open_worker(sleepy) as worker:
        query = worker.webbuddy.add_query("1000")
        await running(worker, 1)
        worker.webbuddy.fail_next(
            400,
            endpoint="patch",
            headers={"Content-Type": "application/json"},
            body=b'{"status": ["\\"queued\\" is not a valid choice."]}',
        )
        await stopped(worker)
        assert query.statuses == ["queued", "in_progress", "failed"]
        assert query.answer_text == STOPPING


async def test_a_query_is_put_back_only_when_its_handler_has_cleaned_up(autojump_clock: MockClock) -> None:
    """Else another worker would claim it while this handler still works on it."""
    ended_at: list[float] = []

    async def handle(query: Query, ctx: Context) -> str:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
                ctx.log("cleaned up")
                ended_at.append(worker.webbuddy.now())
        return "never"

    async with open_worker(handle) as worker:
        query = worker.webbuddy.add_query("tidy")
        await running(worker, 1)
        assert await stopped(worker) < GRACE
        assert query.status == "queued"
        assert query.history[-1].at >= ended_at[0]
        assert "cleaned up" in query.logs[-1]


@pytest.mark.parametrize(
    "trouble", ["none", "down", "hang", "slow", "500", "logs hang", "logs refused", "handler"]
)
async def test_everything_is_over_within_the_grace(trouble: str, autojump_clock: MockClock) -> None:
    """Whatever WebBuddy or a handler does, the process is gone in time; and what can be put back is."""
    async with open_worker(stubborn if trouble == "handler" else sleepy) as worker:
        webbuddy = worker.webbuddy
        for _ in range(3):
            webbuddy.add_query("1000")
        await running(worker, 3)
        if trouble == "down":
            webbuddy.down = True
        elif trouble == "hang":
            webbuddy.hang = True
        elif trouble == "slow":
            webbuddy.slow = 1.0
        elif trouble == "500":
            webbuddy.fail_next(500, calls=10)
        elif trouble == "logs hang":
            webbuddy.hang_next(calls=1000, endpoint="logs")
        elif trouble == "logs refused":
            webbuddy.fail_next(400, calls=1000, endpoint="logs")
        seconds = await stopped(worker)
        assert seconds < GRACE
        if trouble not in ("down", "hang"):
            assert not webbuddy.with_status("in_progress")
            assert len(webbuddy.with_status("queued")) == 3
        assert worker.abandoned.is_set() == (trouble == "handler")
        if trouble == "handler":
            assert seconds > GRACE - 1.1  # it might still come to its senses
            await worker.ended.wait()
        webbuddy.down = webbuddy.hang = False
    if trouble == "handler":
        assert all(query.statuses[-1] == "queued" for query in webbuddy.queries.values())


async def test_what_could_not_be_reported_is_said(autojump_clock: MockClock, events: list[EventDict]) -> None:
    """A query that WebBuddy still takes for in_progress is a warning; the journal has it."""
    async with open_worker(sleepy) as worker:
        query = worker.webbuddy.add_query("1000")
        await running(worker, 1)
        worker.webbuddy.down = True
        await stopped(worker)
        assert worker.journal is not None
        assert [entry.outcome for entry in worker.journal.entries.values()] == [Released(ENGLISH.stopping)]
    (event,) = [event for event in events if event["event"].startswith("WebBuddy has not heard how")]
    assert (event["log_level"], event["query"]) == ("warning", query.id)


async def test_a_result_that_could_not_go_out_goes_out_during_the_stop(autojump_clock: MockClock) -> None:
    """WebBuddy was down, with a long pause between two tries; the stop shortens the pauses."""
    async with open_worker(sleepy) as worker:
        query = worker.webbuddy.add_query("1")
        await running(worker, 1)
        worker.webbuddy.down = True
        await trio.sleep(600)
        worker.webbuddy.down = False
        assert await stopped(worker) < 2
        assert (query.status, query.answer_text) == ("done", "well")


async def test_during_the_stop_reports_are_tried_often(autojump_clock: MockClock) -> None:
    """WebBuddy comes back in the middle of the stop, after an outage with long pauses: soon enough."""
    async with open_worker(sleepy) as worker:
        query = worker.webbuddy.add_query("1")
        await running(worker, 1)
        worker.webbuddy.down = True
        await trio.sleep(600)
        async with trio.open_nursery() as nursery:

            async def come_back() -> None:
                await trio.sleep(10)
                worker.webbuddy.down = False

            nursery.start_soon(come_back)
            assert await stopped(worker) == pytest.approx(10, abs=1.2)
        assert (query.status, query.answer_text) == ("done", "well")


async def test_a_refused_log_in_is_tried_once_more_at_the_stop(autojump_clock: MockClock) -> None:
    """Whoever mends the password restarts the worker: its results must not wait out the minute."""
    async with open_worker(sleepy) as worker:
        query = worker.webbuddy.add_query("10")
        await running(worker, 1)
        worker.webbuddy.refuse_logins = True
        worker.webbuddy.expire_tokens()
        await trio.sleep(25)
        assert query.status == "in_progress"
        worker.webbuddy.refuse_logins = False
        assert await stopped(worker) < 2
        assert (query.status, query.answer_text) == ("done", "well")


async def test_a_plain_function_does_not_hold_the_stop_up(events: list[EventDict]) -> None:
    """Its thread goes on, is named, and its query is put back. (Real clock.)"""
    release = threading.Event()
    started = trio.Event()

    def handle(query: Query, ctx: Context) -> str:
        trio.from_thread.run_sync(started.set)
        release.wait(60)
        return "too late"

    with trio.fail_after(60):
        async with open_worker(handle) as worker:
            query = worker.webbuddy.add_query("stuck")
            await started.wait()
            worker.stop.ask()
            worker.stop.hurry()
            await worker.ended.wait()
            assert query.status == "queued"
    release.set()
    assert any(event["event"].startswith("a thread was left behind") for event in events)


# --- A claim under way -------------------------------------------------------------------------------


async def test_a_claim_under_way_is_seen_through_and_its_query_put_back(autojump_clock: MockClock) -> None:
    """Cut off half-way, its query would be nobody's for ever."""
    async with open_worker(sleepy) as worker:
        await trio.sleep(1)
        worker.webbuddy.slow = 6
        query = worker.webbuddy.add_query("1")
        await worker.webbuddy.until(lambda: worker.webbuddy.under_way == 1)
        await trio.sleep(1)
        assert await stopped(worker) < GRACE
        assert query.statuses == ["queued", "in_progress", "queued"]


async def test_a_claim_under_way_at_a_hurried_stop_is_seen_through(autojump_clock: MockClock) -> None:
    """Also "now" leaves a claim half a second to come back."""
    async with open_worker(sleepy) as worker:
        await trio.sleep(1)
        worker.webbuddy.slow = 0.3
        query = worker.webbuddy.add_query("1")
        await worker.webbuddy.until(lambda: worker.webbuddy.under_way == 1)
        worker.stop.hurry()
        await worker.ended.wait()
        assert query.statuses == ["queued", "in_progress", "queued"]


async def test_a_claim_that_hangs_ends_with_the_grace(autojump_clock: MockClock) -> None:
    """No claim outlives the stop, though it may take a minute otherwise."""
    async with open_worker(sleepy) as worker:
        await trio.sleep(1)
        worker.webbuddy.hang = True
        worker.webbuddy.add_query("1")
        await worker.webbuddy.until(lambda: worker.webbuddy.under_way == 1)
        assert await stopped(worker) < GRACE
        worker.webbuddy.hang = False
    assert not worker.abandoned.is_set()


async def test_a_stop_during_an_outage(autojump_clock: MockClock) -> None:
    """Nobody waits for the pause between two tries."""
    async with open_worker(sleepy) as worker:
        worker.webbuddy.down = True
        await trio.sleep(1000)
        assert await stopped(worker) == 0


# --- Now ---------------------------------------------------------------------------------------------


async def test_the_second_signal_means_now(autojump_clock: MockClock) -> None:
    """Running queries are put back at once."""
    async with open_worker(sleepy) as worker:
        query = worker.webbuddy.add_query("1000")
        await running(worker, 1)
        worker.stop.ask()
        await trio.sleep(3)
        began = trio.current_time()
        worker.stop.hurry()
        await worker.ended.wait()
        assert trio.current_time() - began < 0.1
        assert query.statuses == ["queued", "in_progress", "queued"]


async def test_now_with_a_handler_that_swallows(autojump_clock: MockClock) -> None:
    """It is left behind after half a second, its query put back, and the process ended within two."""
    async with open_worker(stubborn) as worker:
        query = worker.webbuddy.add_query("100")
        await running(worker, 1)
        began = trio.current_time()
        worker.stop.hurry()
        await worker.abandoned.wait()
        assert trio.current_time() - began < 2
        assert query.statuses == ["queued", "in_progress", "queued"]


# --- Cancelled from outside --------------------------------------------------------------------------


@pytest.mark.parametrize("claiming", [False, True])
async def test_cancelled_from_outside_it_still_puts_back(claiming: bool, autojump_clock: MockClock) -> None:
    """As hypercorn may do: no grace, but what runs goes back into the queue within two seconds."""
    webbuddy = WebBuddy(now=trio_time())
    async with webbuddy.running():
        with trio.CancelScope() as outside:
            async with open_worker(sleepy, webbuddy=webbuddy) as worker:
                query = webbuddy.add_query("1000")
                await running(worker, 1)
                if claiming:
                    webbuddy.hang_next(endpoint="claim_next")
                    webbuddy.add_query("1000")
                    await webbuddy.until(lambda: webbuddy.requests[-1].endpoint == "claim_next")
                await trio.sleep(1)
                began = trio.current_time()
                outside.cancel()
        assert trio.current_time() - began < 2
        assert query.statuses == ["queued", "in_progress", "queued"]
        assert not worker.abandoned.is_set()


# --- A crash of any part -----------------------------------------------------------------------------


class BugError(Exception):
    """Nothing that a call to WebBuddy may raise."""


class Bug:
    """Breaks one call of a path, once it is armed: nothing that the worker is prepared for."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.armed = False

    def __call__(self, request: httpx.Request) -> None:
        if self.armed and request.url.path.endswith(self.path):
            self.armed = False
            raise BugError(self.path)


@pytest.mark.parametrize("part", ["claim_next/", "logs/", "queries/4/"])
@pytest.mark.parametrize("others", ["sleep", "swallow", "claim"])
async def test_a_crash_ends_the_service_with_its_exception(
    part: str, others: str, autojump_clock: MockClock, events: list[EventDict]
) -> None:
    """A bug in a consumer or in a delivery: never half alive; running queries are put back in two seconds.

    Also when another handler swallows its cancellation, or another claim hangs meanwhile.
    """
    bug = Bug(part)
    webbuddy = TappedWebBuddy(bug)
    ended_at: list[float] = []

    async def handle(query: Query, ctx: Context) -> str:
        if query.query_text == "short":
            return "well"
        with trio.CancelScope(shield=others == "swallow"):
            await trio.sleep(200)
        return "never"

    async def note_the_end(event: trio.Event) -> None:
        await event.wait()
        ended_at.append(trio.current_time())

    async def crash() -> None:
        async with open_worker(handle, webbuddy=webbuddy, num_workers=6) as worker:
            nursery.start_soon(note_the_end, worker.abandoned)
            for _ in range(3):
                webbuddy.add_query("long")
            await running(worker, 3)
            await trio.sleep(5)
            if others == "claim":
                webbuddy.hang_next(endpoint="claim_next")
                worker.front.wakeups.tick()
                await trio.sleep(0.1)
            bug.armed = True
            began.append(trio.current_time())
            webbuddy.add_query("short")
            await trio.sleep_forever()

    began: list[float] = []
    async with webbuddy.running(), trio.open_nursery() as nursery:
        with pytest.RaisesGroup(BugError, flatten_subgroups=True):
            await crash()
        ended_at.append(trio.current_time())
        nursery.cancel_scope.cancel()
    assert ended_at[0] - began[0] < 2.5
    assert (len(ended_at) == 2) == (others == "swallow")  # then `abandon` was called, before the end
    (event,) = [event for event in events if event["event"].startswith("a part of the service has crashed")]
    assert isinstance(event["exc_info"], BugError)
    for query in list(webbuddy.queries.values())[:3]:
        assert query.statuses == ["queued", "in_progress", "queued"]
