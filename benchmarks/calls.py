"""How many calls a short query takes. Exact: it does not depend on the machine."""

from __future__ import annotations

from benchmarks.contestants import start_ours
from benchmarks.figures import Amounts, Figure, at_most
from benchmarks.webbuddy import TEXT, open_webbuddy

__all__ = ["calls", "calls_of_a_query"]


def calls_of_a_query(amounts: Amounts) -> dict[str, float]:
    """Let our worker work off a queue, and give the calls of each kind for one query."""
    number = amounts.short
    with open_webbuddy() as webbuddy:
        webbuddy.tell("create", number=number, text=TEXT)
        with start_ours(webbuddy.url):
            counts = webbuddy.until(
                lambda counts: counts["ended"] == number and counts["calls"].get("log", 0) >= number,
                "the end of all queries",
            )
    return {kind: counts["calls"][kind] / number for kind in ("claim", "log", "report")}


def calls(amounts: Amounts) -> list[Figure]:
    """Show it."""
    of_each = calls_of_a_query(amounts)
    named = ", ".join(f"{number:g} {kind}" for kind, number in of_each.items())
    return [at_most(f"calls for a short query ({named})", sum(of_each.values()), 3, unit="", digits=2)]
