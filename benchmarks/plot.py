"""The plot: queries a second over the number of consumers."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from benchmarks.contestants import CONTESTANTS
from benchmarks.figures import median
from benchmarks.throughput import Rates

__all__ = ["draw"]


def draw(rates: Rates, path: Path) -> str:
    """Draw what was measured into an SVG file, and say what was done."""
    if find_spec("matplotlib") is None:
        return "not drawn: pip install -e '.[bench]'"
    import matplotlib as mpl

    mpl.use("svg")
    # No time, no chance and no fonts of this machine in the file: it is committed.
    mpl.rcParams.update({"svg.hashsalt": "trio-worker", "svg.fonttype": "none", "font.family": "sans-serif"})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.2, 4.2))
    for name in CONTESTANTS:
        points = sorted(
            (consumers, median(rate.queries for rate in found))
            for (who, consumers), found in rates.items()
            if who == name
        )
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    numbers = sorted({consumers for _, consumers in rates})
    axes.set_xticks(numbers, [str(number) for number in numbers])
    axes.minorticks_off()
    axes.set_xlabel("consumers")
    axes.set_ylabel("queries a second, on one core")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, format="svg", metadata={"Date": None}, bbox_inches="tight")
    pyplot.close(figure)
    return f"drawn into {path}"
