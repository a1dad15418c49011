"""Queries that are held already and only need a consumer: after a crash, or when they are due again."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from trio_worker.gate import Gate
from trio_worker.held import Held

__all__ = ["Backlog"]


class Backlog:
    """What consumers take before they claim anything new.

    A suspect, which may be what kills our processes, is given out only while nobody is at work, and nobody
    gets anything while it is: so that only it can be blamed for the next death, and only it is hit by it.

    Args:
        room: Closed while nothing may be begun, whatever waits; None: never. Whoever opens it calls
            `look_again`.

    Attributes:
        gate: Open while new queries may be claimed: no suspect waits or is at work.
        wake: Called when somebody who waits could take something; set by the intake.
    """

    def __init__(self, room: Gate | None = None) -> None:
        self.gate = Gate()
        self._room = room or Gate()
        self.wake: Callable[[], None] = _nobody
        self._ready: deque[Held] = deque()
        self._suspects: deque[Held] = deque()
        self._busy = 0
        self._alone = False

    @property
    def waiting(self) -> int:
        """How many wait for a consumer."""
        return len(self._ready) + len(self._suspects)

    @property
    def has_something(self) -> bool:
        """Whether `take` would give something now."""
        may_begin = self._room.is_open and not self._alone
        return may_begin and bool(self._ready or (self._suspects and not self._busy))

    def offer(self, held: Held) -> None:
        """Add a query that is to be run."""
        (self._suspects if held.is_suspect else self._ready).append(held)
        self._changed()

    def look_again(self) -> None:
        """There is room again: let somebody take what waits."""
        self._changed()

    def clear(self) -> list[Held]:
        """Give all that waits, and keep nothing."""
        waiting = [held for held in (*self._ready, *self._suspects) if not held.is_over]
        self._ready.clear()
        self._suspects.clear()
        self._changed()
        return waiting

    def take(self) -> Held | None:
        """Give a query, if there is one for this moment. Whoever takes it counts as busy until `end`."""
        self._forget_what_is_over()
        if not self.has_something:
            return None
        self.begin()
        if not self._ready:
            self._alone = True
            return self._suspects.popleft()
        held = self._ready.popleft()
        if self.has_something:
            self.wake()  # an end wakes one only, and may have let many go
        return held

    def begin(self) -> None:
        """A consumer is busy from now on: it claims, or is at work."""
        self._busy += 1

    def end(self) -> None:
        """A consumer has nothing to do any more."""
        self._busy -= 1
        if not self._busy:
            self._alone = False
        self._changed()

    def _forget_what_is_over(self) -> None:
        """Somebody took it while it waited."""
        for queue in (self._ready, self._suspects):
            while queue and queue[0].is_over:
                queue.popleft()
        self.gate.keep(open=not (self._suspects or self._alone))

    def _changed(self) -> None:
        self.gate.keep(open=not (self._suspects or self._alone))
        if self.has_something:
            self.wake()


def _nobody() -> None:
    pass
