"""``python -m benchmarks``: measure everything, and print a table.

Single figures by their names: ``python -m benchmarks push growth``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import cores
from benchmarks.calls import calls
from benchmarks.concurrent import concurrent
from benchmarks.figures import FULL, QUICK, Amounts, Figure, table
from benchmarks.gentle import gentle
from benchmarks.growth import growth
from benchmarks.idle import idle
from benchmarks.lines import lines
from benchmarks.network import network
from benchmarks.outage import outage
from benchmarks.plot import draw
from benchmarks.processes import processes
from benchmarks.pushing import push, storm
from benchmarks.sharing import sharing
from benchmarks.startup import startup
from benchmarks.throughput import measure, throughput

PLOT = Path(__file__).parent / "throughput.svg"

FIGURES: dict[str, Callable[[Amounts], list[Figure]]] = {
    "calls": calls,
    "network": network,
    "push": push,
    "storm": storm,
    "outage": outage,
    "growth": growth,
    "idle": idle,
    "lines": lines,
    "concurrent": concurrent,
    "processes": processes,
    "sharing": sharing,
    "startup": startup,
    "gentle": gentle,
}
PARTS = ("journal", "recovery", "command", "pool")
"""Figures of single parts: programs of their own with their own output, run when they are named."""


def main() -> None:
    """Measure what is named, or everything but the single parts."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = ["throughput", *FIGURES, *PARTS]
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}; none: all but the last four"
    )
    parser.add_argument("--quick", action="store_true", help="small counts: to see that it works")
    parser.add_argument(
        "--plot", type=Path, help=f"draw into this file; without --quick it is {PLOT.name} here"
    )
    arguments = parser.parse_args()
    for name in arguments.names:
        if name not in names:
            parser.error(f"there is no {name!r}")
    if sys.platform != "linux":
        parser.error("it needs Linux: it looks into /proc")
    chosen = arguments.names or ["throughput", *FIGURES]
    amounts = QUICK if arguments.quick else FULL
    plot = arguments.plot or (None if arguments.quick else PLOT)
    cores.pin(0, cores.REFEREE)
    print(f"Python {sys.version.split()[0]}; {cores.describe()}", flush=True)
    figures: list[Figure] = []
    for name in chosen:
        print(f"… {name}", file=sys.stderr, flush=True)
        if name == "throughput":
            figures += _throughput(amounts, plot)
        elif name in PARTS:
            subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)
        else:
            figures += FIGURES[name](amounts)
    if figures:
        print(table(figures))


def _throughput(amounts: Amounts, plot: Path | None) -> list[Figure]:
    rates = measure(amounts)
    if plot is not None:
        print(f"… the plot is {draw(rates, plot)}", file=sys.stderr, flush=True)
    return throughput(amounts, rates)


if __name__ == "__main__":
    main()
