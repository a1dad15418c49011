"""Sharing wake-ups with other workers: passing on those that nobody here is free for, and taking theirs."""

from __future__ import annotations

import random
from typing import Never

import attrs

from trio_worker.backoff import Backoff
from trio_worker.bus import MOST_HINTS, Bus, Hint
from trio_worker.intake import Intake
from trio_worker.liveness import Pulse
from trio_worker.tallies import Count
from trio_worker.wakeups import Announcements, Wakeups

__all__ = ["Sharing"]

LONGEST_PAUSE = 2.0
"""Seconds, the longest, for which a worker leaves the bus alone after hints that were worth nothing: one that
lies costs a few claims a second."""


@attrs.define(kw_only=True, eq=False)
class Sharing:
    """A worker's end of the bus.

    ::

        a push, and no consumer is free ──▶ offered, and still expected here
        a claim that shows a backlog,   ──▶ offered
          and no consumer is free
        a query was put back,           ──▶ offered: WebBuddy tells nobody
          and no consumer is free

        a consumer is free ──▶ take one hint ──▶ claim ──found────▶ take the next
                                                   ├──nothing──▶ drop what waits behind it, and claim again
                                                   └──failed───▶ give the hint back

    Nothing is worse than without a bus: what was offered is still expected here, and whoever is free first
    claims it. Of the hints that wait a worker takes one at a time, which spreads them over all; one that has
    found nothing speaks for all that waited behind it, so that the end of a backlog costs two claims and not
    one for each hint. Its own that come back it drops: it has looked by itself.

    Attributes:
        bus: The bus.
        wakeups: Rung by hints.
        announced: Told which ids they name.
        intake: Whether a claim may be sent, and by whom.
        pulse: Says when it goes on after a pause.
        hints: How many were offered to the bus, taken from it, and of the latter in vain.
    """

    bus: Bus
    wakeups: Wakeups
    announced: Announcements
    intake: Intake
    pulse: Pulse = attrs.field(factory=Pulse)
    hints: Count = attrs.field(factory=lambda: Count("offered", "taken", "in_vain"), init=False)
    _me: int = attrs.field(factory=lambda: random.getrandbits(53), init=False)

    def pass_on(self, query: int) -> None:
        """Let another worker know that a query may wait. Never waits.

        Args:
            query: Its number, where a push has named it; else 0.
        """
        self.hints.add("offered")
        self.bus.offer(Hint(query, self._me))

    async def take_part(self) -> Never:
        """Take hints as long as there is a free consumer. Never returns. Cancelled, one hint may be lost."""
        pauses = Backoff(first=0.05, most=LONGEST_PAUSE)
        own = 0
        while True:
            self.pulse.rest()  # claims are watched by themselves, and others may have nothing to say for days
            await self.intake.free()
            hint = await self.bus.take(lambda: self.intake.is_free)
            if hint is None:
                continue
            if not self.intake.is_free:  # not any more: a push has come, or a pause
                self.bus.offer(hint)
                continue
            if hint.sender == self._me:
                own += 1
                if own % MOST_HINTS == 0:  # hardly more wait on a bus, unless it gives back what it was told
                    await self.pulse.sleep(LONGEST_PAUSE)
                continue
            own = 0
            self.hints.add("taken")
            if await self._is_worth_it(hint):
                pauses.reset()
            else:
                self.hints.add("in_vain")
                await self.pulse.sleep(pauses.next())

    async def _is_worth_it(self, hint: Hint) -> bool:
        found = await self._claim(hint.query)
        if found is None:  # it is this worker that can't claim: others may
            self.bus.offer(hint)
            return False
        # Only what was dropped before a claim is sent can't be missed by it.
        return found or (await self.bus.clear() and bool(await self._claim(0)))

    async def _claim(self, query: int) -> bool | None:
        """Let one consumer claim; whether it has found something, None: not known."""
        if query:
            self.announced.add(query)
        return await self.wakeups.told(named=bool(query))
