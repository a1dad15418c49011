"""`ctx` against the whole worker: more time, what survives a crash, the project; from threads, too."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio
from structlog.typing import EventDict
from trio.testing import MockClock

from tests.forerunner import claimed_by_the_dead, leave_behind
from trio_worker import Context, PlainContext, Project, Query, RetryLater, clock
from trio_worker.testing import WebBuddy, open_worker, trio_time

# --- deadline and extend ---------------------------------------------------------------------------------


async def test_more_time(autojump_clock: MockClock) -> None:
    """Extended before it is over, the deadline comes later; `ctx.deadline` says when."""
    seen: list[datetime] = []

    async def handle(query: Query, ctx: Context) -> str:
        seen.append(ctx.deadline)
        seen.append(ctx.extend(100))
        seen.append(ctx.deadline)
        await trio.sleep(390)
        return "at last"

    async with open_worker(handle, processing_timeout=300) as worker:
        began = clock.utc_now()
        query = await worker.ask("long")
    assert (query.status, query.answer_text) == ("done", "at last")
    assert seen[1:] == [seen[0] + timedelta(seconds=100)] * 2
    assert abs(seen[0] - began - timedelta(seconds=300)) < timedelta(seconds=5)


async def test_not_for_ever(autojump_clock: MockClock) -> None:
    """Up to `WORKER_MAX_PROCESSING_TIME` from the start of the attempt."""
    seconds: list[float] = []

    async def handle(query: Query, ctx: Context) -> str:
        began = clock.utc_now()
        while True:
            seconds.append((ctx.extend(200) - began).total_seconds())
            await trio.sleep(99)

    async with open_worker(handle, processing_timeout=300, max_processing_time=600) as worker:
        began = trio.current_time()
        query = await worker.ask("endless")
        assert trio.current_time() - began == pytest.approx(600, abs=5)
    assert query.status == "failed"
    assert seconds == pytest.approx([500, 600, 600, 600, 600, 600, 600])


async def test_a_limit_below_the_timeout_changes_nothing(autojump_clock: MockClock) -> None:
    """What an attempt has anyway can't be taken from it."""

    async def handle(query: Query, ctx: Context) -> str:
        ctx.extend(1000)
        await trio.sleep(290)
        return "in time"

    async with open_worker(handle, processing_timeout=300, max_processing_time=10) as worker:
        assert (await worker.ask("x")).answer_text == "in time"


@pytest.mark.parametrize("seconds", [-1, float("inf"), float("nan"), "10", True])
async def test_what_is_no_time(seconds: Any, autojump_clock: MockClock) -> None:
    """It is the handler's mistake, and says so."""
    raised: list[ValueError] = []

    async def handle(query: Query, ctx: Context) -> str:
        with pytest.raises(ValueError, match="expected seconds, 0 or more") as error:
            ctx.extend(seconds)
        raised.append(error.value)
        return "ok"

    async with open_worker(handle) as worker:
        assert (await worker.ask("x")).status == "done"
    assert repr(seconds) in str(raised[0])


async def test_a_stop_is_not_put_off(autojump_clock: MockClock) -> None:
    """A handler that asks for more time when it is cancelled does not get it, and is not told so."""
    told: list[bool] = []

    async def handle(query: Query, ctx: Context) -> str:
        try:
            await trio.sleep_forever()
        finally:
            told.append(ctx.extend(1000) == ctx.deadline < clock.utc_now() + timedelta(seconds=300))
        return "never"

    async with open_worker(handle, shutdown_grace=30) as worker:
        query = worker.webbuddy.add_query("x")
        await worker.webbuddy.until(lambda: query.status == "in_progress")
        await trio.sleep(1)  # or it would not even begin
        worker.stop.ask()
        with trio.fail_after(31):
            await worker.ended.wait()
    assert (query.status, told) == ("queued", [True])


async def test_the_limit_that_was_passed_is_named(autojump_clock: MockClock, events: list[EventDict]) -> None:
    """Not the one that the attempt began with."""

    async def handle(query: Query, ctx: Context) -> str:
        ctx.extend(90.5)
        await trio.sleep_forever()
        return "never"

    async with open_worker(handle, processing_timeout=10) as worker:
        query = await worker.ask("x")
    assert query.answer_text == "The agent ran past its time limit of 100.5 s and was stopped."
    (event,) = [event for event in events if event["event"] == "the handler ran past its time limit"]
    assert event["limit"] == 100.5


