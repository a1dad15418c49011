"""What the status page is told, in virtual time: the worker at each moment, and no text of anybody's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from trio_worker import Context, Query, QueryFailed, RetryLater, clock
from trio_worker.joint_overview import MOST_PLACES
from trio_worker.orders import pause
from trio_worker.state_folder import Address, StateFolder
from trio_worker.testing import RunningWorker, WebBuddy, open_worker, trio_time

JSON = {"Content-Type": "application/json"}
SECRET = "what-only-the-author-may-read"


async def handle(query: Query, ctx: Context) -> str:
    what, _, seconds = query.query_text.partition(" ")
    await trio.sleep(float(seconds or 0))
    if what == "fail":
        raise QueryFailed(SECRET)
    if what == "later" and ctx.attempt == 1:
        raise RetryLater(30, SECRET)
    ctx.log(SECRET)
    return SECRET


def shown(worker: RunningWorker) -> dict[str, Any]:
    return worker.front.status_page.snapshots.newest()


def state(worker: RunningWorker) -> tuple[str, str, str]:
    now = shown(worker)["state"]
    return now["level"], now["word"], now["text"]


def changes(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    return {key for key in before if before[key] != after[key]}


async def test_before_the_service_there_is_its_state_alone(autojump_clock: MockClock) -> None:
    """As `/readyz` has it."""
    async with open_worker(handle) as worker:
        assert shown(worker) == {
            "state": {"level": "fair", "word": "Starting", "text": "service: it has not started yet"}
        }


async def test_queries_come_and_go(autojump_clock: MockClock) -> None:
    """Consumers, the last queries, the minutes and the sentence follow them."""
    async with open_worker(handle, num_workers=2, processing_timeout=600, max_processing_time=600) as worker:
        await trio.sleep(10.5)
        start = trio.current_time()
        assert state(worker) == ("good", "Waiting", "all 2 consumers are free; WebBuddy answers.")
        first = worker.webbuddy.add_query("answer 20")
        await trio.sleep(5)
        now = shown(worker)
        assert state(worker) == (
            "good",
            "Working",
            "1 query is at work, 1 consumer is free; WebBuddy answers.",
        )
        began, query, attempt = now["places"][0]
        assert (query, attempt) == (first.id, 1)
        assert began == pytest.approx(trio_time()() - 5, abs=0.1)
        assert now["held"]["at work"] == 1
        second = worker.webbuddy.add_query("fail 1")
        await trio.sleep(30)
        now = shown(worker)
        assert [len(place) for place in now["places"]] == [1, 1]
        failed, done = now["queries"][1], now["queries"][0]
        assert failed[1:5] == [second.id, 1, "push", pytest.approx(0, abs=0.1)]
        assert failed[5:8] == [pytest.approx(1, abs=0.1), "failed", "said_so"]
        assert done[1] == first.id
        assert done[5:8] == [pytest.approx(20, abs=0.1), "done", ""]
        assert now["totals"] == {"done": 1, "failed": 1, "put back": 0, "put aside": 0, "taken away": 0}
        ago, *counts, runs, mean, longest, _, _, _ = now["hour"]["of"][-1]
        assert ago == int(trio.current_time() // 60) - int((start + 20) // 60)
        assert (counts, runs) == ([1, 1, 0], 2)
        assert (mean, longest) == (pytest.approx(10.5, abs=0.1), pytest.approx(20, abs=0.1))
        assert now["held"]["at work"] == 0
        assert now["pushes"]["text"] == "come"


async def test_no_text_of_a_query_or_an_answer_is_shown(autojump_clock: MockClock) -> None:
    """Nor what a handler says of a failure, or logs."""
    async with open_worker(handle, num_workers=4, max_processing_time=900) as worker:
        for text in ("answer", "fail", "later", "answer 500"):
            worker.webbuddy.add_query(f"{text} 1 {SECRET}" if text == "answer 500" else text)
        await trio.sleep(20)
        now = shown(worker)
        assert now["held"]["put aside"] == 1
        assert now["totals"]["done"] == 1
        assert SECRET not in json.dumps(now)


async def test_as_long_as_nothing_happens_it_is_the_same(autojump_clock: MockClock) -> None:
    """So nothing is sent to those who look but for the minute that has passed."""
    async with open_worker(handle, num_workers=2, processing_timeout=600, max_processing_time=600) as worker:
        await trio.sleep(10.5)
        worker.webbuddy.add_query("answer 300")
        await trio.sleep(5)
        before = shown(worker)
        await trio.sleep(20)
        assert changes(before, shown(worker)) == set()
        await trio.sleep(60)
        assert changes(before, shown(worker)) == {"hour"}


async def test_webbuddy_is_away(autojump_clock: MockClock) -> None:
    """For a minute that is trouble, then the worker can't do its job; both say since when, and why."""
    webbuddy = WebBuddy(now=trio_time())
    async with open_worker(handle, webbuddy=webbuddy) as worker:
        await trio.sleep(10)
        webbuddy.down = True
        worker.front.wakeups.tick()
        await trio.sleep(20)
        level, word, text = state(worker)
        assert (level, word) == ("fair", "Waiting")
        assert text.startswith("all 5 consumers are free; WebBuddy has been in trouble for 20 s (")
        await trio.sleep(60)
        level, word, text = state(worker)
        assert (level, word) == ("bad", "Takes nothing new")
        assert text.startswith(
            "for 80 s no query can be claimed (POST /api/queries/claim_next/: no connection"
        )
        webbuddy.down = False
        await trio.sleep(70)
        assert state(worker)[0] == "good"


