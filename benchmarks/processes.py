"""Two processes: do they do twice as much?"""

from __future__ import annotations

import time

from benchmarks.contestants import start_ours
from benchmarks.cores import several
from benchmarks.figures import Amounts, Figure, at_least, median
from benchmarks.webbuddy import TEXT, open_webbuddy

__all__ = ["processes"]

WHAT = "two processes, against one"
CONSUMERS = 5  # of each


def processes(amounts: Amounts) -> list[Figure]:
    """Let one and two processes of the service work off an endless queue, in turn."""
    cores = several(2)
    if cores is None:
        return [Figure(WHAT, "not measured: fewer than four cores", "≥ 1.8 ×")]
    pairs = [(_rate(cores[:1], 1, amounts), _rate(cores, 2, amounts)) for _ in range(amounts.rounds)]
    return [at_least(WHAT, median(two / one for one, two in pairs), 1.8, unit=" ×", digits=2)]


def _rate(cores: list[int], number: int, amounts: Amounts) -> float:
    command = ("hypercorn", "-k", "trio", "-b", "127.0.0.1:0", "-w", str(number), "trio_worker.asgi:app")
    with open_webbuddy() as webbuddy:
        webbuddy.tell("endless", text=TEXT)
        with start_ours(webbuddy.url, number * CONSUMERS, command=command, cores=cores):
            webbuddy.until(lambda counts: counts["ended"] >= 10 * CONSUMERS, "the first answers")
            time.sleep(1 + amounts.warm_up)  # the second process starts with the first, not before it
            began = webbuddy.counts()
            time.sleep(amounts.window)
            ended = webbuddy.counts()
    rate: float = (ended["ended"] - began["ended"]) / (ended["now"] - began["now"])
    return rate