async def test_what_is_cancelled_gets_no_more_time(autojump_clock: MockClock) -> None:
    """It swallows its cancellation and asks for more: nothing is promised that is not kept."""
    told: list[timedelta] = []

    async def handle(query: Query, ctx: Context) -> str:
        while True:
            try:
                await trio.sleep_forever()
            except trio.Cancelled:  # noqa: ASYNC103 - what a bad handler does is the matter here
                with trio.CancelScope(shield=True):
                    for _ in range(30):
                        told.append(ctx.extend(1000) - clock.utc_now())
                        await trio.sleep(1)
                return "too late"  # noqa: ASYNC104

    async with open_worker(handle, processing_timeout=10) as worker:
        began = trio.current_time()
        query = await worker.ask("x")
        assert trio.current_time() - began == pytest.approx(15, abs=1)
        await trio.sleep(30)
    assert query.answer_text == "The agent ran past its time limit of 10 s and could not be stopped."
    assert max(told) <= timedelta(0)


async def test_more_time_in_the_very_moment_of_the_deadline() -> None:
    """A thread asks when it is over, and the loop has not yet come to that: what it is told is kept."""
    extended = threading.Event()
    told: list[datetime] = []
    loop = trio.lowlevel.current_trio_token()

    def handle(query: Query, ctx: PlainContext) -> str:
        loop.run_sync_soon(extended.wait, 30)  # stands in for a loop that is busy
        while ctx.deadline > datetime.now(UTC):
            time.sleep(0.01)
        told.append(ctx.extend(60))
        extended.set()
        return "at last"

    with trio.fail_after(60):
        async with open_worker(handle, webbuddy=WebBuddy(), processing_timeout=2) as worker:
            query = await worker.ask("x")
    assert told[0] > datetime.now(UTC) + timedelta(seconds=30)
    assert (query.status, query.answer_text) == ("done", "at last")


# --- save and saved --------------------------------------------------------------------------------------


async def test_what_was_saved_survives_a_crash(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The next attempt finds it, and may save again."""
    seen: list[Any] = []

    async def handle(query: Query, ctx: Context) -> str:
        seen.append(ctx.saved)
        ctx.save({"page": 8, "текст": "х"})
        seen.append(ctx.saved)
        return "ok"

    webbuddy = WebBuddy(now=trio_time())
    _, entry = claimed_by_the_dead(webbuddy, saved='{"page":7}')
    leave_behind(tmp_path, webbuddy, [entry])
    async with webbuddy.running(), open_worker(handle, webbuddy=webbuddy, state_dir=tmp_path):
        await webbuddy.until(webbuddy.all_ended)
    assert seen == [{"page": 7}, {"page": 8, "текст": "х"}]


async def test_it_survives_a_stop(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Put back, and claimed again on the same folder; another worker's attempt begins at nothing."""
    seen: list[Any] = []

    async def handle(query: Query, ctx: Context) -> str:
        seen.append((ctx.attempt, ctx.saved))
        ctx.save([ctx.attempt, "\ud83d"])
        await trio.sleep(100)
        return "ok"

    webbuddy = WebBuddy(now=trio_time())
    async with webbuddy.running():
        query = webbuddy.add_query("x")
        for number in (1, 2, 3):
            async with open_worker(handle, webbuddy=webbuddy, state_dir=tmp_path, shutdown_grace=3):
                await webbuddy.until(lambda: len(seen) == number)  # noqa: B023
        async with open_worker(handle, webbuddy=webbuddy, state_dir=tmp_path / "elsewhere"):
            await webbuddy.until(lambda: query.status == "done")
    assert seen == [(1, None), (2, [1, "\ud83d"]), (3, [2, "\ud83d"]), (1, None)]


async def test_an_attempt_that_is_over_saves_nothing(autojump_clock: MockClock) -> None:
    """A task of its own that has outlived it does not spoil what the next one finds."""
    seen: list[Any] = []

    async def handle(query: Query, ctx: Context) -> str:
        seen.append(ctx.saved)
        if ctx.attempt == 1:
            ctx.save("in time")
            first.append(ctx)
            raise RetryLater(60, "later")
        return "ok"

    first: list[Context] = []
    async with open_worker(handle) as worker:
        query = worker.webbuddy.add_query("x")
        await trio.sleep(30)
        first[0].save("too late")
        await worker.webbuddy.until(lambda: query.status == "done")
    assert seen == [None, "in time"]


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (object(), TypeError),
        ({"a": {1, 2}}, TypeError),
        (float("nan"), ValueError),
        ("x" * 65_536, ValueError),
    ],
)
async def test_what_can_not_be_saved(data: object, error: type[Exception], autojump_clock: MockClock) -> None:
    """The handler is told; what was saved before stays."""

    async def handle(query: Query, ctx: Context) -> str:
        ctx.save("before")
        with pytest.raises(error):
            ctx.save(data)
        return str(ctx.saved)

    async with open_worker(handle) as worker:
        assert (await worker.ask("x")).answer_text == "before"


