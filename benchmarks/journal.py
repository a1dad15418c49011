"""What the journal costs a query: ``python -m benchmarks.journal``.

So many consumers do, one query after the other, what the worker does with its journal: write the claim and
wait for the disk, write the log's lines, write the outcome and wait, note the log entry as sent, forget.
Nothing else happens, so that the process's CPU time is the journal's, its thread's and SQLite's included, and
that of the log's lines, which are there without a journal as well: ``lines_us``, measured by themselves.

Two loads. ``in_step``: the next query follows at once, as when a queue is worked off; consumers share their
commits. ``spread``: each consumer first waits for a time of its own, 20 ms in the middle, as for a handler;
what that waiting costs is measured by itself and taken off, too.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Literal

import trio

from trio_worker.held import Held
from trio_worker.journal import Journal, open_journal
from trio_worker.phrases import ENGLISH
from trio_worker.query import Done, Query
from trio_worker.query_log import QueryLog
from trio_worker.runners import open_thread
from trio_worker.settings import JournalSync
from trio_worker.state_folder import Address, StateFolder

NOW = datetime.now(UTC)
HANDLER = 0.02  # seconds that a consumer waits between two queries, on average

Load = Literal["in_step", "spread"]
Case = tuple[int, JournalSync, Load]
Work = Callable[[int], Awaitable[None]]


async def one(journal: Journal, number: int) -> None:
    """The life of one query, as its journal sees it."""
    query = Query(
        id=number,
        project=1,
        user=2,
        query_text="Протестировать авторизацию",
        status="in_progress",
        query_created=NOW,
        query_started=NOW,
        answer_text="",
        project_name="Portal",
        user_name="member",
        logs_count=0,
    )
    held, receipt = Held.claimed(journal, query, "push", ENGLISH)
    await receipt.durable()
    held.log.write("Claimed by vm:1234 (push)")
    held.log.write("Started, time limit 300 s")
    held.log.close("Done after 0.0 s")
    await held.end(Done("An answer of the usual length, in one sentence.")).durable()
    held.sent(1, 3)
    held.forget()


async def lines_alone(queries: int) -> float:
    """CPU time, in microseconds, of a query's log without a journal."""
    cpu = time.process_time()
    for _ in range(queries):
        log = QueryLog(ENGLISH, began=trio.current_time())
        log.write("Claimed by vm:1234 (push)")
        log.write("Started, time limit 300 s")
        log.close("Done after 0.0 s")
    await trio.lowlevel.checkpoint()
    return 1e6 * (time.process_time() - cpu) / queries


async def consume_all(load: Load, queries: int, consumers: int, work: Work) -> tuple[float, float]:
    """CPU and wall time, in microseconds, of a query that ``work`` is done on."""
    numbers, chance = itertools.count(1), random.Random(7)  # noqa: S311 - a load

    async def consume() -> None:
        while (number := next(numbers)) <= queries:
            if load == "spread":
                await trio.sleep(chance.uniform(0, 2 * HANDLER))
            await work(number)

    cpu, wall = time.process_time(), time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(consumers):
            nursery.start_soon(consume)
    return (
        1e6 * (time.process_time() - cpu) / queries,
        1e6 * (time.perf_counter() - wall) / queries,
    )


async def measure(
    folder: Path, queries: int, consumers: int, sync: JournalSync, load: Load
) -> dict[str, float]:
    """One run: what a query costs, in microseconds."""
    place = StateFolder(folder, Address("http://localhost:8000", "worker"))
    async with open_thread("journal") as runner, open_journal(place, sync=sync, runner=runner) as journal:
        cpu_us, wall_us = await consume_all(load, queries, consumers, partial(one, journal))
    waiting_us, _ = await consume_all(load, queries, consumers, nothing)
    lines_us = await lines_alone(queries)
    return {
        "cpu_us": cpu_us,
        "waiting_us": waiting_us,
        "lines_us": lines_us,
        "journal_us": cpu_us - waiting_us - lines_us,
        "wall_us": wall_us,
    }


async def nothing(number: int) -> None:
    """A query without a journal."""
    await trio.lowlevel.checkpoint()


def main() -> None:
    """Measure in turn, and print the median of each figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=3000)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    cases: list[Case] = list(itertools.product((5, 50), ("full", "normal"), ("in_step", "spread")))
    runs: dict[Case, list[dict[str, float]]] = {case: [] for case in cases}
    for _ in range(arguments.runs):
        for case in cases:
            with tempfile.TemporaryDirectory() as directory:
                runs[case].append(trio.run(measure, Path(directory), arguments.queries, *case))
    for (consumers, sync, load), found in runs.items():
        medians = {name: round(statistics.median(run[name] for run in found)) for name in found[0]}
        print(json.dumps({"consumers": consumers, "sync": sync, "load": load, **medians}))


if __name__ == "__main__":
    main()
