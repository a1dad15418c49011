"""Does it grow? Memory, files and tasks after very many queries."""

from __future__ import annotations

import time

from benchmarks.contestants import start_ours
from benchmarks.figures import Amounts, Figure, at_most
from benchmarks.process import Process
from benchmarks.webbuddy import TEXT, FastWebBuddy, open_webbuddy

__all__ = ["growth"]


def growth(amounts: Amounts) -> list[Figure]:
    """Look at a worker that has nothing to do any more after many queries, and again after many more."""
    few, many = amounts.grown
    with open_webbuddy() as webbuddy, start_ours(webbuddy.url) as process:
        url = process.url()
        memory, files, tasks = _after(webbuddy, process, url, few, amounts)
        more_memory, more_files, more_tasks = _after(webbuddy, process, url, many, amounts)
    what = f"after {many:,} queries, against {few:,}"
    return [
        at_most(f"{what}: memory ({memory:.1f} MB) +", more_memory - memory, 2, unit=" MB", digits=1),
        at_most(f"{what}: open files ({files}) +", more_files - files, 0, unit=""),
        at_most(f"{what}: tasks ({tasks}) +", more_tasks - tasks, 0, unit=""),
    ]


def _after(
    webbuddy: FastWebBuddy, process: Process, url: str, number: int, amounts: Amounts
) -> tuple[float, int, int]:
    """Have it work until there were so many queries; give its memory, files and tasks when it is idle."""
    ended = webbuddy.counts()["ended"]
    webbuddy.tell("create", number=number - ended - 1, text=TEXT)
    # The push names a query behind all the others: so it is seen that there are many.
    webbuddy.tell("push", url=url, texts=[TEXT], at_once=1)
    webbuddy.until(lambda counts: counts["ended"] == number, f"query {number:,}", look=0.1, within=1800)
    time.sleep(amounts.settle)
    webbuddy.tell("push", url=url, texts=["tasks"], at_once=1)
    webbuddy.until(lambda counts: counts["ended"] == number + 1, "the number of tasks")
    tasks = int(webbuddy.tell("queries", after=number)[0]["answer"])
    time.sleep(amounts.settle)
    return process.memory(), process.files(), tasks
