"""WebBuddy's clock, from the `Date` headers of its answers."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

import attrs
import pytest

from trio_worker import clock
from trio_worker.server_clock import ServerClock

START = 1_795_000_000.0


@attrs.define
class Machines:
    """Two machines with a clock each, and a client on one that asks the other."""

    ahead: float
    now: float = START
    wall: float = 0.0  # by how much our wall clock was set
    server: ServerClock = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.server = ServerClock(lambda: self.now)

    def ask(self, *, there: float = 0.02, back: float = 0.02) -> None:
        asked_at = self.now
        self.now += there
        date = math.floor(self.now + self.ahead)
        self.now += back
        self.server.heard(date, asked_at)

    @property
    def error(self) -> float:
        return abs(self.server.now() - (self.now + self.ahead))


@pytest.fixture(params=[0.0, 0.7, -12.3, 86_400.5])
def machines(request: pytest.FixtureRequest) -> Iterator[Machines]:
    machines = Machines(request.param)
    before = clock.source.set(lambda: machines.now + machines.wall)
    yield machines
    clock.source.reset(before)


def test_before_the_first_answer_it_is_our_own(machines: Machines) -> None:
    """There is nothing better to go by."""
    assert not machines.server.is_known
    assert machines.server.now() == machines.now


def test_one_answer_is_enough(machines: Machines) -> None:
    """Right to a second after the first."""
    machines.ask()
    assert machines.server.is_known
    assert machines.error <= 0.55


def test_it_stays_right(machines: Machines) -> None:
    """Whatever the answers take, and in whatever moment of a second they are asked for."""
    draw = random.Random(4)  # noqa: S311 - no secret
    for _ in range(500):
        machines.now += draw.uniform(0, 90)
        machines.ask(there=draw.uniform(0, 0.2), back=draw.uniform(0, 0.2))
        assert machines.error <= 1.0


def test_it_gets_better(machines: Machines) -> None:
    """Many quick answers narrow it down."""
    for _ in range(200):
        machines.now += 1.137
        machines.ask()
    assert machines.error <= 0.1


def test_a_slow_answer_spoils_nothing(machines: Machines) -> None:
    """An answer after half a minute says little, and little is taken from it."""
    for _ in range(50):
        machines.now += 1.137
        machines.ask()
    machines.ask(there=15, back=15)
    assert machines.error <= 0.1


@pytest.mark.parametrize("change", [3600.0, -3600.0, 5.0])
def test_a_clock_that_is_set_is_followed(machines: Machines, change: float) -> None:
    """Theirs: with the next answer."""
    machines.ask()
    machines.ahead += change
    machines.ask()
    assert machines.error <= 1.05


@pytest.mark.parametrize("change", [3600.0, -3600.0, 5.0])
def test_our_own_clock_may_be_set(machines: Machines, change: float) -> None:
    """That changes nothing, from the first moment on: a claim that is lost just then is dated right."""
    machines.ask()
    machines.wall += change
    assert machines.error <= 1.05
    machines.ask()
    assert machines.error <= 1.05
