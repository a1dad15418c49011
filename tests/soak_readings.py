"""What is read of a worker at rest, and whether it has grown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

import attrs

from tests.scrapes import Sample
from trio_worker.figures import PREFIX

__all__ = ["Reading", "growth", "table", "total"]


@attrs.frozen
class Reading:
    """A worker at rest.

    Attributes:
        minutes: Since the first query.
        queries: How many have ended.
        memory: Resident, in MB.
        files: That are open.
        threads: Of the process.
        tasks: Of Trio.
    """

    minutes: float
    queries: int
    memory: float
    files: int
    threads: int
    tasks: int


def growth(readings: Sequence[Reading], *, memory: float) -> Iterator[str]:
    """Say what has grown from the first half of some readings to the second.

    Args:
        readings: One behind the other.
        memory: MB that the second half may have more.
    """
    middle = (len(readings) + 1) // 2
    first, second = readings[:middle], readings[middle:]
    for what in ("files", "threads", "tasks"):
        before, after = (max(getattr(one, what) for one in half) for half in (first, second))
        if after > before:
            yield f"{what} have grown from {before} to {after}"
    before, after = (median(one.memory for one in half) for half in (first, second))
    if after - before > memory:
        yield f"memory has grown from {before:.1f} to {after:.1f} MB"


def table(readings: Sequence[Reading]) -> Iterator[str]:
    """Write them down, a line each."""
    yield "minutes  queries  memory MB  files  threads  tasks"
    for one in readings:
        amounts = f"{one.memory:11.1f}{one.files:7}{one.threads:9}{one.tasks:7}"
        yield f"{one.minutes:7.1f}{one.queries:9}{amounts}"


def total(figures: dict[Sample, float], name: str, label: str | None = None) -> float:
    """Add up a figure over all labels, or of one value of a label."""
    return sum(
        value
        for (full, labels), value in figures.items()
        if full == PREFIX + name and (label is None or label in dict(labels).values())
    )
