"""The figures of one process: their names, and whom to ask for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import attrs

from trio_worker.tallies import Count, Pair, Spread, Spreads

__all__ = ["FIGURES", "PREFIX", "Figure", "Figures", "Snapshot", "Source"]

PREFIX = "trio_worker_"

Source = Callable[[], float | Count | Spread | Spreads | Mapping[str, float] | Mapping[Pair, float] | None]
"""None: there is nothing to show just now."""

Snapshot = dict[str, list[tuple[list[str], Any]]]
"""By the name of a figure: the values of its labels, and a number or, for a histogram, ``bounds``, ``counts``
and ``sum`` as of `Spread`. As JSON has it."""


@attrs.frozen
class Figure:
    """What a figure is.

    Attributes:
        name: As it is shown.
        kind: How Prometheus calls it. A counter only grows, from 0 at the start of its process.
        labels: What it is told apart by. Never by a query, a user or a text: there would be no end of those.
        help: What it means, as a sentence.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str


def _figure(name: str, kind: Literal["counter", "gauge", "histogram"], help: str, *labels: str) -> Figure:
    return Figure(PREFIX + name, kind, labels, help)


FIGURES = {
    figure.name: figure
    for figure in (
        _figure(
            "claims_total",
            "counter",
            "Claims by result: found, empty, busy (a plain 500), failed (nothing can have been claimed),"
            " lost (something may have been, and nobody knows what).",
            "result",
        ),
        _figure(
            "queries_total",
            "counter",
            "Queries by outcome: done, failed, put_back into the queue, put_aside (RetryLater),"
            " taken_away (ended, requeued or deleted by somebody).",
            "outcome",
        ),
        _figure(
            "failures_total",
            "counter",
            "Failed queries by kind: error, timeout, left_behind and others.",
            "kind",
        ),
        _figure(
            "pickup_seconds",
            "histogram",
            "From the creation of a query to its claim, by WebBuddy's clock, by how it was found: push or"
            " poll. Of queries that nobody has claimed before.",
            "source",
        ),
        _figure("run_seconds", "histogram", "How long the handler was at work on a query."),
        _figure(
            "report_delay_seconds",
            "histogram",
            "From the end of a query to the moment in which WebBuddy had its result, also over a restart.",
        ),
        _figure("consumers", "gauge", "How many consumers there are."),
        _figure("consumers_busy", "gauge", "How many of them have a handler at work."),
        _figure(
            "consumer_busy_seconds_total",
            "counter",
            "For how long they had one, all together; what is at work is in it.",
        ),
        _figure(
            "queue_length",
            "gauge",
            "How many queries wait at WebBuddy, as far as this account sees; one process of a state folder"
            " shows it.",
        ),
        _figure(
            "wakeups_total",
            "counter",
            "What told consumers to ask: push, poll, second_look (after a push that found nothing),"
            " claim (one that found something wakes others), bus (another worker).",
            "source",
        ),
        _figure(
            "bus_hints_total",
            "counter",
            "Hints that a query may wait: offered to other workers, taken from them, and of those in_vain"
            " (nothing was found).",
            "fate",
        ),
        _figure("bus_up", "gauge", "1 while hints can be shared with other workers, else 0."),
        _figure(
            "webbuddy_calls_total",
            "counter",
            "Requests to WebBuddy, log-ins too, by endpoint and class of status; none: no answer.",
            "endpoint",
            "status",
        ),
        _figure("webbuddy_call_seconds", "histogram", "How long they took, by endpoint.", "endpoint"),
        _figure(
            "retries_total",
            "counter",
            "Calls made again after a failure, by what for: claim, log, report.",
            "call",
        ),
        _figure("token_renewals_total", "counter", "New tokens, by way: login or refresh.", "way"),
        _figure(
            "held_queries",
            "gauge",
            "Queries in the journal, by state: running, waiting for a consumer, put_aside, ended (and not yet"
            " reported).",
            "state",
        ),
        _figure("dead_letters", "gauge", "Results that WebBuddy refuses for good: trio-worker outbox."),
        _figure(
            "results_refused_total",
            "counter",
            "Results that WebBuddy refused: failed was reported instead, or they are dead letters.",
        ),
        _figure(
            "lost_claims", "gauge", "Times in which a claim was lost, and whose queries are still looked for."
        ),
        _figure("lost_queries_total", "counter", "Queries that were found to be those of lost claims."),
        _figure(
            "log_lines_total",
            "counter",
            "Lines of queries' logs: sent in an entry of their own, gathered with others in one, dropped"
            " (left out as too many, or refused).",
            "fate",
        ),
        _figure(
            "token_usages_total",
            "counter",
            "Calls of models that were told to WebBuddy (sent) or not (dropped: refused, too old, not known"
            " there).",
            "fate",
        ),
        _figure(
            "left_behind",
            "gauge",
            "Handlers that could not be stopped and still run, by kind: task or thread.",
            "kind",
        ),
        _figure(
            "event_loop_delay_seconds",
            "histogram",
            "How late the event loop was, looked at twice a second.",
        ),
        _figure(
            "pushes_total",
            "counter",
            "Requests to the push endpoint by result: accepted or refused.",
            "result",
        ),
        _figure("foreign_pushes_total", "counter", "Accepted pushes that named another WebBuddy than ours."),
        _figure("pushes_broken", "gauge", "1 while pushes do not come though they once did, else 0."),
        _figure("ready", "gauge", "1 if the worker can do its job just now, else 0; as GET /readyz."),
        _figure("not_ready", "gauge", "1 for each reason why not, else 0.", "reason"),
        _figure("late_loops", "gauge", "Loops that are half a minute late; as GET /livez."),
    )
}
"""All that there are, by name, but `build_info` and `processes`, which are none of a process's own."""


class Figures:
    """Knows whom to ask for each figure.

    Made before the service, which tells it. What nobody has told of is not shown.
    """

    def __init__(self) -> None:
        self._sources: dict[str, Source] = {}

    def ask(self, sources: Mapping[str, Source]) -> None:
        """Ask these from now on.

        Args:
            sources: By the name of a figure without its prefix. Synchronous and cheap.

        Raises:
            ValueError: There is no such figure.
        """
        named = {PREFIX + name: source for name, source in sources.items()}
        if unknown := named.keys() - FIGURES.keys():
            raise ValueError(f"no such figures: {', '.join(sorted(unknown))}")
        self._sources |= named

    def read(self) -> Snapshot:
        """Read all of them, in the order of `FIGURES`. On the thread of the event loop."""
        return {name: _samples(self._sources[name]()) for name in FIGURES if name in self._sources}


def _samples(
    value: float | Count | Spread | Spreads | Mapping[Any, float] | None,
) -> list[tuple[list[str], Any]]:
    match value:
        case None:
            return []
        case Count() | Spreads():
            return [(_labels(kind), _plain(number)) for kind, number in value.by.items()]
        case Mapping():
            return [(_labels(kind), number) for kind, number in value.items()]
    return [([], _plain(value))]


def _labels(kind: str | Pair) -> list[str]:
    return [kind] if isinstance(kind, str) else list(kind)


def _plain(value: float | Spread) -> Any:
    if isinstance(value, Spread):
        return {"bounds": list(value.bounds), "counts": list(value.counts), "sum": value.sum}
    return value
