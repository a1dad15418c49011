"""Handlers that could not be stopped: how many still run, and how many are too many."""

from __future__ import annotations

import math
from collections.abc import Callable

import attrs
import structlog

from trio_worker.gate import Gate

__all__ = ["LeftBehind"]

log = structlog.get_logger(__name__)


def _nobody(*_: object) -> None:
    pass


@attrs.define(eq=False)
class LeftBehind:
    """Counts the handlers that were left behind and have not ended yet.

    Each of them keeps its memory and its connections, a thread its processor too. When there are more of them
    than consumers, the next query would most likely add one: so nothing is begun then, be it new or held
    already, and the worker says that it is not ready. At most twice as many handlers run as the operator has
    asked for.

    Not as many as there are consumers: a single consumer could not go on after its first.

    Attributes:
        changed: Told how many there are, whenever that changes.
        most: More are too many.
        too_many: Told what is wrong, as a sentence, when that comes about.
        enough_ended: Called when there are no longer too many; the gate is open then.
        gate: Closed while there are too many.
        tasks: Async ones.
        threads: Plain ones.
    """

    changed: Callable[[int], None] = _nobody
    most: float = math.inf
    too_many: Callable[[str], None] = _nobody
    enough_ended: Callable[[], None] = _nobody
    gate: Gate = attrs.field(factory=Gate, init=False)
    tasks: int = attrs.field(default=0, init=False)
    threads: int = attrs.field(default=0, init=False)

    @property
    def problem(self) -> str | None:
        """What is wrong, as a sentence, or None."""
        if self._count <= self.most:
            return None
        return (
            f"{self._count} handlers could not be stopped and still run: with more than {self.most:g} of them"
            " nothing new is claimed"
        )

    def add(self, *, tasks: int = 0, threads: int = 0) -> None:
        """Count some more, or fewer."""
        self.tasks += tasks
        self.threads += threads
        self.changed(self._count)
        problem = self.problem
        if (problem is None) != self.gate.is_open:
            self._turn(problem)

    @property
    def _count(self) -> int:
        return self.tasks + self.threads

    def _turn(self, problem: str | None) -> None:
        self.gate.keep(open=problem is None)
        if problem is None:
            log.warning("enough of the handlers that were left behind have ended: queries are claimed again")
            self.enough_ended()
        else:
            log.error("too many handlers were left behind; a restart of the worker ends them", reason=problem)
            self.too_many(problem)