async def test_a_loop_is_late(autojump_clock: MockClock) -> None:
    """That is worse than anything else."""
    async with open_worker(handle) as worker:
        await trio.sleep(10)
        worker.front.liveness.watch("ticker", lambda: trio.current_time() - 42)
        assert state(worker) == (
            "bad",
            "Ill",
            "ticker: it should have gone on 42 s ago; only a restart helps.",
        )


async def test_a_drain_and_a_stop(autojump_clock: MockClock) -> None:
    """Both say how much is still at work; behind the end nothing holds up those who look."""
    async with open_worker(handle, processing_timeout=600, max_processing_time=600) as worker:
        worker.webbuddy.add_query("answer 100")
        await trio.sleep(10)
        worker.stop.drain()
        assert state(worker) == ("fair", "Draining", "nothing new is taken, 1 query is still at work.")
        worker.stop.ask()
        assert state(worker) == ("fair", "Stopping", "nothing new is taken, 1 query is still at work.")
        assert not worker.front.status_page.snapshots.over.is_set()
        await worker.ended.wait()
        assert worker.front.status_page.snapshots.over.is_set()


async def test_it_is_paused(tmp_path: Path, autojump_clock: MockClock) -> None:
    """That is an operator's will, and no illness."""
    async with open_worker(handle, state_dir=tmp_path, max_processing_time=600) as worker:
        await trio.sleep(5)
        worker.webbuddy.add_query("answer 100")
        await trio.sleep(5)
        pause(StateFolder(tmp_path, Address(worker.settings.webbuddy_url, worker.settings.username)))
        await trio.sleep(5)
        assert state(worker) == ("fair", "Paused", "nothing new is taken, 1 query is still at work.")


async def test_a_dead_letter_has_its_number(autojump_clock: MockClock) -> None:
    """What WebBuddy refuses for good waits for an operator."""
    async with open_worker(handle) as worker:
        query = worker.webbuddy.add_query("answer 10")
        await trio.sleep(5)
        worker.webbuddy.fail_next(400, calls=2, endpoint="patch", headers=JSON, body=b"{}")
        await trio.sleep(60)
        assert shown(worker)["held"]["dead"] == 1
        assert shown(worker)["held"]["dead_ids"] == [query.id]


async def test_pushes_do_not_come(autojump_clock: MockClock) -> None:
    """The page says whether they ever have."""
    async with open_worker(handle, polling_interval=20) as worker:
        await trio.sleep(10)
        assert shown(worker)["pushes"] == {
            "level": "good",
            "text": "have not come yet: queries are found by polls, every 20 s",
            "last": None,
        }
        await worker.ask("answer")
        assert shown(worker)["pushes"]["text"] == "come"
        for _ in range(8):
            await worker.ask("answer", push=False)
        assert shown(worker)["pushes"]["level"] == "fair"
        assert shown(worker)["pushes"]["text"].startswith("have stopped coming: the last ")


async def test_of_very_many_consumers_only_some_are_shown(autojump_clock: MockClock) -> None:
    """A thousand of them would be 30 kB a second."""
    async with open_worker(handle, num_workers=MOST_PLACES + 50) as worker:
        await trio.sleep(10)
        now = shown(worker)
        assert len(now["places"]) == MOST_PLACES
        assert now["consumers"] == {"here": MOST_PLACES + 50, "all": MOST_PLACES + 50, "busy": 0}


async def test_the_wall_clock_is_set(autojump_clock: MockClock) -> None:
    """Times shown follow it, but not its every millisecond, for each would be sent to all who look."""
    ahead = 0.0
    clock.source.set(lambda: trio_time()() + ahead)
    async with open_worker(handle) as worker:
        await trio.sleep(10)
        before = shown(worker)
        ahead = 0.3
        assert changes(before, shown(worker)) == set()
        ahead = 3600
        (since,), (earlier,) = shown(worker)["places"][0], before["places"][0]
        assert since - earlier == pytest.approx(3600, abs=0.01)
