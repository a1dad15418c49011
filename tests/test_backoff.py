"""The waits between two tries."""

from __future__ import annotations

import random

import pytest

from trio_worker.backoff import LONGEST_WAIT_ASKED_FOR, Backoff


class Highest(random.Random):
    """Draws the most there is to draw."""

    def uniform(self, a: float, b: float) -> float:
        return b


def seeded(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - jitter, no secret


def waits(backoff: Backoff, times: int) -> list[float]:
    return [backoff.next() for _ in range(times)]


def test_the_ceiling_doubles_up_to_the_most() -> None:
    """The longest possible waits are first, twice that, …, and never more than the most."""
    assert waits(Backoff(1, 60, Highest()), 8) == [1, 2, 4, 8, 16, 32, 60, 60]


def test_each_wait_is_drawn_from_the_whole_range() -> None:
    """Full jitter: both nearly nothing and nearly the ceiling come up."""
    backoff = Backoff(1, 1, seeded(1))
    drawn = waits(backoff, 1000)
    assert 0 <= min(drawn) < 0.05
    assert 0.95 < max(drawn) <= 1
    assert 0.45 < sum(drawn) / len(drawn) < 0.55


def test_after_a_reset_the_waits_are_short_again() -> None:
    """`reset` begins anew."""
    backoff = Backoff(1, 60, Highest())
    waits(backoff, 5)
    backoff.reset()
    assert waits(backoff, 2) == [1, 2]


def test_the_first_ceiling_is_never_above_the_most() -> None:
    """A most that is below the first is kept to."""
    assert waits(Backoff(5, 2, Highest()), 2) == [2, 2]


@pytest.mark.parametrize("asked", [0.0, 1.0, 60.0, 600.0])
def test_a_wait_is_never_shorter_than_the_server_asked_for(asked: float) -> None:
    """`Retry-After` is kept to, with the jitter on top, so that not everybody comes back at once."""
    drawn = [Backoff(1, 60, seeded(seed)).next(asked) for seed in range(200)]
    assert min(drawn) >= asked
    assert max(drawn) > asked + 0.5
    assert max(drawn) <= asked + 1


def test_a_server_cannot_put_the_worker_to_sleep_for_days() -> None:
    """Of an absurd `Retry-After` one hour is kept to; a negative one counts as none."""
    assert Backoff(1, 60, Highest()).next(10**9) == LONGEST_WAIT_ASKED_FOR + 1
    assert Backoff(1, 60, Highest()).next(-5) == 1


def test_a_thousand_failures_do_not_overflow() -> None:
    """An outage of weeks is a wait of at most the most."""
    assert waits(Backoff(1, 60, Highest()), 5000)[-1] == 60


def test_a_seed_makes_the_waits_repeatable() -> None:
    """The jitter comes from the module `random`: one seed there repeats a whole run."""
    state = random.getstate()
    random.seed(7)
    first = waits(Backoff(1, 60), 20)
    random.seed(7)
    second = waits(Backoff(1, 60), 20)
    random.setstate(state)
    assert first == second
