"""How many queries wait at WebBuddy: counted while somebody reads it, and by one process. Virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from tests.test_metrics import handle
from trio_worker.figures import PREFIX
from trio_worker.queue_length import READ_WITHIN
from trio_worker.runners import inline
from trio_worker.state_folder import Address, StateFolder
from trio_worker.testing import RunningWorker, WebBuddy, open_worker, trio_time
from trio_worker.webbuddy import MISSING_FOR

EVERY = 30.0
"""Seconds: POLLING_INTERVAL."""


@pytest.fixture
def webbuddy() -> WebBuddy:
    return WebBuddy(now=trio_time())


@asynccontextmanager
async def busy(webbuddy: WebBuddy, *, waiting: int = 3) -> AsyncIterator[RunningWorker]:
    """A worker whose only consumer is at work for days, and what waits behind that."""
    days = 10 * 86_400.0
    settings = {"processing_timeout": days, "max_processing_time": days, "polling_interval": EVERY}
    async with open_worker(handle, webbuddy=webbuddy, num_workers=1, **settings) as worker:
        first = webbuddy.add_query(f"run {days}")
        await webbuddy.until(lambda: first.status == "in_progress")
        for _ in range(waiting):
            webbuddy.add_query("x")
        await trio.sleep(1)
        yield worker
        worker.stop.hurry()


def read(worker: RunningWorker) -> float | None:
    """Read it as `/metrics` does."""
    samples = worker.front.figures.read().get(f"{PREFIX}queue_length")
    return samples[0][1] if samples else None


async def read_on(worker: RunningWorker, *, seconds: float, every: float = 15.0) -> list[float | None]:
    """Read it again and again, as Prometheus does."""
    found = []
    for _ in range(int(seconds / every)):
        found.append(read(worker))
        await trio.sleep(every)
    return found


async def test_it_follows_the_queue(autojump_clock: MockClock, webbuddy: WebBuddy) -> None:
    """The first reading is the wish for it; then it is as old as an interval at most."""
    async with busy(webbuddy) as worker:
        assert read(worker) is None
        await trio.sleep(1)
        assert read(worker) == 3
        webbuddy.add_query("x")
        await trio.sleep(EVERY)
        assert read(worker) == 4


async def test_it_is_counted_once_an_interval(autojump_clock: MockClock, webbuddy: WebBuddy) -> None:
    """However often it is read; and with one call, however many wait."""
    async with busy(webbuddy, waiting=120) as worker:
        assert {*await read_on(worker, seconds=10 * EVERY, every=1)} == {None, 120}
        assert webbuddy.count("by_status") == 10


async def test_it_is_there_for_whoever_reads_seldom(autojump_clock: MockClock, webbuddy: WebBuddy) -> None:
    """A scrape each four minutes finds a number each time but the first."""
    async with busy(webbuddy) as worker:
        assert await read_on(worker, seconds=2400, every=240) == [None, *[3] * 9]


async def test_nobody_pays_for_what_nobody_reads(autojump_clock: MockClock, webbuddy: WebBuddy) -> None:
    """No call before the first reading, and none from five minutes after the last one on."""
    async with busy(webbuddy) as worker:
        await trio.sleep(10 * EVERY)
        assert webbuddy.count("by_status") == 0
        read(worker)
        await trio.sleep(READ_WITHIN + EVERY)
        counted = webbuddy.count("by_status")
        assert 0 < counted <= READ_WITHIN / EVERY + 1
        await trio.sleep(7200)
        assert webbuddy.count("by_status") == counted
        assert read(worker) is None
        await trio.sleep(1)
        assert read(worker) == 3


@pytest.mark.parametrize("answer", ["missing", "404", "405", "403"])
async def test_a_webbuddy_that_does_not_say(
    autojump_clock: MockClock, webbuddy: WebBuddy, answer: str
) -> None:
    """It shows nothing, is said once, and asked again after an hour, when it may have been upgraded."""
    if answer == "missing":
        webbuddy.missing = frozenset({"by_status"})
    else:
        headers = {"Content-Type": "application/json"}
        webbuddy.fail_next(
            int(answer), calls=2, endpoint="by_status", headers=headers, body=b'{"detail": "No."}'
        )
    async with busy(webbuddy) as worker:
        with capture_logs() as lines:
            assert {*await read_on(worker, seconds=2 * MISSING_FOR - 60)} == {None}
        said = [line for line in lines if "how many queries wait" in line["event"]]
        assert [line["log_level"] for line in said] == ["info"]
        assert webbuddy.count("by_status") == 2
        webbuddy.missing = frozenset()
        assert (await read_on(worker, seconds=300))[-1] == 3


async def test_an_old_number_is_not_shown(autojump_clock: MockClock, webbuddy: WebBuddy) -> None:
    """After two intervals without an answer there is none; the first answer brings it back."""
    async with busy(webbuddy) as worker:
        read(worker)
        await trio.sleep(1)
        webbuddy.fail_next(500, calls=4, endpoint="by_status")
        shown = await read_on(worker, seconds=6 * EVERY, every=EVERY)
        assert shown == [3, 3, None, None, None, 3]
        assert worker.front.readiness.reasons == {}


async def test_an_outage_is_not_asked(autojump_clock: MockClock, webbuddy: WebBuddy) -> None:
    """While claims fail it adds no call to them."""
    async with open_worker(handle, webbuddy=webbuddy, polling_interval=EVERY) as worker:
        await trio.sleep(1)
        webbuddy.fail_next(429, calls=10**9, endpoint="claim_next")
        webbuddy.add_query("x")
        await trio.sleep(5)
        assert {*await read_on(worker, seconds=600)} == {None}
        assert webbuddy.count("by_status") == 0
        webbuddy.faults.clear()
        await trio.sleep(120)
        assert (await read_on(worker, seconds=60))[-1] == 0


async def test_without_a_log_in_it_is_not_asked(autojump_clock: MockClock, webbuddy: WebBuddy) -> None:
    """When there is one is for the claims to find out."""
    webbuddy.fail_next(503, calls=10**9, endpoint="login")
    async with open_worker(handle, webbuddy=webbuddy, polling_interval=EVERY) as worker:
        await read_on(worker, seconds=300)
        assert webbuddy.count("by_status") == 0


async def test_one_process_of_a_folder_counts(
    autojump_clock: MockClock, webbuddy: WebBuddy, tmp_path: Path
) -> None:
    """The others show nothing, so that a sum is right; when it has ended, the next one does."""
    folder = StateFolder(tmp_path, Address("http://webbuddy.test", "worker"))
    folder.make()
    async with busy(webbuddy, waiting=0) as one, busy(webbuddy) as other:
        async with other.front.neighbours.open(folder, {}, runner=inline):
            async with one.front.neighbours.open(folder, {}, runner=inline):
                read(one)
                for _ in range(10):
                    await trio.sleep(15)
                    shown = [read(one), read(other)]
                assert shown == [3, None]
                assert webbuddy.count("by_status") == 5
                one.stop.hurry()
                await one.ended.wait()
            await read_on(other, seconds=2 * EVERY)
            assert read(other) == 4  # and what was put back
        other.stop.hurry()
        await other.ended.wait()
    assert list(folder.path.iterdir()) == []
