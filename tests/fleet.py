"""Many workers on one WebBuddy, in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import trio

from trio_worker import Context, Query
from trio_worker.testing import WebBuddy, open_worker
from trio_worker.testing.memory_bus import MemoryBus
from trio_worker.testing.worker import RunningWorker

INTERVAL = 30.0  # of polls, in seconds


async def work(query: Query, ctx: Context) -> str:
    """Take as long as the query says."""
    await trio.sleep(float(query.query_text))
    return "done"


def claims(webbuddy: WebBuddy) -> int:
    """How many claims there were."""
    return webbuddy.count("claim_next")


def waited(webbuddy: WebBuddy, number: int) -> float:
    """Give the seconds from the creation of a query to its claim."""
    query = webbuddy.queries[number]
    assert query.started is not None
    return query.started - query.created


@asynccontextmanager
async def workers(
    webbuddy: WebBuddy, count: int, bus: MemoryBus | None, **settings: object
) -> AsyncIterator[list[RunningWorker]]:
    """Run so many workers on one WebBuddy, which pushes to the first alone. Yields when all rest."""
    async with AsyncExitStack() as stack:
        found: list[RunningWorker] = []
        first: tuple[str | None, httpx.AsyncBaseTransport | None] = None, None
        for index in range(count):
            values: dict[str, Any] = {
                "num_workers": 1,
                "polling_interval": INTERVAL,
                "processing_timeout": 86_400.0,
                "name": f"worker-{index}",
            }
            opened = open_worker(work, webbuddy=webbuddy, bus=bus, **(values | settings))
            found.append(await stack.enter_async_context(opened))
            if not index:
                first = webbuddy.push_url, webbuddy.push_transport
            webbuddy.push_url, webbuddy.push_transport = first
        await trio.sleep(1)
        yield found


async def keep_the_first_busy(webbuddy: WebBuddy) -> None:
    """Give the worker that is pushed to an hour's work."""
    query = webbuddy.add_query("3600")
    await webbuddy.until(lambda: query.status == "in_progress")
    await trio.sleep(1)  # until its claim was counted, too
