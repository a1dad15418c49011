"""Deaths that are to be played: whose, when, and what happens around them."""

from __future__ import annotations

from enum import StrEnum

import attrs

from trio_worker.testing.simulated_handler import Kind, Plan

__all__ = ["LIVES", "Case", "Then", "Verdict"]

LIVES = {
    "one": (Plan("a", seconds=0.6),),
    "two": (Plan("a", seconds=0.6), Plan("b", Kind.FAIL, seconds=1.5, lines=3)),
    "later": (Plan("a", Kind.LATER, lines=1, seconds=0.3),),
    "refused": (Plan("a", Kind.REFUSED, lines=1, seconds=0.3),),
    "timeout": (Plan("a", Kind.TIMEOUT, lines=1, seconds=0.3),),
}
"""What is asked in the course of one life."""


class Then(StrEnum):
    """What happens around the death.

    - ``fine``: nothing.
    - ``stopped``, ``hurried``: it is no death: the process is asked to stop, by one signal or by two.
    - ``down``: WebBuddy is down for an hour from the death on.
    - ``dark``: WebBuddy goes down while the first handler is at work, for some minutes.
    - ``stolen``: we are cut off instead, and in the meantime another worker is given the queries.
    - ``lost``: many answers are lost, before and after it.
    - ``requeued``, ``deleted``, ``answered``: by a person, while we are dead, whatever has not ended.
    - ``taken``: … is put back by a person, and claimed by another worker.
    """

    FINE = "fine"
    STOPPED = "stopped"
    HURRIED = "hurried"
    DOWN = "down"
    DARK = "dark"
    STOLEN = "stolen"
    LOST = "lost"
    REQUEUED = "requeued"
    DELETED = "deleted"
    ANSWERED = "answered"
    TAKEN = "taken"


@attrs.frozen
class Case:
    """One death.

    Attributes:
        life: Which of `LIVES`.
        then: What happens around it.
        step: At whose beginning the process dies; 0: it does not.
        again: The step of the second process, which takes over, at which that dies, too; 0: it does not.
        seed: For the order in which tasks run, and which answers are lost. If even, the disk is slow.
    """

    life: str
    then: Then = Then.FINE
    step: int = 0
    again: int = 0
    seed: int = 0

    @property
    def command(self) -> str:
        """What repeats it."""
        options = f"--life {self.life} --then {self.then} --step {self.step}"
        options += f" --again {self.again}" * bool(self.again) + f" --seed {self.seed}"
        return f"python -m trio_worker.testing.simulation {options}"


@attrs.define
class Verdict:
    """What came of it.

    Attributes:
        steps: How many steps the first process lived.
        problems: What is wrong.
        history: What happened, for people.
    """

    steps: int = 0
    problems: list[str] = attrs.field(factory=list)
    history: list[str] = attrs.field(factory=list)
