"""A process dies at each step of a few queries' lives; another takes over, and nothing may be lost.

All deaths of all lives: ``python -m trio_worker.testing.simulation --life one --then dark`` and so on.
"""

from __future__ import annotations

import pytest

from trio_worker.testing.simulated_cases import LIVES, Case, Then
from trio_worker.testing.simulated_lives import deaths, live_and_die, second_deaths

# Of the rest, which is what people do meanwhile, every second step.
MAIN = [Then.FINE, Then.STOPPED, Then.DOWN, Then.DARK, Then.LOST, Then.TAKEN]
SEVERAL = 9  # of the other lives only so many steps; for all there is the command


def wrong(cases: list[Case]) -> list[str]:
    """Play them; of each that goes wrong, what is wrong and the command that repeats it."""
    found = []
    for case in cases:
        verdict = live_and_die(case)
        found += [f"{case.command}: {problem}" for problem in verdict.problems]
    return found


@pytest.mark.parametrize("then", list(Then))
def test_whenever_its_process_dies_a_query_ends_as_its_handler_has_said(then: Then) -> None:
    """No step of a query's life is one at which it can be lost, left in_progress or answered wrongly."""
    cases = deaths(Case("one", then), each=1 if then in MAIN else 2)
    assert len(cases) > 45
    assert wrong(cases) == []


@pytest.mark.parametrize("then", [Then.FINE, Then.DARK, Then.LOST, Then.STOLEN])
@pytest.mark.parametrize("life", [life for life in LIVES if life != "one"])
def test_so_do_queries_with_other_lives(life: str, then: Then) -> None:
    """Two at once, one that is put aside, one whose answer WebBuddy refuses, one that is cut off in time."""
    seed = list(LIVES).index(life)
    assert wrong(deaths(Case(life, then, seed=seed), each=SEVERAL)) == []


@pytest.mark.parametrize("then", [Then.FINE, Then.DARK, Then.LOST, Then.TAKEN])
def test_whoever_takes_over_may_die_as_well(then: Then) -> None:
    """A death in the middle of the recovery is a death like any other."""
    cases = [case for life in ("one", "two", "later") for case in second_deaths(Case(life, then), count=12)]
    assert wrong(cases) == []


def test_the_same_case_is_the_same_life() -> None:
    """A case that goes wrong can be looked at again."""
    case = Case("two", Then.LOST, step=60, seed=5)
    assert live_and_die(case) == live_and_die(case)
