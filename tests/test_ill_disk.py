"""A disk that is full, while the worker runs: nothing new, what runs ends well, and back by itself."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import httpx
import pytest
import trio
from structlog.typing import EventDict
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.forerunner import leave_behind
from tests.journals import Disk as StuckDisk
from trio_worker import Context, Query
from trio_worker.testing import RunningWorker, WebBuddy, open_worker, trio_time


class Disk:
    """The disk under a worker's journal. SQLite itself says when it is full."""

    def __init__(self, worker: RunningWorker) -> None:
        assert worker.journal is not None
        self.connection = worker.journal._own.file._connection

    def fill(self) -> None:
        (pages,) = self.connection.execute("PRAGMA page_count").fetchone()
        self.connection.execute(f"PRAGMA max_page_count = {pages}")

    def free(self) -> None:
        self.connection.execute("PRAGMA max_page_count = 1000000")


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def handle(query: Query, ctx: Context) -> str:
    ctx.log("x" * 3000)
    await trio.sleep(100)
    ctx.log("y" * 3000)
    return f"answer {query.id} " + "z" * 20_000


async def at_once(query: Query, ctx: Context) -> str:
    return "ok"


async def readiness(worker: RunningWorker) -> httpx.Response:
    assert worker.webbuddy.push_transport is not None
    async with httpx.AsyncClient(
        transport=worker.webbuddy.push_transport, base_url="http://worker.test"
    ) as client:
        return await client.get("/readyz")


async def test_a_full_disk(autojump_clock: MockClock, tmp_path: Path, events: list[EventDict]) -> None:
    """The query that runs is answered, the next waits in the queue, and `/readyz` says why."""
    webbuddy = WebBuddy(now=trio_time())
    async with open_worker(handle, webbuddy=webbuddy, state_dir=tmp_path) as worker:
        first = webbuddy.add_query("first")
        await trio.sleep(50)
        assert (await readiness(worker)).status_code == 200
        disk = Disk(worker)
        disk.fill()
        await webbuddy.until(lambda: first.status == "done")
        assert first.answer_text.startswith("answer 1")
        second = webbuddy.add_query("second")
        await trio.sleep(300)
        assert second.status == "queued"
        answer = await readiness(worker)
        assert answer.status_code == 503
        assert "the disk is full" in answer.json()["reasons"]["journal"]
        disk.free()
        await webbuddy.until(lambda: second.status == "done")
        assert (await readiness(worker)).status_code == 200
    ill = [event for event in events if event["log_level"] == "error"]
    assert len(ill) == 1
    assert "the disk is full" in ill[0]["reason"]
    assert files_in(tmp_path) == []


async def test_a_claim_that_can_not_be_written_down_is_put_back(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """The disk fills up between the mark and the entry: the handler is not started."""
    called: list[int] = []

    async def handle(query: Query, ctx: Context) -> str:
        called.append(query.id)
        return "ok"

    webbuddy = WebBuddy(now=trio_time())
    async with open_worker(handle, webbuddy=webbuddy, state_dir=tmp_path, polling_interval=1e5) as worker:
        await trio.sleep(10)
        webbuddy.slow = 2.0
        query = webbuddy.add_query("long " * 20_000)
        await webbuddy.until(lambda: query.status == "in_progress")
        disk = Disk(worker)
        disk.fill()
        await webbuddy.until(lambda: query.status == "queued")
        assert called == []
        disk.free()
        worker.front.wakeups.tick()
        await webbuddy.until(lambda: query.status == "done")
    assert called == [1]


async def test_a_disk_that_can_not_be_read_delays_a_query_for_the_limit_of_a_claim(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """What neighbours remember of it is looked up under the claim's shield, which has an end."""
    webbuddy, disk = WebBuddy(now=trio_time()), StuckDisk()
    async with open_worker(at_once, webbuddy=webbuddy, state_dir=tmp_path, on_crash="requeue") as worker:
        await wait_all_tasks_blocked()
        assert worker.journal is not None
        worker.journal._runner, disk.stuck = disk, True
        query = webbuddy.add_query("first")
        await webbuddy.until(lambda: query.status == "done", within=60)
        disk.go_on()
    assert trio.current_time() > 30


@pytest.mark.parametrize("spoiled", ["garbage", "newer"])
async def test_at_the_start_it_is_a_clear_error(
    spoiled: str, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """One sentence, nothing claimed, nothing deleted."""
    webbuddy = WebBuddy(now=trio_time())
    query = webbuddy.add_query("waits", push=False)
    path = leave_behind(tmp_path, webbuddy, [])
    if spoiled == "garbage":
        path.write_bytes(b"not a journal at all" * 1000)
    else:
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA user_version = 99")
        connection.close()
    with pytest.RaisesGroup(pytest.RaisesExc(Exception, match="journal"), flatten_subgroups=True):
        async with open_worker(handle, webbuddy=webbuddy, state_dir=tmp_path):
            await trio.sleep(60)
    assert query.status == "queued"
    kept = [file.name for file in files_in(tmp_path)]
    assert any(("unreadable" in name) == (spoiled == "garbage") for name in kept)
    assert len(kept) >= 1
