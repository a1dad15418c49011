"""What was put back and is claimed here again does not begin at nothing; and who stops takes nothing up."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.forerunner import claimed_by_the_dead, leave_behind, lines
from tests.journals import Disk
from trio_worker import Context, Query
from trio_worker.cli.outbox_journals import change_letters
from trio_worker.query import Done
from trio_worker.state_folder import Address, StateFolder
from trio_worker.testing import RunningWorker, WebBuddy, open_worker


class Agent:
    """A handler that is at work for a time."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.attempts: list[int] = []

    async def handle(self, query: Query, ctx: Context) -> str:
        self.attempts.append(ctx.attempt)
        await trio.sleep(self.seconds)
        return f"answer {query.id}"


def only_entry(worker: RunningWorker) -> tuple[int, int, int, int]:
    """What the journal says of the one query that is held: attempts, retries, deaths, blamed."""
    assert worker.journal is not None
    (entry,) = worker.journal.entries.values()
    return entry.attempts, entry.retries, entry.deaths, entry.blamed


async def test_a_stop_in_the_middle_of_a_rerun_wipes_nothing(
    webbuddy: WebBuddy, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Deployments between its crashes do not make a poison query an innocent one."""
    agent = Agent(seconds=100)
    _, entry = claimed_by_the_dead(
        webbuddy, deaths=2, blamed=2, attempts=3, retries=9, running=False, entries=12
    )
    leave_behind(tmp_path, webbuddy, [entry])
    async with webbuddy.running():
        for attempt in (4, 5, 6):
            async with open_worker(
                agent.handle, webbuddy=webbuddy, state_dir=tmp_path, shutdown_grace=5
            ) as worker:
                with trio.fail_after(60):
                    await webbuddy.until(lambda: len(agent.attempts) == attempt - 3)  # noqa: B023
                assert only_entry(worker) == (attempt, 9, 2, 2)
    assert agent.attempts == [4, 5, 6]


async def test_the_cap_of_entries_is_for_all_claims(
    webbuddy: WebBuddy, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Put back by four stops: the page, which shows 50 entries, still shows all of them."""

    async def handle(query: Query, ctx: Context) -> str:
        for number in range(60):
            ctx.log(f"line {number}")
            await trio.sleep(1)
        await trio.sleep(1000)
        return "never"

    async with webbuddy.running():
        query = webbuddy.add_query("long")
        for _ in range(4):
            async with open_worker(
                handle, webbuddy=webbuddy, state_dir=tmp_path, processing_timeout=5000, shutdown_grace=5
            ):
                await trio.sleep(60)
    assert query.statuses.count("in_progress") == 4
    assert len(query.logs) <= 50


@pytest.mark.parametrize("entries", [35, 39])
async def test_a_query_that_is_at_work_is_never_taken_for_lost(
    entries: int, webbuddy: WebBuddy, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Its log is nearly used up, and a worker elsewhere has lost a claim at the time at which it began."""
    agent, elsewhere = Agent(seconds=290), Agent(seconds=1)
    stored, entry = claimed_by_the_dead(webbuddy, entries=entries, last_number=100)
    leave_behind(tmp_path / "here", webbuddy, [entry])
    async with (
        webbuddy.running(),
        open_worker(
            elsewhere.handle, webbuddy=webbuddy, state_dir=tmp_path / "elsewhere", polling_interval=1e5
        ) as other,
    ):
        await trio.sleep(1)
        assert other.journal is not None
        other.journal.note_lost(webbuddy.now(), webbuddy.now() + 20)
        async with open_worker(
            agent.handle,
            webbuddy=webbuddy,
            state_dir=tmp_path / "here",
            on_crash="requeue",
            polling_interval=5,
        ):
            with trio.fail_after(60):
                await webbuddy.until(lambda: agent.attempts != [])
            with trio.fail_after(400):
                await webbuddy.until(lambda: stored.status == "done")
    assert stored.statuses == ["queued", "in_progress", "queued", "in_progress", "done"]


async def test_who_stops_takes_nothing_up(
    webbuddy: WebBuddy, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A neighbour that dies during our grace does not prolong it: its query waits for the next start."""
    agent = Agent(seconds=30)
    async with webbuddy.running():
        async with open_worker(
            agent.handle, webbuddy=webbuddy, state_dir=tmp_path, shutdown_grace=300
        ) as worker:
            webbuddy.add_query("ours")
            await webbuddy.until(lambda: agent.attempts != [])
            stored, entry = claimed_by_the_dead(webbuddy)
            leave_behind(tmp_path, webbuddy, [entry])
            worker.stop.ask()
            with trio.fail_after(40):
                await worker.ended.wait()
        assert stored.status == "in_progress"
        async with open_worker(agent.handle, webbuddy=webbuddy, state_dir=tmp_path):
            with trio.fail_after(60):
                await webbuddy.until(webbuddy.all_ended)
    assert stored.status == "done"


async def test_what_is_looked_at_while_the_worker_stops_is_put_back(
    webbuddy: WebBuddy, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A neighbour's query that was taken over just before: no consumer is left that could take it."""
    agent = Agent(seconds=30)
    async with (
        webbuddy.running(),
        open_worker(agent.handle, webbuddy=webbuddy, state_dir=tmp_path, shutdown_grace=300) as worker,
    ):
        webbuddy.add_query("ours")
        await webbuddy.until(lambda: agent.attempts != [])
        stored, entry = claimed_by_the_dead(webbuddy)
        leave_behind(tmp_path, webbuddy, [entry])
        webbuddy.slow = 5.0
        await trio.sleep(12)  # it has looked around after ten, and asks now whether the query is still ours
        assert webbuddy.count("read") == 0
        worker.stop.ask()
        with trio.fail_after(60):
            await worker.ended.wait()
    assert (stored.status, len(agent.attempts)) == ("queued", 1)


async def test_a_neighbours_result_of_another_database_is_kept(
    webbuddy: WebBuddy, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """We hold the same number, of another query: the result is a dead letter, not forgotten."""
    agent = Agent(seconds=60)
    async with (
        webbuddy.running(),
        open_worker(agent.handle, webbuddy=webbuddy, state_dir=tmp_path) as worker,
    ):
        stored, entry = claimed_by_the_dead(
            webbuddy, running=False, outcome=Done("an hour's work"), ended_at=webbuddy.now()
        )
        await trio.sleep(1)
        stored.created += 500  # restored from elsewhere: the same number is another query's
        webbuddy.set_status(stored, "queued", webbuddy.accounts[2])
        webbuddy.push(stored.id)
        await webbuddy.until(lambda: agent.attempts != [])
        leave_behind(tmp_path, webbuddy, [entry])
        await trio.sleep(15)
        assert worker.journal is not None
        kept = worker.journal.entries[entry.id]
        assert (kept.outcome, kept.dead is not None) == (Done("an hour's work"), True)


async def test_a_dead_letter_that_is_tried_again_still_has_its_log(
    webbuddy: WebBuddy, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A database was restored from elsewhere, by mistake; the right one is back, and the operator retries."""
    agent = Agent(seconds=1)
    stored, entry = claimed_by_the_dead(webbuddy, running=False, outcome=Done("x"), ended_at=webbuddy.now())
    entry.lines = lines("looking", "found")
    leave_behind(tmp_path, webbuddy, [entry])
    created, stored.created = stored.created, stored.created + 1000
    async with (
        webbuddy.running(),
        open_worker(agent.handle, webbuddy=webbuddy, state_dir=tmp_path) as worker,
    ):
        await trio.sleep(5)
        assert worker.journal is not None
        assert worker.journal.entries[entry.id].dead is not None
        stored.created = created
        place = StateFolder(tmp_path, Address(webbuddy.url, "worker"))
        assert change_letters(place, "retry", [entry.id]) == []
        with trio.fail_after(60):
            await webbuddy.until(lambda: stored.status == "done")
    assert (stored.answer_text, stored.logs) == ("x", ["+1.0s looking · +2.0s found"])


async def test_no_handler_starts_on_what_was_let_go(
    webbuddy: WebBuddy, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A person ends it while the disk takes its time to write down that it is tried again."""
    agent, disk = Agent(seconds=30), Disk()
    stored, entry = claimed_by_the_dead(webbuddy, running=False)
    leave_behind(tmp_path, webbuddy, [entry])
    webbuddy.slow = 0.5  # for the look at the start
    async with (
        webbuddy.running(),
        open_worker(agent.handle, webbuddy=webbuddy, state_dir=tmp_path, watch_interval=2) as worker,
    ):
        await webbuddy.until(lambda: webbuddy.count("read") == 1)
        assert worker.journal is not None
        worker.journal._writer._runner, disk.stuck = disk, True
        await trio.sleep(1.2)
        webbuddy.set_status(stored, "done", webbuddy.accounts[2])
        await webbuddy.until(lambda: webbuddy.count("read", 200) == 2)
        await trio.sleep(0.1)
        disk.go_on()
        await trio.sleep(60)
        assert (agent.attempts, worker.journal.entries) == ([], {})


async def test_what_an_earlier_claim_has_said_late_hides_no_lost_one(
    webbuddy: WebBuddy, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A person requeues it, our next claim is lost, and the handler of the first still logs for a while."""

    async def handle(query: Query, ctx: Context) -> str:
        attempts.append(ctx.attempt)
        if len(attempts) == 1:
            for number in range(1000):
                ctx.log(f"line {number}")
                await trio.sleep(10)
        return "ok"

    attempts: list[int] = []
    async with (
        webbuddy.running(),
        open_worker(
            handle,
            webbuddy=webbuddy,
            state_dir=tmp_path,
            watch_interval=300,
            polling_interval=5,
            processing_timeout=5000,
        ),
    ):
        query = webbuddy.add_query("x")
        await webbuddy.until(lambda: attempts != [])
        await trio.sleep(30)
        webbuddy.cut_next(endpoint="claim_next", after_commit=True)
        webbuddy.set_status(query, "queued", webbuddy.accounts[2])
        await webbuddy.until(lambda: query.status == "in_progress")
        claimed_at = query.history[-1].at
        with trio.fail_after(1000):
            await webbuddy.until(lambda: query.status == "done")
    assert any(entry.at > claimed_at and "line" in entry.text for entry in query.entries)
    assert len(attempts) == 2
