"""What was held before: by a forerunner, by a neighbour that has died, or until it is due again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

import attrs
import structlog
import trio

from trio_worker import clock
from trio_worker.backlog import Backlog
from trio_worker.backoff import Backoff
from trio_worker.errors import AccessDenied, JournalError, Unavailable, WebBuddyError
from trio_worker.execution import LONGEST_RETRY
from trio_worker.gate import Gate
from trio_worker.held import Held
from trio_worker.journal import Journal
from trio_worker.journal_file import Entry
from trio_worker.liveness import Pulse
from trio_worker.ownership import MOST_FAILED_LOOKS, Standing, look_at_all
from trio_worker.phrases import Phrases
from trio_worker.query import Failed, Released
from trio_worker.reporting import Deliveries
from trio_worker.settings import OnCrash
from trio_worker.tokens import REFUSAL_HOLDS
from trio_worker.trouble import Trouble
from trio_worker.webbuddy import WebBuddyClient

__all__ = ["LOOK_AROUND", "MOST_ASIDE", "Recovery"]

log = structlog.get_logger(__name__)

ILL_ROUNDS = 6  # of errors for looking at a query, after which what is new no longer waits for it
MOST_ASIDE = 200
"""Queries put aside, from which on nothing new is claimed: where a rate limit puts off each, a worker would
otherwise take the whole queue from all others."""

LOOK_AROUND = 10.0
"""Seconds between two looks for neighbours that have died."""


@attrs.define(kw_only=True, eq=False)
class Recovery:
    """Takes up what was held.

    ::

        out of the journal ──▶ is it still ours? ──no──▶ forgotten, or left alone (another database)
                                    │ yes
              ┌─────────────────────┼───────────────────────┐
        has an outcome      put aside: wait until due    a handler was at work
              │                     │                       │ WORKER_ON_CRASH, and who is to blame
              ▼                     ▼                       ▼
          delivered            the backlog          the backlog, put back, or failed

    Attributes:
        webbuddy: The door to WebBuddy.
        journal: Where it was written down.
        deliveries: Who tells WebBuddy.
        backlog: Where consumers find what is to be run.
        phrases: The language of what the query's author reads.
        on_crash: What becomes of a query whose worker died in the middle.
        most_attempts: Deaths of which a query alone is to blame, after which it is not tried again.
        nursery: Where it waits: for WebBuddy, and for what is to be tried later. To be cancelled at the end.
        look_around_every: Seconds between two looks for neighbours that have died.
        death: Waits until one is told to have died: then it is looked for at once.
        is_idle: Whether nothing is at work here.
        pulse: Says when the next such look is due.
        gate: Open once everything that is to be run again was offered: nothing new is claimed before.
        room: Open while fewer than `MOST_ASIDE` are put aside.
    """

    webbuddy: WebBuddyClient
    journal: Journal
    deliveries: Deliveries
    backlog: Backlog
    phrases: Phrases
    on_crash: OnCrash
    most_attempts: int
    nursery: trio.Nursery
    look_around_every: float = LOOK_AROUND
    death: Callable[[], Awaitable[None]] = trio.sleep_forever
    is_idle: Callable[[], bool] = lambda: True
    pulse: Pulse = attrs.field(factory=Pulse)
    gate: Gate = attrs.field(factory=Gate, init=False)
    room: Gate = attrs.field(factory=Gate, init=False)
    _aside: int = attrs.field(default=0, init=False)
    _is_over: bool = attrs.field(default=False, init=False)
    _unreadable: Trouble = attrs.field(
        factory=lambda: Trouble(
            log, "the journals can't be looked through", over="the journals can be looked through again"
        ),
        init=False,
    )

    def begin(self) -> None:
        """Take up what the journal held when it was opened."""
        found = self._held(self.journal.entries.values())
        if not found:
            return
        log.info("taking up what was held before", queries=len(found))
        began = trio.current_time()

        def offered() -> None:
            if not self.gate.is_open:
                log.info("what was held before is taken up", seconds=round(trio.current_time() - began, 3))
            self.gate.open()

        self.gate.close()
        self.nursery.start_soon(self._take_up, found, offered)

    def add(self, held: Held) -> None:
        """Keep a query that was put aside until it is due."""
        self._count_aside(+1)  # now: whoever has put it aside asks for the next one at once
        self.nursery.start_soon(self._take_up_later, held)

    async def look_around(self) -> None:
        """Take up what dead neighbours leave, and dead letters that an operator revives, until `release`."""
        while True:
            await self._until_next_look()
            if self._is_over:
                return
            # One after the other: what the first has given must not be lost with an error of the second.
            well = await self._take_up_from(self.journal.take_over, "taking up what another process has left")
            well &= await self._take_up_from(self.journal.revived, "trying dead letters again")
            if well:
                self._unreadable.is_over()

    async def _until_next_look(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._until_death, nursery.cancel_scope)
            await self.pulse.sleep(self.look_around_every)
            self.pulse.rest()  # the disk is watched where it is written to
            nursery.cancel_scope.cancel()

    async def _until_death(self, wait: trio.CancelScope) -> None:
        """End the wait for the next look when a neighbour has died, and nothing of ours is in the way.

        What it held is taken over as a whole: by one that has all of its consumers free, or else by the
        process that takes its place.
        """
        while True:
            await self.death()
            if self.is_idle():
                wait.cancel()

    async def _take_up_from(self, source: Callable[[], Awaitable[list[Entry]]], event: str) -> bool:
        try:
            found = self._held(await source())
        except JournalError as error:
            self._unreadable.happened(reason=str(error))
            return False
        if found:
            log.warning(event, queries=len(found))
            self.nursery.start_soon(self._take_up, found, _nothing)
        return True

    def _held(self, entries: Iterable[Entry]) -> list[Held]:
        alive = (entry for entry in entries if entry.dead is None)
        helds = [Held(self.journal, entry, self.phrases, resumed=True) for entry in alive]
        for held in helds:
            self.deliveries.know(held)
        return [held for held in helds if not held.is_over]  # an older claim is let go at once

    async def _take_up_later(self, held: Held) -> None:
        assert held.entry.due is not None  # noqa: S101 - it is put aside
        try:
            # Not longer than it could have been meant, whatever the clock was.
            await trio.sleep(min(held.seconds_until_due(), LONGEST_RETRY))
        finally:
            self._count_aside(-1)
        held.entry.due = clock.now()
        await self._take_up([held], _nothing)

    def _count_aside(self, change: int) -> None:
        self._aside += change
        if self._aside == MOST_ASIDE and change > 0:
            log.warning("nothing new is claimed until some of what was put aside is due", aside=MOST_ASIDE)
        self.room.keep(open=self._aside < MOST_ASIDE)

    async def _take_up(self, helds: list[Held], offered: Callable[[], None]) -> None:
        """Look at them until each could be looked at, and do what follows.

        Args:
            helds: The queries.
            offered: Called when those that are to be run again are offered. One at which WebBuddy
                fails again and again, and not for an outage, is not waited for.
        """
        for held in [held for held in helds if held.is_put_aside and held.resumed]:
            if held.seconds_until_due() > 0:
                helds.remove(held)
                self.add(held)
        pauses = Backoff(first=0.5, most=60.0)
        ill_rounds = 0
        while helds:
            helds, error = await self._look_and_follow(helds, pauses)
            ill_rounds += not isinstance(error, Unavailable) or error.status is not None
            if helds and ill_rounds >= ILL_ROUNDS and await self._answers():
                offered()
            if helds:
                await trio.sleep(pauses.next() if error is None else _pause(error, pauses))
        offered()

    async def _answers(self) -> bool:
        """Whether WebBuddy answers other calls: then what it can't show is these queries' own trouble."""
        try:
            await self.webbuddy.log_in()
        except WebBuddyError:
            return False
        return True

    async def _look_and_follow(
        self, helds: list[Held], pauses: Backoff
    ) -> tuple[list[Held], WebBuddyError | None]:
        """Look at each once; give those at which WebBuddy could not look, and why it stopped, if it did."""
        found: dict[Held, Standing] = {}
        error = None
        try:
            await look_at_all(self.webbuddy, helds, found)
        except WebBuddyError as problem:
            if isinstance(problem, AccessDenied) and not self.webbuddy.logged_in:
                raise  # as for the first claim
            error = problem
        if found:
            pauses.reset()
        for held, standing in found.items():
            self._follow(held, standing)
        left = [held for held in helds if held not in found]
        # The next round begins with others: those that fail must not hide them for ever.
        return left[MOST_FAILED_LOOKS:] + left[:MOST_FAILED_LOOKS], error

    def _follow(self, held: Held, standing: Standing) -> None:
        number = held.query.id
        if held.is_over:
            return  # let go meanwhile: it was requeued, and claimed here again
        match standing:
            case Standing.TAKEN:
                self.deliveries.let_go(held, standing.value)
            case Standing.OTHER_DATABASE:
                log.error("left alone (trio-worker outbox)", query=number, reason=standing.value)
                held.died(standing.value)
            case Standing.DELIVERED:
                held.reported()
                self.deliveries.of(held)
            case Standing.OURS | Standing.NOT_ASKABLE:
                self._resume(held)

    def _resume(self, held: Held) -> None:
        if held.outcome is not None:
            self.deliveries.of(held)
            return
        verdict = self._verdict(held) if held.after_crash else None
        if verdict is None:
            self.offer(held)
            return
        entry = held.entry
        said = {"query": held.query.id, "attempt": entry.attempts, "source": entry.source}
        if isinstance(verdict, Failed):
            log.warning("query failed", **said, kind=verdict.kind, deaths=entry.deaths, reason=verdict.reason)
        else:
            log.warning("query put back", **said, deaths=entry.deaths, reason=verdict.reason)
        self.deliveries.of(held).end(verdict, self._last_line(verdict))

    def offer(self, held: Held) -> None:
        """Have it run when there is a consumer, or when it may run alone.

        Its log begins at once: a query of which nobody says anything could be taken for lost by a worker
        that has lost a claim at the same time.
        """
        self.deliveries.of(held)
        if not held.entry.entries:
            held.log.write(self.phrases.waits)
        if self._is_over:
            self._put_back(held)
        else:
            self.backlog.offer(held)

    def release(self) -> None:
        """The worker stops: put back what waits for a consumer, as what runs is, and whatever comes yet."""
        self._is_over = True
        for held in self.backlog.clear():
            self._put_back(held)

    def _put_back(self, held: Held) -> None:
        outcome = Released(self.phrases.stopping)
        self.deliveries.of(held).end(outcome, self._last_line(outcome))

    def _verdict(self, held: Held) -> Failed | Released | None:
        """Decide what becomes of a query whose worker died; None: it is run again."""
        if held.entry.blamed >= self.most_attempts:
            return Failed(self.phrases.crashed.format(count=held.entry.blamed), "crashed")
        match self.on_crash:
            case "requeue":
                return Released(self.phrases.requeued)
            case "fail":
                return Failed(self.phrases.crashed_once, "crashed")
        return None

    def _last_line(self, outcome: Failed | Released) -> str:
        if isinstance(outcome, Released):
            return self.phrases.put_back_crash.format(reason=outcome.reason)
        return outcome.reason


def _pause(error: WebBuddyError, pauses: Backoff) -> float:
    if isinstance(error, AccessDenied):
        return REFUSAL_HOLDS
    return pauses.next(error.retry_after if isinstance(error, Unavailable) else None)


def _nothing() -> None:
    pass
