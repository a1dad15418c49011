"""Four workers, one of which gets all pushes and is full: how soon do the others claim?"""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.contestants import start_ours
from benchmarks.figures import Amounts, Figure, at_most, percentile
from benchmarks.process import until
from benchmarks.webbuddy import TEXT, open_webbuddy

__all__ = ["sharing"]

WORKERS, CONSUMERS = 4, 2
PAUSE = 0.02  # seconds between a query's end and the next push, on average
BUSY = "sleep 280"  # within the time limit
WITHOUT = 12  # pushes, each of which waits for a poll
LONG = 1800.0  # seconds


def sharing(amounts: Amounts) -> list[Figure]:
    """Push to the full one: without a bus, over the pipe of one machine, and over Redis."""
    with tempfile.TemporaryDirectory() as folder:
        figures = [
            *_figures("no bus", min(WITHOUT, amounts.pushes), None),
            *_figures("bus of one machine", amounts.pushes, 250, WORKER_STATE_DIR=folder),
        ]
    with _redis() as url:
        if url is None:
            return [*figures, Figure("a full worker, Redis", "not measured: no redis-server")]
        return [*figures, *_figures("Redis", amounts.pushes, 250, WORKER_BUS_URL=url)]


def _figures(bus: str, pushes: int, most: float | None, **environ: str) -> list[Figure]:
    waits, claims = _push_to_the_full_one(pushes, environ)
    what = f"{WORKERS} workers, pushes to a full one, {bus}, {pushes:,} pushes"
    p50, p99 = (1e3 * percentile(waits, percent) for percent in (50, 99))
    slow = Figure(f"{what}: push → claim sent, p99", f"{p99:,.1f} ms")
    return [
        Figure(f"{what}: push → claim sent, p50", f"{p50:,.1f} ms"),
        slow if most is None else at_most(slow.what, p99, most, unit=" ms", digits=1),
        Figure(f"{what}: claims for each query", f"{claims / pushes:.2f}"),
    ]


def _push_to_the_full_one(pushes: int, environ: dict[str, str]) -> tuple[list[float], int]:
    with open_webbuddy() as webbuddy, ExitStack() as stack:
        first = None
        for _ in range(WORKERS):
            process = stack.enter_context(start_ours(webbuddy.url, CONSUMERS, **environ))
            if first is None:
                first = process.url()
                webbuddy.tell("push", url=first, texts=[BUSY] * CONSUMERS, at_once=1)
                webbuddy.until(lambda counts: counts["calls"].get("claim", 0) == CONSUMERS, "a full worker")
            else:
                process.url()
        webbuddy.until(
            lambda counts: counts["calls"].get("claim_empty", 0) >= WORKERS - 1, "the first claims of all"
        )
        before = webbuddy.counts()["calls"]
        webbuddy.tell("push_to_idle", url=first, number=pushes, text=TEXT, pause=PAUSE)
        webbuddy.until(lambda counts: not counts["pushing"], "the end of the pushes", within=LONG)
        queries = webbuddy.tell("queries", after=CONSUMERS)
        after = webbuddy.counts()["calls"]
    claims = sum(after.get(kind, 0) - before.get(kind, 0) for kind in ("claim", "claim_empty"))
    return [query["claimed"] - query["pushed"] for query in queries], claims


@contextmanager
def _redis() -> Iterator[str | None]:
    program = shutil.which("redis-server")
    if program is None:
        yield None
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "output"
        with output.open("wb") as file:
            arguments = [program, "--port", str(port), "--save", "", "--dir", folder]
            server = subprocess.Popen(arguments, stdout=file, stderr=file)
        try:
            until(lambda: "Ready to accept" in output.read_text(), "Redis")
            yield f"redis://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait()
