"""A handler that logs very much."""

from __future__ import annotations

from benchmarks.contestants import start_ours
from benchmarks.figures import Amounts, Figure, at_most, median
from benchmarks.webbuddy import open_webbuddy

__all__ = ["lines"]

QUERIES = 15
PAUSE = 0.003  # seconds between two lines, where they do not come at once


def lines(amounts: Amounts) -> list[Figure]:
    """Log many lines as fast as may be, and with pauses; count the calls, and time the lines."""
    number = amounts.lines
    with open_webbuddy() as webbuddy, start_ours(webbuddy.url) as process:
        url = process.url()
        texts = [f"lines {number} 0"] * QUERIES + [f"lines {number} {PAUSE}"]
        webbuddy.tell("push", url=url, texts=texts, at_once=1)
        webbuddy.until(lambda counts: counts["ended"] == len(texts), "the end of all queries")
        queries = webbuddy.tell("queries", after=0)
    entries = max(query["entries"] for query in queries)
    at_once = median(float(query["answer"]) for query in queries[:QUERIES])
    return [
        at_most(f"{number:,} lines of one handler: log calls", entries, 40, unit=""),
        at_most(f"{number:,} lines of one handler: time a line", at_once, 5, unit=" µs", digits=1),
    ]
