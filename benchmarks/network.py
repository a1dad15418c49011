"""A slow network: is anything waited for beyond the claim and its commit?"""

from __future__ import annotations

import subprocess
import sys
import time

from benchmarks.contestants import start_ours
from benchmarks.cores import WORKERS, pin
from benchmarks.figures import Amounts, Figure, at_least
from benchmarks.process import ROOT
from benchmarks.webbuddy import TEXT, open_webbuddy

__all__ = ["network"]

ROUND_TRIP = 0.05  # seconds
CONSUMERS = 5


def network(amounts: Amounts) -> list[Figure]:
    """Let each call take 50 ms, and see how close it comes to one query for each round trip and commit."""
    with open_webbuddy() as webbuddy:
        webbuddy.tell("delay", seconds=ROUND_TRIP)
        webbuddy.tell("endless", text=TEXT)
        with start_ours(webbuddy.url, CONSUMERS):
            webbuddy.until(lambda counts: counts["ended"] >= CONSUMERS, "the first answers")
            time.sleep(amounts.warm_up)
            began = webbuddy.counts()
            time.sleep(amounts.far_window)
            ended = webbuddy.counts()
    rate = (ended["ended"] - began["ended"]) / (ended["now"] - began["now"])
    number, seconds = ended["delayed"]
    round_trip, commit = seconds / number, _commit()
    most = CONSUMERS / (round_trip + commit)
    what = f"round trip {1e3 * round_trip:.1f} ms, commit {1e3 * commit:.1f} ms: of {most:.1f} queries/s"
    return [at_least(what, 100 * rate / most, 95, unit=" %", digits=1)]


def _commit() -> float:
    """Seconds that a claim waits for the disk, measured where the worker ran."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.commit"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        pin(process.pid, WORKERS)
        output, _ = process.communicate()
    return float(output)
