"""Queries a second on one core and processor time a query, against what people would write instead."""

from __future__ import annotations

import itertools
import time
from collections import defaultdict

import attrs

from benchmarks.calls import calls_of_a_query
from benchmarks.contestants import (
    CONTESTANTS,
    DOCUMENTED,
    LIMIT,
    OURS,
    PLAIN,
    missing,
    start_contestant,
)
from benchmarks.figures import Amounts, Figure, at_least, at_most, median
from benchmarks.webbuddy import TEXT, Counts, FastWebBuddy, open_webbuddy

__all__ = ["Rate", "Rates", "measure", "measure_rate", "throughput"]

ENOUGH_TO_BEGIN = 20  # queries that have ended: everything is imported, connected and logged in


@attrs.frozen
class Rate:
    """What one contestant did.

    Attributes:
        queries: A second.
        cpu: Microseconds of processor time a query.
    """

    queries: float
    cpu: float


Key = tuple[str, int]
"""A contestant, and its number of consumers."""

Rates = dict[Key, list[Rate]]
"""One for each round."""


def measure_rate(name: str, consumers: int, logs: int, amounts: Amounts) -> Rate:
    """Let a contestant work off an endless queue for a while."""
    with open_webbuddy() as webbuddy:
        webbuddy.tell("endless", text=TEXT)
        with start_contestant(name, webbuddy.url, consumers, logs) as process:
            webbuddy.until(lambda counts: counts["ended"] >= ENOUGH_TO_BEGIN, f"{name}'s first answer")
            time.sleep(amounts.warm_up)
            cpu, began = process.cpu(), webbuddy.counts()
            ended = _after_a_while(webbuddy, began, amounts.window)
            cpu = process.cpu() - cpu
    queries = ended["ended"] - began["ended"]
    return Rate(queries / (ended["now"] - began["now"]), 1e6 * cpu / queries)


def _after_a_while(webbuddy: FastWebBuddy, began: Counts, seconds: float) -> Counts:
    time.sleep(seconds)
    # Of the slowest, with a thousand consumers, there may be none that has ended in this time.
    return webbuddy.until(lambda counts: counts["ended"] > began["ended"], "an answer")


def measure(amounts: Amounts) -> Rates:
    """Measure everybody in turn, in each round."""
    logs = calls_of_a_query(amounts)["log"]
    rates: Rates = defaultdict(list)
    numbers = sorted({*amounts.consumers, *amounts.plotted})
    for _, consumers, name in itertools.product(range(amounts.rounds), numbers, CONTESTANTS):
        if missing(name) is None:
            rates[name, consumers].append(measure_rate(name, consumers, round(logs), amounts))
    return rates


def throughput(amounts: Amounts, rates: Rates) -> list[Figure]:
    """Compare."""
    few, many, most = amounts.consumers
    figures = [
        Figure(f"{name}, {consumers} consumers", _both(found)) for (name, consumers), found in rates.items()
    ]
    against = f"{few} consumers, against the documented example"
    reason = missing(DOCUMENTED)
    if reason is None:
        figures.append(_at_least(against, rates, (OURS, few), (DOCUMENTED, few), 3.5))
    else:
        figures.append(Figure(against, reason, "≥ 3.5 ×"))
    pairs = zip(rates[OURS, few], rates[PLAIN, few], strict=True)
    cpu = median(ours.cpu / plain.cpu for ours, plain in pairs)
    limit = 100 * _ratio(rates, (OURS, few), (LIMIT, few))
    return [
        *figures,
        _at_least(f"{few} consumers, against plain httpx", rates, (OURS, few), (PLAIN, few), 2),
        _at_least(f"{many} consumers, against plain httpx", rates, (OURS, many), (PLAIN, many), 6),
        _at_least(f"{most} consumers, against {few}", rates, (OURS, most), (OURS, few), 0.85),
        at_most(f"CPU a query, {few} consumers, against plain httpx", cpu, 0.5, unit=" ×", digits=2),
        Figure(f"{few} consumers, of the hand-written limit", f"{limit:.0f} %"),
    ]


def _at_least(what: str, rates: Rates, one: Key, other: Key, least: float) -> Figure:
    return at_least(what, _ratio(rates, one, other), least, unit=" ×", digits=2)


def _ratio(rates: Rates, one: Key, other: Key) -> float:
    """Of each round's two neighbours: what slows the machine down for a while slows both."""
    pairs = zip(rates[one], rates[other], strict=True)
    return median(mine.queries / theirs.queries for mine, theirs in pairs)


def _both(found: list[Rate]) -> str:
    queries, cpu = median(rate.queries for rate in found), median(rate.cpu for rate in found)
    return f"{queries:,.0f}/s, {cpu:,.0f} µs CPU each"
