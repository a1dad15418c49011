"""Queries of a second that all run at once: how long they take together, and what each of them holds."""

from __future__ import annotations

import time

from benchmarks.contestants import start_ours
from benchmarks.figures import Amounts, Figure, at_most, median
from benchmarks.process import Process
from benchmarks.webbuddy import FastWebBuddy, open_webbuddy

__all__ = ["concurrent"]

SECONDS = 1
SHORT = f"sleep {SECONDS}"
LONG = "sleep 250"  # until all have begun, and their memory was looked at


def concurrent(amounts: Amounts) -> list[Figure]:
    """Have a consumer for each, and tell of all of them by one push."""
    number = amounts.at_work
    runs = [_time(number, amounts) for _ in range(amounts.rounds)]
    memory = median(_memory(number, amounts) for _ in range(amounts.rounds))
    what = f"{number:,} queries of {SECONDS} s at once"
    return [
        at_most(
            f"{what}: from their push to the last report, beyond {SECONDS} s",
            median(over for over, _ in runs),
            2,
            unit=" s",
            digits=2,
        ),
        Figure(f"{what}: CPU of the worker", f"{median(cpu for _, cpu in runs):.2f} s"),
        at_most(f"{what}: memory of each", memory, 60, unit=" KB", digits=1),
    ]


def _time(number: int, amounts: Amounts) -> tuple[float, float]:
    """Seconds that all of them take beyond the ideal, in which all begin at once; and seconds of CPU."""
    with open_webbuddy() as webbuddy, start_ours(webbuddy.url, number) as process:
        before = _begin(webbuddy, process, SHORT, number, amounts)[0]
        webbuddy.until(lambda counts: counts["ended"] == number, "the end of all queries")
        cpu = process.cpu() - before
        queries = webbuddy.tell("queries", after=0)
    pushed = queries[-1]["pushed"]
    return max(query["ended"] for query in queries) - pushed - SECONDS, cpu


def _memory(number: int, amounts: Amounts) -> float:
    """KB for each query, while all of them are at work: beyond the worker with its consumers idle."""
    with open_webbuddy() as webbuddy, start_ours(webbuddy.url, number) as process:
        before = _begin(webbuddy, process, LONG, number, amounts)[1]
        webbuddy.until(lambda counts: counts["calls"].get("log", 0) >= number, "the first log entries")
        time.sleep(amounts.settle)
        return 1e3 * (process.memory() - before) / number


def _begin(
    webbuddy: FastWebBuddy, process: Process, text: str, number: int, amounts: Amounts
) -> tuple[float, float]:
    """Create all, push the last, and give the worker's CPU and memory before that."""
    url = process.url()
    webbuddy.until(lambda counts: counts["calls"].get("claim_empty", 0) > 0, "the first claim")
    time.sleep(amounts.settle)
    before = process.cpu(), process.memory()
    webbuddy.tell("create", number=number - 1, text=text)
    webbuddy.tell("push", url=url, texts=[text], at_once=1)
    return before
