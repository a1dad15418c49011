"""What a query costs in a warm process of the pool, beyond the call of its function.

``python -m benchmarks.pool``. Each query is answered twice, in turn: by the function called here, and by the
pool. ``over_us`` is the median of the differences, in microseconds; ``over_p99_us`` what one in a hundred
exceeds. ``start_ms`` is the time from nothing to a process that is ready, ``kill_ms`` that from the deadline
of what ignores everything to its end.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog
import trio

from trio_worker.context import Context, PlainContext
from trio_worker.handlers.pool import Pool, open_pool
from trio_worker.query import Query

AGENT = """
import time
def plain(query, ctx):
    return query.query_text
def logs(query, ctx):
    for number in range(10):
        ctx.log(f"line {number}")
    return query.query_text
def asks(query, ctx):
    ctx.extend(1)
    return query.query_text
def stubborn(query, ctx):
    while True:
        try: time.sleep(1000)
        except BaseException: pass
"""
CASES = [("plain", 100), ("plain", 100_000), ("logs", 100), ("asks", 100)]
DEADLINE = 0.2  # seconds


class Nowhere:
    """A desk that keeps nothing."""

    def log(self, text: str) -> None:
        """Drop it."""

    def deadline(self) -> datetime:
        """Say any time."""
        return datetime.now(UTC)

    def extend(self, seconds: float) -> datetime:
        """Say any time."""
        return datetime.now(UTC)

    def save(self, data: str) -> None:
        """Drop it."""

    async def project(self) -> None:
        """Know nothing."""

    def project_in_thread(self) -> None:
        """Know nothing."""


async def pairs(pool: Pool, function: Any, length: int, queries: int) -> list[float]:
    """The differences between the two ways to answer, in microseconds."""
    query = Query(id=1, query_text="x" * length)
    found = []
    for _ in range(queries):
        start = time.perf_counter()
        here = function(query, PlainContext(Nowhere()))
        middle = time.perf_counter()
        there = await pool(query, Context(Nowhere()))
        end = time.perf_counter()
        assert here == there
        found.append(1e6 * ((end - middle) - (middle - start)))
    return found


async def overhead(directory: Path, name: str, length: int, queries: int) -> dict[str, float]:
    """One run of one case."""
    function = getattr(importlib.import_module("agent"), name)
    start = time.perf_counter()
    async with open_pool(f"agent:{name}", directory=directory, most=1, recycle_after=10 * queries) as pool:
        ready = time.perf_counter()
        await pairs(pool, function, length, 20)
        over = sorted(await pairs(pool, function, length, queries))
    return {
        "over_us": statistics.median(over),
        "over_p99_us": over[int(0.99 * len(over))],
        "start_ms": 1e3 * (ready - start),
    }


async def kill(directory: Path) -> float:
    """How long what ignores everything is there after its deadline, in milliseconds."""
    async with open_pool("agent:stubborn", directory=directory, most=1) as pool:
        at = trio.current_time() + DEADLINE
        with trio.move_on_at(at):
            await pool(Query(id=1), Context(Nowhere()))
        return 1e3 * (trio.current_time() - at)


def main() -> None:
    """Measure in turn, and print the median of each figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        (directory / "agent.py").write_text(AGENT)
        sys.path.insert(0, folder)
        runs: dict[tuple[str, int], list[dict[str, float]]] = {case: [] for case in CASES}
        kills = []
        for _ in range(arguments.runs):
            for case in CASES:
                runs[case].append(trio.run(overhead, directory, *case, arguments.queries))
            kills.append(trio.run(kill, directory))
    for (name, length), found in runs.items():
        medians = {key: round(statistics.median(run[key] for run in found)) for key in found[0]}
        print(json.dumps({"handler": name, "characters": length, **medians}))
    print(json.dumps({"handler": "stubborn", "kill_ms": round(statistics.median(kills), 1)}))


if __name__ == "__main__":
    main()
