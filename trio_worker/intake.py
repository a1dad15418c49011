"""Getting the next query: one claim at a time for each free consumer, gently when WebBuddy is ill."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import attrs
import structlog
import trio

from trio_worker.backoff import Backoff
from trio_worker.errors import AccessDenied, Busy, Unavailable, WebBuddyError
from trio_worker.query import Query
from trio_worker.stop import Stop
from trio_worker.tokens import REFUSAL_HOLDS
from trio_worker.wakeups import Announcements, Wakeups
from trio_worker.webbuddy import WebBuddyClient

__all__ = ["Claim", "Intake"]

log = structlog.get_logger(__name__)

LONGEST_PAUSE = 60.0  # seconds between two tries while WebBuddy is down
BUSY_TRIES = 6  # plain 500s in a row that are still no outage: about two seconds

Source = Literal["push", "poll"]


@attrs.frozen(kw_only=True)
class Claim:
    """A query that is now ours.

    Attributes:
        query: As WebBuddy handed it out.
        source: ``"push"`` when a push had named it, else ``"poll"``.
        at: `trio.current_time` at which the answer was read.
    """

    query: Query
    source: Source
    at: float


class Intake:
    """Where consumers wait for their next query.

    While claims fail, one consumer tries again by itself (full jitter, up to a minute) and the
    others wait behind it, so that an outage costs one claim a pause and not one a consumer.

    Args:
        webbuddy: The door to WebBuddy.
        wakeups: When a claim is worth sending.
        announced: Which ids pushes have named.
        room: Waits until what is still to be reported leaves room for one more query.
        stop: The stop, for the deadline of a claim that is under way when it is asked for.
        claim_limit: Seconds after which a claim is given up.
    """

    def __init__(
        self,
        *,
        webbuddy: WebBuddyClient,
        wakeups: Wakeups,
        announced: Announcements,
        room: Callable[[], Awaitable[None]],
        stop: Stop,
        claim_limit: float,
    ) -> None:
        self._webbuddy = webbuddy
        self._wakeups = wakeups
        self._announced = announced
        self._room = room
        self._stop = stop
        self._claim_limit = claim_limit
        self._waits: set[trio.CancelScope] = set()
        self._claims: set[trio.CancelScope] = set()
        self._outage: WebBuddyError | None = None
        self._told: set[type[WebBuddyError]] = set()
        self._over = trio.Event()
        self._closed = False

    @property
    def outage(self) -> WebBuddyError | None:
        """Why no claim gets through, or None while they do."""
        return self._outage

    def close(self) -> None:
        """Take nothing new. Whoever waits gets None; claims under way are seen through in time."""
        self._closed = True
        for scope in self._waits:
            scope.cancel()
        for scope in self._claims:
            # Not `work_until`: that is now when the stop is hurried, and the query of a claim whose
            # answer nobody waits for is lost.
            scope.deadline = min(scope.deadline, self._stop.leave_until)

    async def next(self, listener: trio.MemoryReceiveChannel[None]) -> Claim | None:
        """Wait for the next query and claim it.

        A claim that was sent is seen through under a shield, so this may return a query although
        the caller has been cancelled or the intake closed meanwhile: it is then the caller's to
        put back.

        Returns:
            The claim, or None when the intake is closed.

        Raises:
            AccessDenied: When WebBuddy refuses the very first log-in.
        """
        with self._waiting():
            while not self._closed:
                claim = await self._wait_and_claim(listener)
                if claim is not None:
                    return claim
        return None

    async def _wait_and_claim(self, listener: trio.MemoryReceiveChannel[None]) -> Claim | None:
        await self._room()
        while self._outage is not None:
            await self._over.wait()
        await self._wakeups.wait(listener)
        if self._outage is not None:
            self._wakeups.failed()
            return None
        try:
            return await self._claim()
        except WebBuddyError as error:
            if self._closed:
                return None
            if self._outage is not None:
                return None  # somebody else is trying already, and the wake-up is kept
            return await self._sit_out(error)

    async def _sit_out(self, error: WebBuddyError) -> Claim | None:
        """Try alone until a claim gets through. Cancelled, it lets the others try."""
        began = trio.current_time()
        pauses = Backoff(first=1.0, most=LONGEST_PAUSE)
        try:
            while True:
                self._note(error)
                await trio.sleep(self._pause(error, pauses))
                self._wakeups.ask()
                try:
                    claim = await self._claim()
                except WebBuddyError as again:
                    error = again
                    continue
                seconds = round(trio.current_time() - began, 1)
                log.info("WebBuddy hands out queries again", after_seconds=seconds)
                return claim
        finally:
            self._outage = None
            self._told.clear()
            self._over.set()

    def _note(self, error: WebBuddyError) -> None:
        """Say it once on the way down, and again only when there is something else to do about it."""
        if isinstance(error, AccessDenied) and not self._webbuddy.logged_in:
            raise error
        # A proxy's 502 and a plain 500 take turns while a server comes up: that is one outage.
        kind = Unavailable if isinstance(error, Unavailable) else type(error)
        if kind not in self._told:
            self._told.add(kind)
            log.warning("no query can be claimed; trying again", reason=str(error))
        if self._outage is None:
            self._over = trio.Event()
        self._outage = error

    def _pause(self, error: WebBuddyError, pauses: Backoff) -> float:
        if isinstance(error, AccessDenied):
            return REFUSAL_HOLDS
        return pauses.next(error.retry_after if isinstance(error, Unavailable) else None)

    async def _claim(self) -> Claim | None:
        try:
            return await self._through_busy()
        except BaseException:
            self._wakeups.failed()
            raise

    async def _through_busy(self) -> Claim | None:
        """Claim; the plain 500s of a busy SQLite are no outage: repeat shortly, and quietly."""
        pauses = Backoff(first=0.05, most=1.0)
        for _ in range(BUSY_TRIES - 1):
            try:
                return await self._ask()
            except Busy as busy:
                log.debug("claim met a plain 500", reason=str(busy))
            await trio.sleep(pauses.next())
        return await self._ask()

    async def _ask(self) -> Claim | None:
        """Send one claim, and draw from its answer what there is to know of the queue."""
        rung, times_empty = self._wakeups.newest, self._announced.times_empty
        query = await self._seen_through()
        if query is None:
            if self._wakeups.found_nothing(rung):
                self._announced.found_empty()
            return None
        named, up_to_date = self._announced.take(query.id, times_empty)
        self._wakeups.found(announced=up_to_date)
        return Claim(query=query, source="push" if named else "poll", at=trio.current_time())

    async def _seen_through(self) -> Query | None:
        # Until it is its turn, a claim is cancelled as soon as nobody wants it any more. (Each turn ends
        # by itself, so this wait does.)
        async with self._webbuddy.turns:
            await trio.lowlevel.checkpoint_if_cancelled()
            # One that is cancelled half-way may have been carried out: its query would be nobody's.
            with trio.move_on_after(self._claim_limit, shield=True) as scope:
                self._claims.add(scope)
                try:
                    return await self._webbuddy.claim_next(wanted=lambda: not self._closed)
                finally:
                    self._claims.discard(scope)
        raise Unavailable("claim_next: given up, no answer in time")

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        with trio.CancelScope() as scope:
            self._waits.add(scope)
            try:
                yield
            finally:
                self._waits.discard(scope)
