"""Pushes: how soon a claim follows, and what a storm of them does."""

from __future__ import annotations

import time

import attrs

from benchmarks.contestants import start_ours
from benchmarks.figures import Amounts, Figure, at_least, at_most, percentile
from benchmarks.process import Process
from benchmarks.webbuddy import TEXT, Counts, FastWebBuddy, open_webbuddy

__all__ = ["push", "storm"]

PAUSE = 0.02  # seconds between a query's end and the next push, on average
BUSY = "sleep 0.05"
SHARE_OF_BUSY = 5  # every fifth query of a storm, the first ones: long enough to last through it
SOON = 2.0  # seconds after which WebBuddy hangs up
LOOK = 0.05
LONG = 1800.0  # seconds, for a machine that is slow


@attrs.frozen
class Blown:
    """What a storm did to a worker.

    Attributes:
        before: Its memory before, in MB.
        peak: The most until the last push was over.
        claims: How many it sent until all queries had ended, those that found nothing included.
        cpu: The processor time of each push and all that its query takes, in ms.
    """

    before: float
    peak: float
    claims: int
    cpu: float


def push(amounts: Amounts) -> list[Figure]:
    """Push queries to an idle worker, one by one, and see when each is claimed."""
    with open_webbuddy() as webbuddy, start_ours(webbuddy.url) as process:
        url = process.url()
        webbuddy.until(lambda counts: counts["calls"].get("claim_empty", 0) > 0, "the first claim")
        webbuddy.tell("push_to_idle", url=url, number=amounts.pushes, text=TEXT, pause=PAUSE)
        webbuddy.until(lambda counts: not counts["pushing"], "the end of the pushes", within=LONG)
        queries = webbuddy.tell("queries", after=0)
    waits = [1e3 * (query["claimed"] - query["pushed"]) for query in queries]
    number = len(waits)
    return [
        at_most(
            f"push → claim sent, idle worker, {number:,} pushes, p50",
            percentile(waits, 50),
            4,
            unit=" ms",
            digits=1,
        ),
        at_most(
            f"push → claim sent, idle worker, {number:,} pushes, p99",
            percentile(waits, 99),
            12,
            unit=" ms",
            digits=1,
        ),
    ]


def storm(amounts: Amounts) -> list[Figure]:
    """Push very many: some at a time, then all at once."""
    return [*_some_at_a_time(amounts), *_all_at_once(amounts)]


def _some_at_a_time(amounts: Amounts) -> list[Figure]:
    number, at_once = amounts.storm, amounts.at_once
    what = f"{number:,} pushes, {at_once} at a time"
    with open_webbuddy() as webbuddy, start_ours(webbuddy.url) as process:
        blown = _blow(webbuddy, process, amounts, at_once)
        queries = webbuddy.tell("queries", after=1)
    took = [query["push_seconds"] for query in queries]
    answered = [seconds for seconds in took if seconds is not None]
    ends = [query["pushed"] + query["push_seconds"] for query in queries if query["push_seconds"] is not None]
    seconds = max(ends) - min(query["pushed"] for query in queries)
    return [
        at_least(f"{what}: answered 200 within {SOON:g} s", len(answered), number, unit=""),
        Figure(f"{what}: the slowest", f"{1e3 * max(answered):,.0f} ms"),
        Figure(f"{what}: CPU of each, its query's included", f"{blown.cpu:.2f} ms"),
        at_least(f"{what}: rate", len(answered) / seconds, 600, unit="/s"),
        at_most(f"{what}: memory, at most +", blown.peak - blown.before, 15, unit=" MB", digits=1),
        at_most(f"{what}: claims", blown.claims, number + 20, unit=""),
    ]


def _all_at_once(amounts: Amounts) -> list[Figure]:
    number = amounts.storm
    what = f"{number:,} pushes at once"
    with open_webbuddy() as webbuddy, start_ours(webbuddy.url) as process:
        blown = _blow(webbuddy, process, amounts, number)
        after = process.memory()
        queries = webbuddy.tell("queries", after=1)
        counts = webbuddy.counts()
    # While WebBuddy sets out to push so many at once, which takes it seconds, it answers no claim.
    pushed = max(query["pushed"] for query in queries)
    claimed = sorted(query["claimed"] for query in queries if query["claimed"] > pushed)
    # A pause longer than 2 s would be a time in which claiming did not go on.
    pauses = [later - earlier for earlier, later in zip([pushed, *claimed], claimed, strict=False)]
    answered = counts["pushes"]["accepted"] - 1
    return [
        Figure(f"{what}: answered 200 within {SOON:g} s", f"{answered:,}"),
        at_most(f"{what}: the longest time without a claim", max(pauses), SOON, unit=" s", digits=2),
        Figure(f"{what}: CPU of each, its query's included", f"{blown.cpu:.2f} ms"),
        Figure(f"{what}: memory, at most +", f"{blown.peak - blown.before:.1f} MB"),
        at_most(f"{what}: memory, in the end +", after - blown.before, 15, unit=" MB", digits=1),
    ]


def _blow(webbuddy: FastWebBuddy, process: Process, amounts: Amounts, at_once: int) -> Blown:
    """Push, and wait until all queries have ended. The first of them keep the consumers busy."""
    number, url = amounts.storm, process.url()
    webbuddy.until(lambda counts: counts["calls"].get("claim_empty", 0) > 0, "the first claim")
    # One query, so that everything has been used once.
    webbuddy.tell("push", url=url, texts=[TEXT], at_once=1)
    webbuddy.until(lambda counts: counts["ended"] == 1, "the first answer")
    time.sleep(amounts.settle)
    before = peak = process.memory()
    claims, cpu = _claims(webbuddy.counts()), process.cpu()
    busy = number // SHARE_OF_BUSY
    webbuddy.tell("push", url=url, texts=[BUSY] * busy + [TEXT] * (number - busy), at_once=at_once)

    def is_over(counts: Counts) -> bool:
        nonlocal peak
        peak = max(peak, process.memory())
        return not counts["pushing"]

    webbuddy.until(is_over, "the end of the pushes", look=LOOK, within=LONG)
    # No push for what a worker without a place for it did not hear of: a look every half minute finds it.
    webbuddy.until(
        lambda counts: counts["ended"] == number + 1, "the end of all queries", look=LOOK, within=LONG
    )
    time.sleep(amounts.settle)  # for claims that come late
    used = 1e3 * (process.cpu() - cpu) / number
    return Blown(before, peak, _claims(webbuddy.counts()) - claims, used)


def _claims(counts: Counts) -> int:
    found: int = counts["calls"]["claim"] + counts["calls"]["claim_empty"]
    return found
