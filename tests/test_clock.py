"""The one place where the wall clock is read."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from pathlib import Path

import trio

from trio_worker import clock

PACKAGE = Path(clock.__file__).parent


def test_it_is_the_machines_clock() -> None:
    """In both forms, unless a test says otherwise."""
    before = time.time()
    assert before <= clock.now() <= clock.utc_now().timestamp() + 1e-6
    assert clock.utc_now().tzinfo is UTC


async def test_each_task_may_have_its_own() -> None:
    """Tasks inherit the clock of the one that started them; the others keep theirs."""
    seen = {}

    async def look(name: str) -> None:
        await trio.lowlevel.checkpoint()
        seen[name] = clock.utc_now()

    async def live(name: str, year: int) -> None:
        clock.source.set(datetime(year, 1, 1, tzinfo=UTC).timestamp)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(look, name)
            nursery.start_soon(look, name)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(live, "early", 1999)
        nursery.start_soon(live, "late", 2038)
    assert {name: when.year for name, when in seen.items()} == {"early": 1999, "late": 2038}
    assert clock.source.get() is time.time


def test_nobody_else_reads_the_wall_clock() -> None:
    """A second reader would have a time of its own in a simulation."""
    reads = re.compile(r"time\.time\(|datetime\.now\(|utcnow\(|\.today\(")
    readers = [path.name for path in sorted(PACKAGE.rglob("*.py")) if reads.search(path.read_text())]
    assert readers == []
