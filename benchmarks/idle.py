"""What a worker costs that has nothing to do."""

from __future__ import annotations

import time

from benchmarks.contestants import folder, start_ours
from benchmarks.cores import WORKERS
from benchmarks.figures import Amounts, Figure, at_most
from benchmarks.process import start
from benchmarks.webbuddy import open_webbuddy

__all__ = ["idle"]

EMPTY_APP = "from quart_trio import QuartTrio\n\napp = QuartTrio(__name__)\n"
HYPERCORN = ("hypercorn", "-k", "trio", "-b", "127.0.0.1:0")
AT_REST = 1.0  # seconds after which the start is over


def idle(amounts: Amounts) -> list[Figure]:
    """Watch it idle, by itself and as hypercorn's guest."""
    with open_webbuddy() as webbuddy:
        with start_ours(webbuddy.url) as process:
            process.url()
            webbuddy.until(lambda counts: counts["calls"].get("claim_empty", 0) > 0, "the first claim")
            time.sleep(AT_REST)
            before, claims = process.cpu(), webbuddy.counts()["calls"]["claim_empty"]
            time.sleep(amounts.idle)
            percent = 100 * (process.cpu() - before) / amounts.idle
            memory = process.memory()
            claims = webbuddy.counts()["calls"]["claim_empty"] - claims
        with start_ours(webbuddy.url, command=(*HYPERCORN, "trio_worker.asgi:app")) as process:
            process.url()
            time.sleep(AT_REST)
            as_guest = process.memory()
    alone = _hypercorn_alone()
    return [
        at_most(f"idle for {amounts.idle:g} s ({claims} claims): CPU", percent, 0.1, unit=" %", digits=3),
        at_most("idle: memory", memory, 60, unit=" MB", digits=1),
        at_most(
            f"idle under hypercorn: memory, beside its own {alone:.1f} MB",
            as_guest - alone,
            15,
            unit=" MB",
            digits=1,
        ),
    ]


def _hypercorn_alone() -> float:
    """Memory of hypercorn with an app that does nothing."""
    with folder() as directory:
        (directory / "empty.py").write_text(EMPTY_APP, encoding="utf-8")
        command = ["-m", *HYPERCORN, "empty:app"]
        with start(command, directory=directory, cores=WORKERS, environ={}) as process:
            process.url()
            time.sleep(AT_REST)
            return process.memory()
