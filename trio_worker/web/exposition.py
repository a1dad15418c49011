"""The figures in the formats of Prometheus. Imported when they are first asked for, and not before."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from trio_worker.figures import FIGURES, PREFIX, Figure, Snapshot

__all__ = ["PROCESS", "expose", "read_process"]

PROCESS = "process"
"""The label that tells the processes behind one address apart: a counter of all together would fall when one
of them starts anew."""

_OF_A_PROCESS: Any = CollectorRegistry()  # none that others register with, or look into
ProcessCollector(registry=_OF_A_PROCESS)


def read_process() -> list[list[Any]]:
    """Read CPU time, memory and open files of this process, where the system tells.

    Returns:
        Name, kind, help and value of each; as JSON has it.
    """
    families = list(_OF_A_PROCESS.collect())
    return [[one.name, one.type, one.documentation, one.samples[0].value] for one in families if one.samples]


def expose(answers: Mapping[int, Mapping[str, Any]], accept: str) -> tuple[bytes, str]:
    """Write the figures of some processes.

    Args:
        answers: By the number of each process: ``figures``, as of `Figures.read`, and ``process``, as of
            `read_process`.
        accept: The ``Accept`` header of who asks.

    Returns:
        The text, and its Content-Type.
    """
    encode, content_type = choose_encoder(accept)
    registry: Any = CollectorRegistry()
    registry.register(_Processes(answers))
    return encode(registry), content_type


class _Processes(Collector):
    def __init__(self, answers: Mapping[int, Mapping[str, Any]]) -> None:
        self._answers = dict(sorted(answers.items()))

    def collect(self) -> Iterator[Metric]:
        yield _build()
        count = GaugeMetricFamily(f"{PREFIX}processes", "How many processes have given their figures here.")
        count.add_metric([], len(self._answers))
        yield count
        snapshots = {str(number): answer["figures"] for number, answer in self._answers.items()}
        for figure in FIGURES.values():
            if any(figure.name in snapshot for snapshot in snapshots.values()):
                yield _family(figure, snapshots)
        yield from self._of_the_processes()

    def _of_the_processes(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        for number, answer in self._answers.items():
            for name, kind, said, value in answer["process"]:
                new = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
                family = families.setdefault(name, new(name, said, labels=[PROCESS]))
                family.add_metric([str(number)], value)  # type: ignore[attr-defined]
        return families.values()


def _build() -> Metric:
    try:
        own = version("trio-worker")
    except PackageNotFoundError:  # run from a checkout that was not installed
        own = "unknown"
    values = {"version": own, "python": platform.python_version()}
    return InfoMetricFamily(f"{PREFIX}build", "What runs here.", value=values)


def _family(figure: Figure, snapshots: Mapping[str, Snapshot]) -> Metric:
    kinds = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "histogram": HistogramMetricFamily}
    family: Any = kinds[figure.kind](figure.name, figure.help, labels=[PROCESS, *figure.labels])
    for process, snapshot in snapshots.items():
        for labels, value in snapshot.get(figure.name, ()):
            if figure.kind == "histogram":
                family.add_metric(
                    [process, *labels], _buckets(value["bounds"], value["counts"]), value["sum"]
                )
            else:
                family.add_metric([process, *labels], value)
    return family  # type: ignore[no-any-return]


def _buckets(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, int]]:
    names = [*map(floatToGoString, bounds), "+Inf"]
    return list(zip(names, accumulate(counts), strict=True))