# --- project ---------------------------------------------------------------------------------------------

SECRET = "jira-token-0123456789"


async def test_the_project(autojump_clock: MockClock) -> None:
    """Asked for once in a minute, by however many; its secrets do not show."""
    found: list[Project | None] = []

    async def handle(query: Query, ctx: Context) -> str:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask, ctx)
        await trio.sleep(61)
        await ask(ctx)
        return str(found[0])

    async def ask(ctx: Context) -> None:
        found.append(await ctx.project())

    async with open_worker(handle) as worker:
        worker.webbuddy.project_settings[1] = {"project_context": "A shop.", "jira_token": SECRET}
        query = await worker.ask("x")
        assert worker.webbuddy.count("project") == 2
    assert found == [Project(id=1, name="Portal", context="A shop.", jira_token=SECRET)] * 4
    assert SECRET not in query.answer_text
    assert "[MASKED]" in query.answer_text


@pytest.mark.parametrize("why", ["an older WebBuddy", "not for this account"])
async def test_no_project(why: str, autojump_clock: MockClock) -> None:
    """None, and the handler goes on."""

    async def handle(query: Query, ctx: Context) -> str:
        return repr(await ctx.project())

    async with open_worker(handle) as worker:
        if why == "an older WebBuddy":
            worker.webbuddy.missing = frozenset({"project"})
        else:
            headers = {"Content-Type": "application/json"}
            worker.webbuddy.fail_next(403, endpoint="project", headers=headers, body=b'{"detail": "No."}')
        assert (await worker.ask("x")).answer_text == "None"


# --- From threads ----------------------------------------------------------------------------------------


async def test_all_of_it_from_a_plain_handler() -> None:
    """In a thread, in real time: nothing has to be awaited."""
    seen: list[object] = []

    def handle(query: Query, ctx: PlainContext) -> str:
        before = ctx.deadline
        seen.append(ctx.extend(50) - before > timedelta(seconds=40))
        ctx.save({"step": 1})
        seen.append(ctx.saved)
        project = ctx.project()
        assert project is not None
        seen.append(project.name)
        ctx.log("from a thread")
        return "ok"

    async with open_worker(handle, webbuddy=WebBuddy()) as worker:
        with trio.fail_after(30):
            query = await worker.ask("x")
    assert (query.status, seen) == ("done", [True, {"step": 1}, "Portal"])
    assert "from a thread" in " ".join(query.logs)


async def test_nothing_of_it_after_the_end(tmp_path: Path) -> None:
    """A thread of the handler's own that lives on is refused politely."""
    kept: list[PlainContext] = []
    seen: list[object] = []

    def handle(query: Query, ctx: PlainContext) -> str:
        ctx.save("before")
        kept.append(ctx)
        return "ok"

    def late() -> None:
        (ctx,) = kept
        ctx.log("too late")
        ctx.save("too late")
        seen.append(ctx.extend(1000) < datetime.now(UTC) + timedelta(seconds=400))

    async with open_worker(handle, webbuddy=WebBuddy(), state_dir=tmp_path) as worker:
        with trio.fail_after(30):
            query = await worker.ask("x")
            await trio.to_thread.run_sync(late)
    thread = threading.Thread(target=late)  # and after the worker itself
    thread.start()
    await trio.to_thread.run_sync(thread.join)
    assert seen == [True, True]
    assert "too late" not in " ".join(query.logs)


