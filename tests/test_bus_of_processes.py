"""Four real workers, one of which gets all the pushes and is full: the others hear of them over the bus.

How soon is a matter of the machine's speed: ``python -m benchmarks sharing`` says that. Here nobody polls, so
that without a bus nobody would ever hear of anything.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import trio

from tests.processes import TOO_LONG, WorkerProcess, start_worker
from trio_worker.testing import WebBuddy, serve_webbuddy

AGENT = """
import trio

async def handle(query, ctx):
    if query.query_text == "long":
        await trio.sleep_forever()
    return "answered"
"""


async def test_what_is_pushed_to_a_full_worker_is_answered_by_others(tmp_path: Path) -> None:
    """Over the pipe in the folder that they share; by more than one of them, and each query once."""
    webbuddy = WebBuddy()
    async with serve_webbuddy(webbuddy) as url, AsyncExitStack() as stack:
        workers: list[WorkerProcess] = []
        for index in range(4):
            directory = tmp_path / str(index)
            directory.mkdir()
            worker = start_worker(
                directory,
                webbuddy_url=url,
                handler=AGENT,
                NUM_WORKERS="2",
                POLLING_INTERVAL="86400",
                WORKER_NAME=f"worker-{index}",
                WORKER_STATE_DIR=str(tmp_path / "state"),
            )
            workers.append(await stack.enter_async_context(worker))
        for worker in workers:
            await worker.until(lambda line: "Running on http://" in line)
        with trio.fail_after(TOO_LONG):
            await webbuddy.until(
                lambda: webbuddy.count("claim_next", 404) >= 4
            )  # each has looked at its start
            webbuddy.push_url = workers[0].url
            for number in (1, 2):
                webbuddy.add_query("long")
                await webbuddy.until(lambda number=number: len(webbuddy.with_status("in_progress")) == number)
            for number in range(1, 31):
                webbuddy.add_query("short")
                await webbuddy.until(lambda number=number: len(webbuddy.with_status("done")) == number)
        by = [query.logs[0].split("Claimed by ")[1].split()[0] for query in webbuddy.with_status("done")]
        assert "worker-0" not in by
        assert len(set(by)) > 1
        assert all(
            query.statuses == ["queued", "in_progress", "done"] for query in webbuddy.with_status("done")
        )
        assert webbuddy.count("claim_next", 404) <= 4 + 30 // 2
