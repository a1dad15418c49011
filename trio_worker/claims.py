"""One claim: sent, seen through, and written down before anybody may lose it."""

from __future__ import annotations

import math
from collections.abc import Callable

import attrs
import structlog
import trio

from trio_worker.errors import Busy, JournalIllError, Unavailable, WebBuddyError
from trio_worker.held import Held
from trio_worker.journal import Journal, Receipt
from trio_worker.phrases import Phrases
from trio_worker.query import Query
from trio_worker.stop import Stop
from trio_worker.tallies import LONG, Count, Spreads
from trio_worker.wakeups import Announcements
from trio_worker.webbuddy import WebBuddyClient

__all__ = ["Claims", "Found"]

log = structlog.get_logger(__name__)


@attrs.frozen
class Found:
    """A query that is now ours.

    Attributes:
        held: It.
        named: Whether a push had named it.
        up_to_date: The same, but only since the queue was last empty.
    """

    held: Held
    named: bool
    up_to_date: bool


@attrs.define(kw_only=True, eq=False)
class Claims:
    """Sends claims.

    Attributes:
        webbuddy: The door to WebBuddy.
        journal: Where a claimed query is written down.
        announced: Which ids pushes have named.
        stop: The stop, for the deadline of a claim that is under way when it is asked for.
        limit: Seconds after which a claim, with its entry in the journal, is given up.
        phrases: The language of the queries' logs.
        know: Told of each query that is held from now on; synchronous.
        shares_tombstones: Whether a neighbour may remember deaths of what is claimed here.
        results: How many claims found something, found nothing, ….
        pick_ups: From the creation of each query to its claim, by how it was found. Of those that nobody has
            claimed before: the others have not waited all the time.
    """

    webbuddy: WebBuddyClient
    journal: Journal
    announced: Announcements
    stop: Stop
    limit: float
    phrases: Phrases
    know: Callable[[Held], None]
    shares_tombstones: bool
    results: Count = attrs.field(
        factory=lambda: Count("found", "empty", "busy", "failed", "lost"), init=False
    )
    pick_ups: Spreads = attrs.field(factory=lambda: Spreads(LONG, "push", "poll"), init=False)
    _knows_the_time: bool = attrs.field(default=False, init=False)
    _under_way: dict[trio.CancelScope, None] = attrs.field(factory=dict, init=False)

    @property
    def due(self) -> float:
        """When the first of the claims that are under way has to be through."""
        return min((scope.deadline for scope in self._under_way), default=math.inf)

    def hurry(self) -> None:
        """The stop has been asked for: claims under way are seen through in its time."""
        for scope in self._under_way:
            # Not `work_until`: that is now when the stop is hurried, and the query of a claim whose
            # answer nobody waits for is lost.
            scope.deadline = min(scope.deadline, self.stop.leave_until)

    async def send(self, times_empty: int, *, wanted: Callable[[], bool]) -> Found | None:
        """Send one claim.

        Until it is its turn a claim is cancelled as soon as nobody wants it any more. (Each turn ends by
        itself, so this wait does.) One that has been sent is not: it may have been carried out, and its
        query would be nobody's.

        Args:
            times_empty: What `Announcements.times_empty` was when it was decided to ask.
            wanted: Asked just before it is sent.

        Returns:
            The query; None when the queue is empty. Where ``held.on_disk`` is False the disk did not take
            it in time: it must be put back, not started.

        Raises:
            WebBuddyError: As `WebBuddyClient.claim_next` does. Where it may have been carried out all the
                same, that is noted in the journal.
            JournalIllError: The disk is ill; nothing was sent.
        """
        try:
            found = await self._send(times_empty, wanted)
        except WebBuddyError as error:
            if wanted():  # else it most likely was not sent
                self.results.add(_result(error))
            raise
        self.results.add("empty" if found is None else "found")
        return found

    async def _send(self, times_empty: int, wanted: Callable[[], bool]) -> Found | None:
        if not self._knows_the_time:
            # The first answer tells WebBuddy's clock; until then the time of a lost claim would be ours.
            await self._learn_the_time()
        async with self.webbuddy.turns:
            await trio.lowlevel.checkpoint_if_cancelled()
            began = trio.current_time()
            await self.journal.claiming(self.webbuddy.server_now(), self.limit)
            try:
                return await self._seen_through(times_empty, wanted, began)
            finally:
                self.journal.claimed()

    async def _learn_the_time(self) -> None:
        try:
            await self.webbuddy.log_in()
        except Unavailable as error:
            if error.status is None:
                raise
            return  # that call alone may be ill: the claim itself will tell
        self._knows_the_time = True

    async def _seen_through(self, times_empty: int, wanted: Callable[[], bool], began: float) -> Found | None:
        found = None
        with trio.move_on_after(self.limit, shield=True) as scope:
            self._under_way[scope] = None
            try:
                query = await self.webbuddy.claim_next(wanted=wanted)
                if query is None:
                    return None
                # No await between the answer and this: from here on the query can't be forgotten.
                found, receipt = self._hold(query, times_empty)
                await receipt.durable()
                found.held.on_disk = True
                if self.shares_tombstones:
                    await found.held.ask_neighbours()
            except Unavailable as error:
                if error.maybe_done:
                    self._note_lost(began, error)
                raise
            except JournalIllError as error:
                log.error("a claimed query can't be written down; it is put back", reason=str(error))
            finally:
                del self._under_way[scope]
        if found is not None:
            return found
        given_up = Unavailable("claim_next: given up, no answer in time")
        self._note_lost(began, given_up)
        raise given_up

    def _hold(self, query: Query, times_empty: int) -> tuple[Found, Receipt]:
        named, up_to_date = self.announced.take(query.id, times_empty)
        held, receipt = Held.claimed(self.journal, query, "push" if named else "poll", self.phrases)
        self.know(held)
        self._note_pick_up(held)
        return Found(held, named, up_to_date), receipt

    def _note_pick_up(self, held: Held) -> None:
        created, started = held.query.query_created, held.query.query_started
        if created is None or held.query.logs_count:
            return
        if started is None:
            seconds = self.webbuddy.server_now() - created.timestamp()
        else:
            seconds = (started - created).total_seconds()
        self.pick_ups.add(held.entry.source, seconds)

    def _note_lost(self, began: float, error: Unavailable) -> None:
        log.debug("a claim may have been carried out though its answer is lost", reason=str(error))
        # A server that we no longer listen to may still be at it.
        late = self.limit if error.status is None else 0.0
        # Back from now: what time it was there may be known only since the log-in of this very call.
        now = self.webbuddy.server_now()
        self.journal.note_lost(now - (trio.current_time() - began), now + late)


def _result(error: WebBuddyError) -> str:
    if isinstance(error, Busy):
        return "busy"  # WebBuddy says so itself, however often: what may be lost by it is rare
    return "lost" if isinstance(error, Unavailable) and error.maybe_done else "failed"