async def test_from_a_thread_pool_of_the_handlers_own() -> None:
    """Threads that Trio does not know: all of it works there, also what has to ask WebBuddy."""

    def handle(query: Query, ctx: PlainContext) -> str:
        def work(number: int) -> str:
            ctx.log(f"from thread {number}")
            project = ctx.project()
            assert project is not None
            return f"{project.name} {ctx.extend(1) > ctx.deadline - timedelta(seconds=10)}"

        with ThreadPoolExecutor(4) as threads:
            return ", ".join(threads.map(work, range(4)))

    async with open_worker(handle, webbuddy=WebBuddy()) as worker:
        with trio.fail_after(30):
            query = await worker.ask("x")
    assert query.answer_text == ", ".join(["Portal True"] * 4)
    assert all(f"from thread {number}" in " ".join(query.logs) for number in range(4))


# --- Once the query has ended ----------------------------------------------------------------------------


def try_all(ctx: Context | PlainContext) -> list[object]:
    """Use all of `ctx` that does not wait."""
    ctx.log("too late")
    ctx.save("too late")
    before = ctx.deadline
    return [ctx.attempt, ctx.saved, ctx.extend(1000) - before < timedelta(seconds=100)]


async def test_nothing_of_it_in_a_task_left_behind(tmp_path: Path, autojump_clock: MockClock) -> None:
    """It has swallowed its cancellation. What it does is refused politely, and its question given up."""
    let_go = trio.Event()
    seen: list[object] = []

    async def handle(query: Query, ctx: Context) -> str:
        if query.query_text != "swallow":
            return "well"
        ctx.save("before")
        with trio.CancelScope(shield=True):
            worker.webbuddy.hang_next(endpoint="project")
            seen.append((await ctx.project(), trio.current_time() - began))
            await let_go.wait()
            seen.extend([*try_all(ctx), await ctx.project()])
        return "too late"

    webbuddy = WebBuddy(now=trio_time())
    async with open_worker(
        handle, webbuddy=webbuddy, state_dir=tmp_path, processing_timeout=10, request_timeout=100
    ) as worker:
        began = trio.current_time()
        query = await worker.ask("swallow")
        await trio.sleep(60)
        asked = worker.webbuddy.count("project")
        let_go.set()
        await trio.sleep(1)
        assert worker.webbuddy.count("project") == asked
        assert worker.journal is not None
        assert "too late" not in str(worker.journal.entries)
    assert seen[0] == (None, pytest.approx(15, abs=1))
    assert seen[1:] == [1, "too late", True, None]
    assert "too late" not in " ".join(query.logs)


@pytest.mark.parametrize("whose", ["Trio's", "its own"])
async def test_nothing_of_it_in_a_thread_left_behind(whose: str, tmp_path: Path) -> None:
    """The same, while the worker lives and after it: no exception, and nobody waits for ever."""
    go_on, done = threading.Event(), threading.Event()
    seen: list[object] = []

    def work(ctx: PlainContext) -> None:
        try:
            webbuddy.hang_next(endpoint="project")
            seen.append(ctx.project())
            go_on.wait(60)
            seen.extend([*try_all(ctx), ctx.project()])
        finally:
            done.set()

    def handle(query: Query, ctx: PlainContext) -> str:
        if whose == "Trio's":
            work(ctx)
        else:
            thread = threading.Thread(target=work, args=[ctx])
            thread.start()
            thread.join()
        return "too late"

    webbuddy = WebBuddy()
    with trio.fail_after(60):
        async with open_worker(
            handle, webbuddy=webbuddy, state_dir=tmp_path, processing_timeout=0.5
        ) as worker:
            query = await worker.ask("stuck")
            while not seen:  # noqa: ASYNC110 - a thread; there is nothing else to wait on
                await trio.sleep(0.01)
            go_on.set()
            await trio.to_thread.run_sync(done.wait, 30)
    assert seen == [None, 1, "too late", True, None]
    assert "too late" not in " ".join(query.logs)


def test_nothing_of_it_after_the_worker() -> None:
    """A thread that has outlived the event loop itself."""
    kept: list[PlainContext] = []

    def handle(query: Query, ctx: PlainContext) -> str:
        kept.append(ctx)
        return "ok"

    async def work() -> None:
        async with open_worker(handle, webbuddy=WebBuddy()) as worker:
            with trio.fail_after(30):
                await worker.ask("x")

    trio.run(work)
    with ThreadPoolExecutor(1) as threads:
        found = threads.submit(lambda: [*try_all(kept[0]), kept[0].project()]).result(30)
    assert found == [1, "too late", True, None]
