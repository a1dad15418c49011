"""How long a claim waits for the disk, in seconds: ``python -m benchmarks.commit``.

One after the other, as far apart as five consumers' claims are at a round trip of 50 ms.
"""

from __future__ import annotations

import statistics
from pathlib import Path

import trio

from benchmarks.contestants import folder
from trio_worker.held import Held
from trio_worker.journal import open_journal
from trio_worker.phrases import ENGLISH
from trio_worker.query import Query
from trio_worker.runners import open_thread
from trio_worker.state_folder import Address, StateFolder

__all__ = ["measure"]

CLAIMS = 200
APART = 0.01  # seconds


async def measure(directory: Path) -> float:
    """Give the median."""
    place = StateFolder(directory, Address("http://localhost:8000", "worker"))
    seconds = []
    async with open_thread("journal") as runner, open_journal(place, sync="full", runner=runner) as journal:
        for number in range(CLAIMS):
            await trio.sleep(APART)
            began = trio.current_time()
            query = Query(id=number, project=1, query_text="Протестировать авторизацию", status="in_progress")
            held, receipt = Held.claimed(journal, query, "poll", ENGLISH)
            await receipt.durable()
            seconds.append(trio.current_time() - began)
            held.forget()
    return statistics.median(seconds)


if __name__ == "__main__":
    with folder() as here:
        print(trio.run(measure, here))
