"""Workers that are killed and restarted, over connections that break, lose nothing and repeat nothing.

The long form: ``python -m tests.kills --queries 500``.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.broken_way import Call, Passage
from tests.kill_agent import lines_of, make_text
from tests.kill_checks import log_problem, problems_of_passages, problems_of_runs
from tests.kills import run_trial
from tests.strikes import LAUNCHES

TEXT = make_text(7, "work", 2, 0.1)
BEGIN = ["Claimed by worker-1 (push)", "Started, time limit 300 s"]
AGAIN = ["Attempt 2 by worker-1, after the worker had died in the middle", "Started, time limit 300 s"]
STEPS = lines_of(TEXT)
PUT_BACK = f"+0.0s {BEGIN[0]} · +0.0s Put back into the queue after 0.0 s: stop"
END = ["Done after 0.2 s"]


@pytest.mark.parametrize("launch", LAUNCHES)
async def test_killed_over_and_over(tmp_path: Path, launch: str) -> None:
    """Each query ends as its handler said, once; each log is whole and in order; nothing is held."""
    trial = await run_trial(
        launch, queries=10, seed=1, directory=tmp_path, gap=12, seconds=120, LOOKS_APART="2"
    )
    # In the message: pytest shortens what is compared.
    told = "\n".join([trial.summary, f"again: python -m tests.kills --launch {launch}", *trial.problems])
    assert trial.problems == [], told
    assert trial.strikes.total() >= 2, trial.summary
    assert trial.way.cut_before + trial.way.cut_after >= 2, trial.summary


@pytest.mark.parametrize(
    ("entries", "cut", "problem"),
    [
        ([*BEGIN, *STEPS, *END], 0, None),
        ([*BEGIN, STEPS[0], *AGAIN, *STEPS, *END], 0, None),
        ([*BEGIN, STEPS[0], "Put back into the queue after 0.1 s: stop", *BEGIN, *STEPS, *END], 0, None),
        ([PUT_BACK, PUT_BACK, *BEGIN, *STEPS, *END], 0, "2 times"),
        ([PUT_BACK, *BEGIN, *STEPS, *END], 0, None),
        ([BEGIN[0], *AGAIN, *STEPS, *END], 0, None),
        ([*BEGIN, STEPS[0], "Taken up again, waits for its turn", *AGAIN, *STEPS, *END], 0, None),
        ([*BEGIN, f"+0.1s {STEPS[0]} · +0.2s {STEPS[1]}", *END], 0, None),
        ([*BEGIN, STEPS[0], *STEPS, *END], 1, None),
        ([*BEGIN, STEPS[0], *STEPS, *END], 0, "twice"),
        (["Taken up again, waits for its turn", *AGAIN, *STEPS, *END], 0, None),
        ([*STEPS, *END], 0, "begin"),
        ([*BEGIN, *STEPS], 0, "complete"),
        ([*BEGIN, STEPS[0], *END], 0, "complete"),
        ([*BEGIN, *reversed(STEPS), *END], 0, "complete"),
        ([*BEGIN, STEPS[1], *AGAIN, *STEPS, *END], 0, "interrupted"),
        ([*BEGIN, *STEPS, *END, STEPS[0]], 0, "complete"),
        ([*BEGIN, *STEPS, *lines_of(make_text(8, "work", 1, 0.1)), *END], 0, "complete"),
    ],
)
def test_what_the_check_says_of_a_log(entries: list[str], cut: int, problem: str | None) -> None:
    """Attempts may be repeated after a kill, entries only where an answer was cut; else it is a problem."""
    found = log_problem(TEXT, entries, cut=cut, claims=2 if "Put back" in str(entries) else 1)
    assert found is None if problem is None else problem in (found or "")


def test_two_handlers_at_once_are_noticed(tmp_path: Path) -> None:
    """A handler that ends after another has begun on its query is a problem; one that was killed is none."""
    runs = tmp_path / "runs"
    runs.write_text("begin 1 a\nbegin 2 b\nbegin 1 c\nend 1 c\nend 2 b\n")
    assert list(problems_of_runs(runs)) == []
    runs.write_text("begin 1 a\nbegin 1 c\nend 1 a\nend 1 c\n")
    (problem,) = problems_of_runs(runs)
    assert problem.startswith("query 1")


def test_a_result_that_is_reported_twice_is_noticed() -> None:
    """Two results for one query that WebBuddy has taken are a problem, also when an answer was cut."""
    release, done = ({"status": status} for status in ("queued", "done"))
    taken = [Passage(Call("PATCH", "/api/queries/1/", body), 200, cut=True) for body in (release, done)]
    assert list(problems_of_passages(taken)) == []
    (problem,) = problems_of_passages([*taken, taken[1]])
    assert "2 times" in problem
