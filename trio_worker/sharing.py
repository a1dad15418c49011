"""Sharing wake-ups with other workers: passing on those that nobody here is free for, and taking theirs."""

from __future__ import annotations

import random
from collections import deque
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

MOST_AHEAD = 15
"""For how many hints a worker that finds something claims at most before it waits for an answer again."""


@attrs.define(kw_only=True, eq=False)
class Sharing:
    """A worker's end of the bus.

    ::

        a push, and no consumer is free ──▶ offered, and still expected here
        a claim that shows a backlog,   ──▶ offered
          and no consumer is free
        a query was put back,           ──▶ offered: WebBuddy tells nobody
          and no consumer is free

        a consumer is free ──▶ take one hint ──▶ claim ──found────▶ take the next, of pushes soon several
                                                   │                before one of their claims is answered
                                                   ├──nothing──▶ drop what waits behind it, and claim again
                                                   └──failed───▶ give the hint back

    Nothing is worse than without a bus: what was offered is still expected here, and whoever is free first
    claims it. Of the hints that wait a worker takes one at a time, which spreads them over all, and claims
    ahead of an answer for 1, 3, 7 and then 15 more while it finds something: one claim a round trip would be
    less than is pushed. One that has found nothing speaks for all that waited behind it, so that the end of a
    backlog costs two claims, or what was sent ahead, and not one for each hint. Its own that come back it
    drops: it has looked by itself.

    Attributes:
        bus: The bus.
        wakeups: Rung by hints.
        announced: Told which ids they name.
        intake: Whether a claim may be sent, and by whom.
        pulse: Says when it goes on after a pause.
        hints: How many were offered to the bus, taken from it, and of the latter in vain, as far as their
            answers were waited for.
    """

    bus: Bus
    wakeups: Wakeups
    announced: Announcements
    intake: Intake
    pulse: Pulse = attrs.field(factory=Pulse)
    hints: Count = attrs.field(factory=lambda: Count("offered", "taken", "in_vain"), init=False)
    _taken: deque[Hint] = attrs.field(factory=lambda: deque(maxlen=MOST_AHEAD + 1), init=False)  # named ones
    _window: int = attrs.field(default=0, init=False)  # after the last answer that was waited for
    _ahead: int = attrs.field(default=0, init=False)  # what is left of it
    _times_empty: int = attrs.field(default=0, init=False)  # at that answer
    _me: int = attrs.field(factory=lambda: random.getrandbits(53), init=False)

    def pass_on(self, query: int) -> None:
        """Let another worker know that a query may wait. Never waits.

        Args:
            query: Its number, where a push has named it; else 0.
        """
        self.hints.add("offered")
        self.bus.offer(Hint(query, self._me))

    def give_back(self) -> None:
        """A claim has failed here: let others have what it may have been for. Never waits."""
        for hint in self._unclaimed():
            self.bus.offer(hint)
        self._answered(found=False)

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
            if hint.query and self._ahead and not self._was_empty:
                self._ahead -= 1
                self._note(hint)
                self.wakeups.hinted(named=True)
            elif await self._is_worth_it(hint):
                pauses.reset()
            else:
                self.hints.add("in_vain")
                await self.pulse.sleep(pauses.next())

    @property
    def _was_empty(self) -> bool:
        """Whether the queue was found empty since the last answer that was waited for."""
        return self.announced.times_empty > self._times_empty

    async def _is_worth_it(self, hint: Hint) -> bool:
        # Claimed for ahead, and not found in an empty queue: that one speaks for all that wait behind it.
        if self._was_empty and self._unclaimed():
            found = await self._claim(Hint(0, 0) if await self.bus.clear() else hint)
        else:
            found = await self._claim(hint)
            if found is False and await self.bus.clear():
                # Only what was dropped before a claim is sent can't be missed by it.
                found = await self._claim(Hint(0, 0))
        if found is None and not hint.query:  # it is this worker that can't claim: others may
            self.bus.offer(hint)
        self._answered(found=bool(found))
        return bool(found)

    async def _claim(self, hint: Hint) -> bool | None:
        """Let one consumer claim; whether it has found something, None: not known."""
        self._note(hint)
        return await self.wakeups.told(named=bool(hint.query))

    def _note(self, hint: Hint) -> None:
        if hint.query:
            self.announced.add(hint.query)
            self._taken.append(hint)

    def _unclaimed(self) -> list[Hint]:
        return [hint for hint in self._taken if hint.query in self.announced.unclaimed]

    def _answered(self, *, found: bool) -> None:
        self._window = self._ahead = min(2 * self._window + 1, MOST_AHEAD) if found else 0
        if not found:
            self._taken.clear()
        self._times_empty = self.announced.times_empty
