"""Obeying what an operator orders while the worker runs: a pause, or a drain."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import structlog

from trio_worker.errors import JournalError
from trio_worker.gate import Gate
from trio_worker.journal import Journal
from trio_worker.liveness import Pulse
from trio_worker.stop import Stop
from trio_worker.trouble import Trouble

__all__ = ["LOOK_FOR_ORDERS", "PAUSED", "Pause"]

log = structlog.get_logger(__name__)

LOOK_FOR_ORDERS = 2.0
"""Seconds between two looks: an operator waits for it, and each costs about 0.1 ms."""

PAUSED = "it is paused: nothing new is taken"


def _nobody(_reason: str) -> None:
    pass


@attrs.define(kw_only=True, eq=False)
class Pause:
    """Whether the worker is paused. What it holds already goes on meanwhile.

    Attributes:
        journal: Knows the folder in which orders lie.
        stop: What a drain is ordered from.
        every: Seconds between two looks.
        pulse: Says when the next look is due.
        give_up: Told why nothing new is taken, when that comes about; for a worker on an errand.
        gate: Open while the worker is not paused; closed until the first look.
        problem: Why nothing new is taken, as a sentence, or None.
    """

    journal: Journal
    stop: Stop
    every: float
    pulse: Pulse = attrs.field(factory=Pulse)
    give_up: Callable[[str], None] = _nobody
    gate: Gate = attrs.field(factory=Gate, init=False)
    problem: str | None = attrs.field(default="whether it is paused is not known yet", init=False)
    _unreadable: Trouble = attrs.field(
        factory=lambda: Trouble(
            log,
            "whether the worker is to pause or to drain can't be read",
            over="whether the worker is to pause or to drain can be read again",
        ),
        init=False,
    )

    def __attrs_post_init__(self) -> None:
        self.gate.close()

    async def obey(self) -> None:
        """Look for orders, and follow them. Never returns."""
        while True:
            self.pulse.rest()  # the disk is watched where it is written to
            try:
                orders = await self.journal.orders()
            except JournalError as error:
                self._unreadable.happened(reason=str(error))
            else:
                self._unreadable.is_over()
                self._set(paused=orders.paused)
                if orders.drain:
                    self.stop.drain()
            await self.pulse.sleep(self.every)

    def _set(self, *, paused: bool) -> None:
        before, self.problem = self.problem, PAUSED if paused else None
        if paused and before != PAUSED:
            log.warning("paused: nothing new is taken until `trio-worker resume`")
            self.give_up("the workers of this folder are paused: `trio-worker resume` lets them go on")
        elif before == PAUSED and not paused:
            log.info("resumed: queries are taken again")
        self.gate.keep(open=not paused)
