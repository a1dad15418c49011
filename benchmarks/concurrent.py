"""What 1 000 async queries of a second cost that run at once: ``python -m benchmarks.concurrent``.

`trio-worker run`, with a journal and 1 000 consumers, is a process of its own; this one is its WebBuddy. All
queries are created together, and one push tells of them.

``memory_kb``: by how much the worker's memory (RSS) grew for each query, from idle, with all its consumers
waiting, to all queries at work. For that their handlers wait for the last one.

``over_s``: from the first claim to the end of the last handler, beyond the ideal of 1 s, in which all run
from the first moment on. Claims come one by one, so it is the sum of ``claims_s``, from the first claim to
the last; ``start_s``, from the last claim to the last start of a handler; and, at most, ``late_s``, by which
the latest handler ended too late. ``reported_s`` is from the last handler's end to the last report. The CPU
seconds of both processes, reports included, say what all this waited for.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import httpx
import trio

from trio_worker import Context, Query
from trio_worker.testing import WebBuddy, serve_webbuddy

MARKS = "BENCHMARK_MARKS"  # the variable that names the file in which the handler's times are left
WAIT = "wait"  # the text of a query whose handler waits until it is cancelled
LIMIT = 300.0  # seconds for one run
TICKS = os.sysconf("SC_CLK_TCK")


# --- The worker's side -------------------------------------------------------------------------------


@asynccontextmanager
async def agent() -> AsyncIterator[Callable[[Query, Context], Awaitable[str]]]:
    """The handler; at the end its times are written down."""
    times: list[tuple[float, float]] = []

    async def handle(query: Query, ctx: Context) -> str:
        began = time.time()
        await trio.sleep(LIMIT if query.query_text == WAIT else 1)
        times.append((began, time.time()))
        return "ok"

    yield handle
    await trio.Path(os.environ[MARKS]).write_text(json.dumps(times), encoding="utf-8")


# --- WebBuddy's side ---------------------------------------------------------------------------------


@attrs.frozen
class Worker:
    """The worker's process."""

    process: trio.Process
    url: str
    marks: Path

    def memory(self) -> int:
        """Its resident set, in bytes."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def cpu(self) -> float:
        """Seconds of CPU so far, of all its threads."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    async def ready(self) -> None:
        """Wait until it can work, and then until its consumers have come to rest."""
        async with httpx.AsyncClient() as client:
            while True:
                try:
                    if (await client.get(f"{self.url}/readyz")).status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                await trio.sleep(0.1)
        await self.rests()

    async def rests(self) -> None:
        """Wait until it uses no CPU any more."""
        before = -1.0
        while (now := self.cpu()) > before:
            before = now
            await trio.sleep(1)


@asynccontextmanager
async def open_worker(webbuddy_url: str, number: int) -> AsyncIterator[Worker]:
    """Run the worker; at the end it is stopped."""
    with tempfile.TemporaryDirectory() as directory:
        port = await _free_port()
        marks = Path(directory, "marks.json")
        environ = {
            "WEBBUDDY_URL": webbuddy_url,
            "WORKER_USERNAME": "worker",
            "WORKER_PASSWORD": "secret",
            "WORKER_HANDLER": f"{__spec__.name}:agent",
            "WORKER_BIND": f"127.0.0.1:{port}",
            "WORKER_STATE_DIR": directory,
            "WORKER_LOG_LEVEL": "warning",
            "NUM_WORKERS": str(number),
            MARKS: str(marks),
        }
        command = [sys.executable, "-m", "trio_worker", "run"]
        process = await trio.lowlevel.open_process(
            command, env=os.environ | environ, stdin=subprocess.DEVNULL
        )
        try:
            yield Worker(process, f"http://127.0.0.1:{port}", marks)
        finally:
            process.kill()
            with trio.move_on_after(10, shield=True):
                await process.wait()


async def _free_port() -> int:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        port: int = listener.socket.getsockname()[1]
        return port


def create(webbuddy: WebBuddy, worker: Worker, text: str, number: int) -> None:
    """Create the queries, and push the last."""
    webbuddy.push_url = worker.url
    for n in range(number):
        webbuddy.add_query(text, push=n == number - 1)


async def measure_memory(number: int) -> dict[str, float]:
    """Kilobytes for a query, while all of them are at work."""
    webbuddy = WebBuddy()
    async with serve_webbuddy(webbuddy) as url, open_worker(url, number) as worker:
        await worker.ready()
        idle = worker.memory()
        create(webbuddy, worker, WAIT, number)
        await webbuddy.until(lambda: all(query.entries for query in webbuddy.queries.values()))
        await worker.rests()
        return {"idle_mb": idle / 1e6, "memory_kb": (worker.memory() - idle) / number / 1e3}


async def measure_time(number: int) -> dict[str, float]:
    """Seconds, from the first claim on."""
    webbuddy = WebBuddy()
    async with serve_webbuddy(webbuddy) as url, open_worker(url, number) as worker:
        await worker.ready()
        cpu, own = worker.cpu(), time.process_time()
        create(webbuddy, worker, "a second", number)
        await webbuddy.until(webbuddy.all_ended)
        cpu, own = worker.cpu() - cpu, time.process_time() - own
        reported = time.time()
        worker.process.send_signal(signal.SIGTERM)
        await worker.process.wait()
        times = json.loads(worker.marks.read_text(encoding="utf-8"))
    claimed = [query.started or 0.0 for query in webbuddy.queries.values()]
    assert len(times) == number == len(webbuddy.with_status("done"))
    ended = max(end for _, end in times)
    return {
        "over_s": ended - min(claimed) - 1,
        "claims_s": max(claimed) - min(claimed),
        "start_s": max(began for began, _ in times) - max(claimed),
        "late_s": max(end - began for began, end in times) - 1,
        "reported_s": reported - ended,
        "worker_cpu_s": cpu,
        "webbuddy_cpu_s": own,
    }


async def within_limit(work: Callable[[int], Awaitable[dict[str, float]]], number: int) -> dict[str, float]:
    """Do it, and fail when it takes too long."""
    with trio.fail_after(LIMIT):
        return await work(number)


def main() -> None:
    """Measure, and print the median of each figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    for work in (measure_memory, measure_time):
        runs = [trio.run(within_limit, work, arguments.queries) for _ in range(arguments.runs)]
        medians = {name: round(statistics.median(run[name] for run in runs), 2) for name in runs[0]}
        print(json.dumps({"queries": arguments.queries, **medians}), flush=True)


if __name__ == "__main__":
    main()
