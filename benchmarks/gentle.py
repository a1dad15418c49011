"""What our calls do to a real WebBuddy: on SQLite, where they harm each other, and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec

from benchmarks import postgres
from benchmarks.contestants import folder, start_ours
from benchmarks.cores import ALL
from benchmarks.figures import Amounts, Figure, at_least, at_most
from benchmarks.noted_calls import Call, most_at_once
from benchmarks.process import until
from benchmarks.real_webbuddy import PASSWORD, RealWebBuddy, open_real_webbuddy

__all__ = ["gentle", "on_postgres", "on_sqlite", "work_off"]

SQLITE, POSTGRES = "SQLite", "PostgreSQL"


def gentle(amounts: Amounts) -> list[Figure]:
    """Let a worker loose on a long queue, and count at the server how its calls end."""
    if find_spec("rest_framework_simplejwt") is None:
        return [Figure(f"claims on {SQLITE} that end in 500", "not measured: pip install -e '.[bench]'")]
    figures = []
    with folder() as directory, open_real_webbuddy(directory) as webbuddy:
        for consumers in amounts.gentle_consumers:
            figures += on_sqlite(consumers, work_off(webbuddy, amounts.gentle, consumers))
    reason = postgres.missing()
    if reason is not None:
        return [*figures, Figure(f"claims on {POSTGRES} that end in 500", f"not measured: {reason}")]
    with _open_postgres() as webbuddy:
        for consumers in amounts.gentle_consumers:
            figures += on_postgres(consumers, work_off(webbuddy, amounts.gentle, consumers))
    return figures


@contextmanager
def _open_postgres() -> Iterator[RealWebBuddy]:
    with (
        folder() as directory,
        folder() as data,
        postgres.open_postgres(data) as socket,
        open_real_webbuddy(directory, socket) as webbuddy,
    ):
        yield webbuddy


def work_off(webbuddy: RealWebBuddy, queries: int, consumers: int) -> list[Call]:
    """Create queries, let a new worker work them off, and give the calls that this took."""
    before = len(webbuddy.calls())
    webbuddy.create(queries)
    with start_ours(webbuddy.url, consumers, password=PASSWORD, cores=ALL):
        until(lambda: _reports(webbuddy.calls()[before:]) >= queries, "the last report", look=0.1)
    return webbuddy.calls()[before:]


def _reports(calls: Sequence[Call]) -> int:
    return sum(call.kind == "report" and call.status == 200 for call in calls)


def on_sqlite(consumers: int, calls: Sequence[Call]) -> list[Figure]:
    """Judge the calls of so many consumers: they had to find out that they are to take turns."""
    claims = [call for call in calls if call.kind == "claim"]
    what = f"{SQLITE}, {consumers} consumers ({_rate(calls):.0f} queries/s)"
    percent = _percent(_failed(claims), claims)
    return [
        Figure(f"{what}: of {len(claims)} claims end in 500", f"{percent:.1f} %", "< 2 %", percent < 2),
        Figure(f"{what}: of all {len(calls)} calls", f"{_percent(_failed(calls), calls):.1f} %"),
    ]


def on_postgres(consumers: int, calls: Sequence[Call]) -> list[Figure]:
    """Judge the calls of so many consumers: nothing was to be held back.

    Only a call that fails lowers the number of calls at once. That it is as high as it can be used shows in
    the most that were under way.
    """
    claims = [call for call in calls if call.kind == "claim"]
    what = f"{POSTGRES}, {consumers} consumers ({_rate(calls):.0f} queries/s)"
    return [
        at_most(f"{what}: of {len(claims)} claims end in 500", _failed(claims), 0, unit=""),
        at_most(f"{what}: of all {len(calls)} calls, in 429 or 5xx", _failed(calls), 0, unit=""),
        at_least(f"{what}: most calls at once", most_at_once(calls), consumers, unit=""),
    ]


def _failed(calls: Sequence[Call]) -> int:
    return sum(call.status == 429 or call.status >= 500 for call in calls)


def _percent(number: int, calls: Sequence[Call]) -> float:
    return 100 * number / len(calls)


def _rate(calls: Sequence[Call]) -> float:
    began = min(call.began for call in calls if call.kind == "claim")
    ends = [call.ended for call in calls if call.kind == "report" and call.status == 200]
    return len(ends) / (max(ends) - began)
