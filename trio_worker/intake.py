"""Getting the next query: one claim at a time for each free consumer, gently when WebBuddy is ill."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import structlog
import trio

from trio_worker.backlog import Backlog
from trio_worker.backoff import Backoff
from trio_worker.claims import Claims
from trio_worker.errand import Errand
from trio_worker.errors import AccessDenied, Busy, JournalIllError, Unavailable, WebBuddyError
from trio_worker.gate import Gate
from trio_worker.held import Held
from trio_worker.liveness import Pulse
from trio_worker.push_health import PushHealth
from trio_worker.tokens import REFUSAL_HOLDS
from trio_worker.trouble import Trouble
from trio_worker.wakeups import Announcements, Wakeups
from trio_worker.webbuddy import WebBuddyClient

__all__ = ["LONGEST_KNOCK", "LONGEST_PAUSE", "Intake"]

log = structlog.get_logger(__name__)

LONGEST_PAUSE = 60.0  # seconds between two tries while WebBuddy is down
LONGEST_KNOCK = 2.0
"""The same while there is not even a connection: to try costs WebBuddy nothing."""
LONG_OUTAGE = 60.0
"""Seconds after which the end of an outage is gone about gently: all workers see it within a moment."""
GENTLE = 1.0, 2.0  # seconds for which only the consumer that saw the end has claimed; a draw from this range
BUSY_TRIES = 6  # plain 500s in a row that are still no outage: about two seconds


class Intake:
    """Where consumers wait for their next query: one that is held already, or a new claim.

    While claims fail, one consumer tries again by itself (full jitter, up to a minute) and the
    others wait behind it, so that an outage costs one claim a pause and not one a consumer. After a long one
    they wait a second or two more: fifty workers do not begin with all their consumers at once.

    Args:
        webbuddy: The door to WebBuddy.
        claims: Sends a claim.
        backlog: What is held already; it is asked first.
        wakeups: When a claim is worth sending.
        announced: Which ids pushes have named.
        push_health: Told of what claims bring.
        gates: All have to be open for a claim.
        aside: Takes a query that must not run beside others.
        longest_knock: Seconds between two tries while there is not even a connection.
        errand: What is to be done before the worker stops by itself; None: it runs until it is stopped.

    Attributes:
        retries: How many claims were sent again after one that had failed.
    """

    def __init__(
        self,
        *,
        webbuddy: WebBuddyClient,
        claims: Claims,
        backlog: Backlog,
        wakeups: Wakeups,
        announced: Announcements,
        push_health: PushHealth,
        gates: Sequence[Gate],
        aside: Callable[[Held], None],
        longest_knock: float = LONGEST_KNOCK,
        errand: Errand | None = None,
    ) -> None:
        self._longest_knock = longest_knock
        self._errand = errand
        self._webbuddy = webbuddy
        self._claims = claims
        self._backlog = backlog
        self._wakeups = wakeups
        self._announced = announced
        self._push_health = push_health
        self._gates = gates
        self._aside = aside
        # Dictionaries for their order: which consumer is woken must not depend on addresses in memory.
        self._waits: dict[trio.CancelScope, None] = {}
        self._idle: dict[trio.CancelScope, None] = {}
        self._outage: WebBuddyError | None = None
        self._outage_since = math.inf
        self._trouble = Trouble(
            log, "no query can be claimed; trying again", over="WebBuddy hands out queries again"
        )
        self._over = trio.Event()
        self._gentle_until = -math.inf
        self._closed = False
        self._pulse = Pulse()
        self.retries = 0
        backlog.wake = self._interrupt_one

    @property
    def outage(self) -> WebBuddyError | None:
        """Why no claim gets through, or None while they do."""
        return self._outage

    @property
    def outage_since(self) -> float:
        """Since when, on Trio's clock; infinite while they do, or while nobody tries."""
        return self._outage_since if self._outage is not None else math.inf

    @property
    def trouble_since(self) -> float:
        """Since when claims, or other calls, do not get through, on Trio's clock; infinite while they do."""
        return min(self.outage_since, self._webbuddy.failing_since)

    @property
    def trouble(self) -> str | None:
        """The same as a sentence for people; None while they do."""
        since = self.trouble_since
        if since == math.inf:
            return None
        seconds = trio.current_time() - since
        return f"WebBuddy has been in trouble for {seconds:.0f} s ({self._outage or 'calls to it fail'})"

    @property
    def due(self) -> float:
        """When the first claim has to be through, or is to be tried again, on Trio's clock."""
        return min(self._pulse.due, self._claims.due)

    def close(self) -> None:
        """Take nothing new. Whoever waits gets None; claims under way are seen through in time."""
        self._closed = True
        for scope in self._waits:
            scope.cancel()
        self._claims.hurry()

    def give_up(self, reason: str) -> None:
        """Take nothing new on this errand. Who runs until he is stopped waits until it can go on."""
        self._on_errand(partial(Errand.failed, reason=reason))

    async def next(self, listener: trio.MemoryReceiveChannel[bool]) -> Held | None:
        """Wait for the next query. With it the caller is busy, until it calls `finished`.

        A claim that was sent is seen through under a shield, so this may return a query although
        the caller has been cancelled or the intake closed meanwhile: it is then the caller's to
        put back.

        Returns:
            The query, or None when the intake is closed.

        Raises:
            AccessDenied: When WebBuddy refuses the very first log-in.
        """
        with self._registered(self._waits):
            while not self._closed:
                held = self._backlog.take() or await self._wait_and_claim(listener)
                if held is not None:
                    self._on_errand(Errand.took)
                    return held
        return None

    async def free(self) -> None:
        """Return when a consumer waits for nothing but a wake-up. Once it is closed, never."""
        while not self.is_free:
            if self._closed:
                await trio.sleep_forever()
            await self._until_allowed()
            await self._wakeups.idle()
            await trio.lowlevel.checkpoint()  # the one that waits may just have been sent to the backlog

    @property
    def is_free(self) -> bool:
        """Whether a consumer waits for nothing but a wake-up."""
        return not self._closed and self._may_claim and self._wakeups.is_idle

    def finished(self) -> None:
        """The caller has done with the query that it got."""
        self._backlog.end()

    async def _wait_and_claim(self, listener: trio.MemoryReceiveChannel[bool]) -> Held | None:
        if not await self._wait(listener):
            return None
        try:
            return await self._claim()
        except JournalIllError:
            return None  # its gate is closed now
        except WebBuddyError as error:
            if self._closed:
                return None
            if self._outage is not None:
                return None  # somebody else is trying already, and the wake-up is kept
            if self._errand is not None and not self._is_first_refusal(error):
                self.give_up(f"WebBuddy can't be asked for a query: {error}")
                return None
            return await self._sit_out(error)

    async def _wait(self, listener: trio.MemoryReceiveChannel[bool]) -> bool:
        """Wait until a claim is worth sending; False when there is something else to do first."""
        # A backlog is the rule under load: without the scope that waiting needs.
        if self._may_claim and self._wakeups.take():
            return True
        with self._registered(self._idle):
            await self._until_allowed()
            await self._wakeups.wait(listener)
            if self._may_claim:
                return True
            self._wakeups.failed()
        return False

    async def _until_allowed(self) -> None:
        for gate in self._gates:
            await gate.wait()
        while self._outage is not None or self._is_gentle:
            await self._over.wait()
            await trio.sleep_until(self._gentle_until)

    @property
    def _may_claim(self) -> bool:
        is_calm = self._outage is None and not self._is_gentle
        return is_calm and self._gates_are_open and not self._backlog.has_something

    @property
    def _is_gentle(self) -> bool:
        return self._gentle_until > -math.inf and trio.current_time() < self._gentle_until

    @property
    def _gates_are_open(self) -> bool:
        return all(gate.is_open for gate in self._gates)

    def _interrupt_one(self) -> None:
        """Let a consumer that waits look into the backlog."""
        if self._idle:
            scope, _ = self._idle.popitem()
            scope.cancel()

    async def _sit_out(self, error: WebBuddyError) -> Held | None:
        """Try alone until a claim gets through. Cancelled or interrupted, it lets the others try."""
        pauses, knocks = Backoff(first=1.0, most=LONGEST_PAUSE), Backoff(first=1.0, most=self._longest_knock)
        try:
            while True:
                self._note(error)
                with self._registered(self._idle):
                    await self._pulse.sleep(self._pause(error, pauses, knocks))
                self._pulse.rest()
                if self._backlog.has_something or not self._gates_are_open:
                    return None
                self._wakeups.ask()
                self.retries += 1
                try:
                    return await self._claim()
                except JournalIllError:
                    return None
                except WebBuddyError as again:
                    error = again
        finally:
            self._outage = None
            self._over.set()

    def _note(self, error: WebBuddyError) -> None:
        """Say it on the way down, and again at once only when there is something else to do about it."""
        if self._is_first_refusal(error):
            raise error
        # A proxy's 502 and a plain 500 take turns while a server comes up: that is one outage.
        kind = Unavailable if isinstance(error, Unavailable) else type(error)
        self._trouble.happened(kind.__name__, reason=str(error))
        if self._outage is None:
            self._over = trio.Event()
        self._outage_since = min(self._outage_since, trio.current_time())
        self._outage = error

    def _got_through(self) -> None:
        """WebBuddy has answered a claim: that alone is the end of an outage."""
        self._trouble.is_over()
        now = trio.current_time()
        if now - self._outage_since >= LONG_OUTAGE:
            self._gentle_until = now + random.uniform(*GENTLE)  # noqa: S311
        self._outage_since = math.inf

    def _on_errand(self, note: Callable[[Errand], None]) -> None:
        if self._errand is not None:
            note(self._errand)
            if self._errand.is_done:
                self.close()

    def _is_first_refusal(self, error: WebBuddyError) -> bool:
        return isinstance(error, AccessDenied) and not self._webbuddy.logged_in

    def _pause(self, error: WebBuddyError, pauses: Backoff, knocks: Backoff) -> float:
        if isinstance(error, AccessDenied):
            return REFUSAL_HOLDS
        if not isinstance(error, Unavailable):
            return pauses.next()
        return (knocks if error.no_connection else pauses).next(error.retry_after)

    async def _claim(self) -> Held | None:
        held = None
        self._backlog.begin()
        try:
            held = await self._through_busy()
        except BaseException:
            self._wakeups.failed()
            raise
        finally:
            if held is None:
                self._backlog.end()
        if held is not None and held.is_suspect and held.on_disk:
            # Put back after a crash, and handed out to us again.
            self._backlog.end()
            self._aside(held)
            return None
        return held

    async def _through_busy(self) -> Held | None:
        """Claim; the plain 500s of a busy SQLite are no outage: repeat shortly, and quietly."""
        pauses = Backoff(first=0.05, most=1.0)
        for _ in range(BUSY_TRIES - 1):
            try:
                return await self._ask()
            except Busy as busy:
                log.debug("claim met a plain 500", reason=str(busy))
            await trio.sleep(pauses.next())
            self.retries += 1
        return await self._ask()

    async def _ask(self) -> Held | None:
        """Send one claim, and draw from its answer what there is to know of the queue."""
        rung, times_empty = self._wakeups.newest, self._announced.times_empty
        found = await self._claims.send(times_empty, wanted=lambda: not self._closed)
        self._got_through()
        if found is None:
            self._on_errand(Errand.found_nothing)
            if self._wakeups.found_nothing(rung):
                self._announced.found_empty()
            return None
        self._wakeups.found(announced=found.up_to_date)
        self._push_health.found(found.held.query, named=found.named, server_now=self._webbuddy.server_now())
        return found.held

    @contextmanager
    def _registered(self, scopes: dict[trio.CancelScope, None]) -> Iterator[None]:
        with trio.CancelScope() as scope:
            scopes[scope] = None
            try:
                yield
            finally:
                scopes.pop(scope, None)
