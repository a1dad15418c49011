"""Real workers under mixed load with faults do not grow, and each query ends once.

The long form: ``python -m tests.soak --minutes 60``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.soak import run_soak
from tests.soak_readings import Reading, growth

MEMORY = (
    40.0  # MB; what is imported, and the high water of a first load: in half a minute nothing else is seen
)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_a_short_soak(tmp_path: Path) -> None:
    """One round of all faults, then at rest: as many files, threads and tasks as before the first query."""
    for soak in await run_soak(tmp_path, minutes=0, seconds=0.5):
        assert soak.problems == []
        assert list(growth(soak.readings, memory=MEMORY)) == []
        assert soak.ended["done"] > 30
        assert soak.ended["failed"] > 3
        assert soak.events["WebBuddy hands out queries again"] > 0
        assert soak.snapshots > 0


@pytest.mark.parametrize("what", ["files", "threads", "tasks", "memory"])
def test_growth_is_seen(what: str) -> None:
    """Of files, threads and tasks one more is too much; memory may go up and down, by so much."""
    flat = {"minutes": 1.0, "queries": 9, "files": 18, "threads": 3, "tasks": 37}
    readings = [Reading(**flat, memory=70 + number % 3) for number in range(8)]
    assert list(growth(readings, memory=2)) == []
    more = {**flat, "memory": 72.0, what: flat.get(what, 72) + (2.1 if what == "memory" else 1)}
    halves = readings[:4] + [Reading(**more)] * 4
    (problem,) = growth(halves, memory=2)
    assert problem.startswith(what)
