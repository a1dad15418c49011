"""A measured figure, what it was to reach, and how much is measured."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

import attrs

__all__ = ["FULL", "QUICK", "Amounts", "Figure", "at_least", "at_most", "median", "percentile", "table"]


@attrs.frozen
class Figure:
    """One line of the table.

    Attributes:
        what: What was measured.
        measured: The value, with its unit.
        reach: What it was to be.
        reached: Whether it is; None where it was not measured, or nothing was to be reached.
    """

    what: str
    measured: str
    reach: str = ""
    reached: bool | None = None


@attrs.frozen(kw_only=True)
class Amounts:
    """How much is measured.

    Attributes:
        rounds: How often everything that is compared is measured; the medians count.
        window: Seconds of one measurement of a rate.
        warm_up: Seconds before it.
        consumers: How many there are in the comparison: few, many, most.
        plotted: As many more, for the plot alone.
        far_window: Seconds of one measurement over a slow network.
        pushes: To an idle worker.
        storm: Pushes to a busy worker.
        at_once: How many of them at a time.
        before_outage: Queries that are worked off before WebBuddy goes away.
        outage: Seconds for which it is away.
        backlog: Queries that were created meanwhile.
        grown: Queries after which the memory is looked at, and then again.
        settle: Seconds until an idle worker has closed what it does not need.
        idle: Seconds of idling.
        lines: That one handler logs.
        starts: How often something is started.
        short: Short queries, whose calls are counted.
        at_work: Queries that run at once.
        gentle: Queries that a real WebBuddy is to be spared with.
        gentle_consumers: How many consumers work on them.
    """

    rounds: int
    window: float
    warm_up: float
    consumers: tuple[int, int, int]
    plotted: tuple[int, ...]
    far_window: float
    pushes: int
    storm: int
    at_once: int
    before_outage: int
    outage: float
    backlog: int
    grown: tuple[int, int]
    settle: float
    idle: float
    lines: int
    starts: int
    short: int
    at_work: int
    gentle: int
    gentle_consumers: tuple[int, ...]


FULL = Amounts(
    rounds=3,
    window=2.0,
    warm_up=0.7,
    consumers=(5, 50, 1000),
    plotted=(500,),
    far_window=8.0,
    pushes=1000,
    storm=10_000,
    at_once=64,
    before_outage=2_000,
    outage=15.0,
    backlog=20_000,
    grown=(10_000, 200_000),
    settle=6.0,
    idle=30.0,
    lines=1000,
    starts=7,
    short=500,
    at_work=1000,
    gentle=600,
    gentle_consumers=(5, 50),
)

QUICK = Amounts(
    rounds=1,
    window=0.2,
    warm_up=0.0,
    consumers=(2, 5, 10),
    plotted=(),
    far_window=0.5,
    pushes=5,
    storm=30,
    at_once=8,
    before_outage=20,
    outage=0.2,
    backlog=200,
    grown=(20, 60),
    settle=0.1,
    idle=0.2,
    lines=100,
    starts=1,
    short=20,
    at_work=10,
    gentle=20,
    gentle_consumers=(5,),
)
"""To see that everything can be measured. The values mean nothing."""


def at_least(what: str, value: float, least: float, *, unit: str, digits: int = 0) -> Figure:
    """Make a figure that is to be so large."""
    return Figure(what, f"{value:,.{digits}f}{unit}", f"≥ {least:,.{digits}f}{unit}", value >= least)


def at_most(what: str, value: float, most: float, *, unit: str, digits: int = 0) -> Figure:
    """Make a figure that is to be so small."""
    return Figure(what, f"{value:,.{digits}f}{unit}", f"≤ {most:,.{digits}f}{unit}", value <= most)


def median(values: Iterable[float]) -> float:
    """Give the median."""
    return statistics.median(values)


def percentile(values: Sequence[float], percent: float) -> float:
    """Give the value that so many per cent do not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * percent / 100))]


def table(figures: Sequence[Figure]) -> str:
    """Write figures as a table in Markdown."""
    rows = [("figure", "measured", "to reach", "reached")]
    marks = {True: "yes", False: "**no**", None: ""}
    rows += [(figure.what, figure.measured, figure.reach, marks[figure.reached]) for figure in figures]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
