"""WebBuddy goes away in the middle of the work, and comes back with a long queue."""

from __future__ import annotations

import time

from benchmarks.contestants import start_ours
from benchmarks.figures import Amounts, Figure, at_least, at_most
from benchmarks.webbuddy import TEXT, open_webbuddy

__all__ = ["outage"]

CONSUMERS = 5


def outage(amounts: Amounts) -> list[Figure]:
    """Work at full rate, lose WebBuddy, and see how soon and how fast it goes on."""
    number, before = amounts.backlog, amounts.before_outage
    with open_webbuddy() as webbuddy:
        # More than can be worked off before it goes away: an idle worker would not notice that.
        webbuddy.tell("create", number=before + number, text=TEXT)
        with start_ours(webbuddy.url, CONSUMERS):
            webbuddy.until(lambda counts: counts["ended"] >= before, "the first queries' end")
            webbuddy.tell("down")
            time.sleep(amounts.outage)
            waiting = webbuddy.counts()["queued"]
            webbuddy.tell("create", number=max(0, number - waiting), text=TEXT)
            back = webbuddy.tell("up")
            # Those whose claims were cut off are nobody's, and come back minutes later.
            webbuddy.until(
                lambda counts: not counts["queued"] and counts["in_progress"] <= CONSUMERS,
                "the end of the backlog",
                within=1800,
            )
            queries = webbuddy.tell("queries", after=0)
    ends = sorted(query["ended"] for query in queries if query["ended"] is not None)
    first = min(query["claimed"] for query in queries if query["claimed"] >= back)
    earlier = [at for at in ends if at < back]
    earlier = earlier[len(earlier) // 4 :]  # without the start
    later = [at for at in ends if at >= first]
    full = (len(earlier) - 1) / (earlier[-1] - earlier[0])
    rate = (len(later) - 1) / (later[-1] - first)
    what = f"outage of {amounts.outage:g} s, backlog of {len(later):,} queries"
    return [
        at_most(f"{what}: first claim", first - back, 2, unit=" s", digits=2),
        at_least(f"{what}: of the rate before it ({full:,.0f}/s)", 100 * rate / full, 90, unit=" %"),
    ]
