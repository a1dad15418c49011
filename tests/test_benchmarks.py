"""The benchmarks can be run: each figure yields a number. What the numbers are, no test asks."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import postgres, throughput
from benchmarks.__main__ import FIGURES
from benchmarks.calls import calls_of_a_query
from benchmarks.contestants import CONTESTANTS, OURS, missing, start_contestant
from benchmarks.cores import several
from benchmarks.figures import QUICK, Figure, at_least, at_most, percentile, table
from benchmarks.webbuddy import TEXT, open_webbuddy

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the benchmarks need Linux")

QUERIES = 20


def assert_measured(figures: list[Figure]) -> None:
    """Each has a number; where something was to be reached, it is said whether it is."""
    assert figures
    for figure in figures:
        assert re.match(r"-?[\d,]+(\.\d+)?\b", figure.measured), figure
        assert (figure.reached is not None) == bool(figure.reach), figure


@pytest.mark.parametrize("name", sorted(FIGURES.keys() - {"processes", "gentle"}))
def test_each_figure_is_measured(name: str) -> None:
    """Over real processes, with small counts."""
    assert_measured(FIGURES[name](QUICK))


def test_two_processes_are_measured_or_it_is_said_why_not() -> None:
    """It needs four cores."""
    figures = FIGURES["processes"](QUICK)
    if several(2) is None:
        assert [figure.measured for figure in figures] == ["not measured: fewer than four cores"]
    else:
        assert_measured(figures)


def test_a_real_webbuddy_is_measured_or_it_is_said_why_not() -> None:
    """On SQLite always; on PostgreSQL, where none of our calls may fail, if that is installed."""
    on_sqlite, on_postgres = (FIGURES["gentle"](QUICK)[part] for part in (slice(2), slice(2, None)))
    assert_measured(on_sqlite)
    if postgres.missing() is None:
        assert_measured(on_postgres)
        assert [figure.measured for figure in on_postgres[:2]] == ["0", "0"]
    else:
        assert [figure.measured for figure in on_postgres] == [f"not measured: {postgres.missing()}"]


def test_throughput_is_measured() -> None:
    """All who can take part do; where the documented example can't, it is said what it needs."""
    rates = throughput.measure(QUICK)
    assert {name for name, _ in rates} == {name for name in CONTESTANTS if missing(name) is None}
    figures = throughput.throughput(QUICK, rates)
    assert_measured([figure for figure in figures if not figure.measured.startswith("not measured: pip")])


@pytest.mark.parametrize("name", CONTESTANTS)
def test_everybody_makes_the_same_calls_on_the_same_queries(name: str) -> None:
    """One claim, one log entry and one report for each; else the rates would not be comparable."""
    with open_webbuddy() as webbuddy:
        webbuddy.tell("create", number=QUERIES, text=TEXT)
        with start_contestant(name, webbuddy.url, 2, 1):
            webbuddy.until(lambda counts: counts["ended"] == QUERIES, "the end of all queries")
            counts = webbuddy.counts()["calls"]
        queries = webbuddy.tell("queries", after=0)
    assert (counts["claim"], counts["report"]) == (QUERIES, QUERIES)
    # Ours sends another entry for a query that takes longer than a quarter of a second, as on a slow machine.
    assert counts["log"] >= QUERIES if name == OURS else counts["log"] == QUERIES
    answers = {(query["status"], query["answer"]) for query in queries}
    assert answers == {("done", "An answer of the usual length, in one sentence.")}


def test_a_short_query_is_claimed_and_reported_once() -> None:
    """This does not depend on the machine."""
    calls = calls_of_a_query(QUICK)
    assert (calls["claim"], calls["report"]) == (1, 1)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command, as a reader of the README does."""
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
    )


def test_the_command_measures_what_is_named_and_prints_a_table() -> None:
    """Nothing else."""
    done = run("--quick", "calls", "processes")
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert len(rows) == 4
    assert rows[2].startswith("| calls for a short query (1 claim, ")
    assert rows[3].startswith("| two processes, against one")


def test_the_command_names_what_there_is_when_it_does_not_know_a_name() -> None:
    """Nothing is measured then."""
    done = run("--quick", "thruput")
    assert done.returncode == 2
    assert "there is no 'thruput'" in done.stderr
    assert not done.stdout


def test_a_figure_that_is_not_reached_is_shown_as_it_is() -> None:
    """On either side."""
    slow = at_least("speed", 499.6, 500, unit="/s", digits=1)
    large = at_most("size", 15.04, 15, unit=" MB", digits=2)
    assert (slow.reached, large.reached) == (False, False)
    assert table([slow, large, at_most("time", 4, 4, unit=" ms"), Figure("other", "not measured")]) == (
        "| figure | measured     | to reach   | reached |\n"
        "|--------|--------------|------------|---------|\n"
        "| speed  | 499.6/s      | ≥ 500.0/s  | **no**  |\n"
        "| size   | 15.04 MB     | ≤ 15.00 MB | **no**  |\n"
        "| time   | 4 ms         | ≤ 4 ms     | yes     |\n"
        "| other  | not measured |            |         |"
    )


def test_a_percentile_is_a_value_that_was_measured() -> None:
    """As many per cent do not exceed it."""
    values = [float(value) for value in range(1000, 0, -1)]
    assert (percentile(values, 50), percentile(values, 99), percentile([7.0], 99)) == (501, 991, 7)
