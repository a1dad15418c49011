"""When to ask for work.

A wake-up says "ask", never what for: queries are handed out by the server alone. Pushes and ticks
ring; consumers listen. What is remembered between them is three numbers, however many pushes come.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Literal

import trio

from trio_worker.tallies import Count

__all__ = ["Announcements", "Wakeups"]

MOST_ASKING = 128
"""How many consumers may be woken to ask at once for a backlog of unknown length.

Each that still waits for its turn when the queue runs dry is a claim for nothing, so not all 10 000.
Twice as many as calls go at once (`trio_worker.turns`), since these have to share the turns with the
log entries of what was just claimed: with 64, claiming 1 000 queries at 50 ms took 2.1 s in virtual
time, with 128 1.6 s."""


class Wakeups:
    """A bounded channel of wake-ups, and how many claims are still worth sending.

    Rules (each has a test):

    - A full channel means that the wake-up is already there.
    - A wake-up is spent only by a claim *sent* after it, and a claim that failed keeps it.
    - Each successful claim wakes **two** further consumers at once, if more may wait. A chain of
      one would be one claim a round trip.
    - How many may wait: each push adds one, each claim of a query that a push named takes one away.
      A claim that brings a query nobody named shows a backlog of unknown length, and a claim that
      comes back empty with no wake-up since it was sent shows that there is none. WebBuddy hands
      out the oldest query first, so whoever is given the query that was pushed knows that nothing
      older waits. That is why N pushes cause about N claims, and 1 000 queries not 2 000.
    - A backlog of unknown length has at most `MOST_ASKING` consumers asking at once.
    - What no consumer here is free for is passed on, to other workers; it is expected here all the same. Of a
      backlog whose length is known each query was passed on when it was pushed.

    Attributes:
        sources: How many wake-ups came of a ``push``, a ``poll``, a ``second_look`` (after a push that found
            nothing), of a ``claim`` that found something, and of another worker over the ``bus``.
        pass_on: Called with the number that a push has named, or 0, when nobody here is free. Synchronous.
        give_back: Called when a claim has failed, or was not sent. Synchronous.
    """

    def __init__(self) -> None:
        # One place is enough: an idle consumer is handed its wake-up directly, and for busy ones
        # the number below says whether to ask again.
        self._bell, self._listen = trio.open_memory_channel[bool](1)
        self._rung = 0  # number of the newest wake-up
        self._expected = 0.0  # queries that may wait; infinite: a backlog of unknown length
        self._asking = 0  # claims under way
        self._woken = 0  # consumers that were handed a wake-up, and have not run since
        self._look_due = False  # a tick came, and since then no claim has come back empty
        self._push_unanswered = False
        self._doubt = trio.Event()
        self._listened = trio.Event()
        self._answer: _Answer | None = None
        self.sources = Count("push", "poll", "second_look", "claim", "bus")
        self.pass_on: Callable[[int], None] = _nobody
        self.give_back: Callable[[], None] = _nothing

    def tick(self, source: Literal["poll", "second_look"] = "poll") -> None:
        """Wake one consumer: it is time to look for what no push has named."""
        self.sources.add(source)
        self._look_due = True
        self._wake()

    def push(self, query_id: int = 0) -> None:
        """Wake one consumer: WebBuddy says that one more query waits.

        Args:
            query_id: Its number, for whoever it is passed on to.
        """
        self.sources.add("push")
        self._expected += 1
        self._push_unanswered = True
        if not self._wake():
            self.pass_on(query_id)

    def hinted(self, *, named: bool) -> None:
        """Wake one consumer: another worker says that a query waits.

        Args:
            named: Whether a push has named it; if not, there may be more.
        """
        self.sources.add("bus")
        if named:
            self._expected += 1
        else:
            self._look_due = True
        self._wake()

    async def told(self, *, named: bool) -> bool | None:
        """Wake one consumer, as `hinted`. Return when a claim was answered, be it one that was under way.

        Args:
            named: As of `hinted`.

        Returns:
            Whether it has found something; None: it has failed, or was not sent, and nothing is known.
        """
        self._answer = answer = _Answer()
        self.hinted(named=named)
        try:
            await answer.came.wait()
        finally:
            self._answer = None
        return answer.found

    @property
    def is_listened(self) -> bool:
        """Whether a consumer waits for a wake-up, and for nothing else."""
        return self._bell.statistics().tasks_waiting_receive > 0

    @property
    def is_idle(self) -> bool:
        """Whether a consumer waits for a wake-up, and no backlog of unknown length is being claimed.

        Its claims find whatever a hint is about; each hint beside them would be one more claim for nothing.
        """
        return self.is_listened and self._expected < math.inf

    async def idle(self) -> None:
        """Return when `is_idle`: such a backlog ends with a consumer that has found nothing, and waits."""
        while not self.is_idle:
            self._listened = trio.Event()
            await self._listened.wait()

    def put_back(self) -> None:
        """Wake one consumer, here or elsewhere: a query is in the queue again, and WebBuddy tells nobody."""
        self._look_due = True
        if not self._wake():
            self.pass_on(0)

    @contextmanager
    def listen(self) -> Iterator[trio.MemoryReceiveChannel[bool]]:
        """Give a consumer its end of the channel."""
        # Plain `with`: `async with` a channel swallows exceptions in a cancelled scope (trio #1559).
        with self._listen.clone() as listener:
            yield listener

    @property
    def newest(self) -> int:
        """The number of the newest wake-up. Read it before a claim is sent, for `found_nothing`."""
        return self._rung

    async def wait(self, listener: trio.MemoryReceiveChannel[bool]) -> None:
        """Return when a claim is worth sending. The caller then counts as asking.

        Call `found`, `found_nothing` or `failed` next, with no chance to be cancelled before that.
        A checkpoint only where it waits: the claim is one. Cancelled, it has taken nothing.
        """
        if not self.take():
            self._listened.set()
            was_handed_over = await listener.receive()
            self._woken -= was_handed_over
            self._asking += 1

    def take(self) -> bool:
        """Say whether a claim is worth sending at once; then the caller counts as asking, as after `wait`."""
        if self._worth_asking < 1:
            return False
        self.ask()
        return True

    def ask(self) -> None:
        """Count as asking without a wake-up of one's own; the one in the channel, if any, is taken.

        Counted before the claim is sent: of many consumers that finish in the same instant only as
        many may pass as queries are expected.
        """
        try:
            self._listen.receive_nowait()
        except trio.WouldBlock:
            pass  # there was none
        self._asking += 1

    def found(self, *, announced: bool) -> None:
        """A claim brought a query: wake two more consumers if more may wait.

        Args:
            announced: Whether a push had named the query since the queue was last empty.
        """
        self._asking -= 1
        self._answered(found=True)
        # A query that a push had named does not do for a tick: that was for the others.
        known = announced and not self._look_due
        self._expected = max(0.0, self._expected - 1) if known else math.inf
        if announced and not self._expected:
            self._push_unanswered = False
        for _ in range(min(2, self._worth_asking)):
            self.sources.add("claim")
            if not self._ring() and not known:
                self.pass_on(0)

    def found_nothing(self, rung: int) -> bool:
        """A claim came back empty.

        Args:
            rung: What `newest` was before this claim was sent.

        Returns:
            Whether the queue is now known to be empty.
        """
        self._asking -= 1
        if rung != self._rung:
            return False  # a later wake-up stands: in the channel, or somebody's claim is on its way
        self._answered(found=False)
        self._expected = 0
        self._look_due = False
        if self._push_unanswered:
            # The push may be ahead of the commit of its query.
            self._push_unanswered = False
            self._doubt.set()
        return True

    def failed(self) -> None:
        """A claim failed, or was not sent after all: its wake-up stays."""
        self._asking -= 1
        self._answered(found=None)
        self.give_back()
        self._ring()

    async def doubted(self) -> None:
        """Return when a push has found nothing: somebody should look again a little later."""
        await self._doubt.wait()
        self._doubt = trio.Event()

    @property
    def _worth_asking(self) -> int:
        """How many more consumers should ask now."""
        wanted = MOST_ASKING if self._expected == math.inf else int(self._expected)
        return max(0, wanted - self._asking - self._woken)

    def _answered(self, *, found: bool | None) -> None:
        if self._answer is not None:
            self._answer.found = found
            self._answer.came.set()

    def _wake(self) -> bool:
        self._rung += 1
        return self._ring()

    def _ring(self) -> bool:
        """Wake a consumer; whether one has waited."""
        # Handed to somebody who waits, or put into the channel? What is handed over can't be taken back.
        is_handed_over = self.is_listened
        try:
            self._bell.send_nowait(is_handed_over)
        except trio.WouldBlock:
            pass  # it is there already
        else:
            self._woken += is_handed_over
        return is_handed_over


class _Answer:
    """Of the next claim."""

    def __init__(self) -> None:
        self.came = trio.Event()
        self.found: bool | None = None


def _nobody(query_id: int) -> None:
    """There is nobody to pass anything on to."""


def _nothing() -> None:
    """Nothing was taken from others."""


class Announcements:
    """The ids that pushes have named and no claim has brought yet: a bounded memory.

    Only for knowing how a query was found, and what that says about the rest of the queue. It never
    chooses one.

    A name is out of date once the queue was found empty: somebody else was handed that query (or its
    push was ahead of its commit). Should it come to us later, put back by a worker that was stopped,
    others may have been put back with it, and nobody pushes those.

    Args:
        most: How many ids are remembered; the oldest are forgotten first.
    """

    def __init__(self, most: int = 4096) -> None:
        self._most = most
        self._ids: OrderedDict[int, int] = OrderedDict()
        self.times_empty = 0
        """How often the queue was found empty. Read it before a claim is sent, for `take`."""

    @property
    def unclaimed(self) -> Collection[int]:
        """The ids that no claim has brought yet."""
        return self._ids.keys()

    def add(self, query_id: int) -> None:
        """Remember the id that a push named."""
        self._ids[query_id] = self.times_empty
        self._ids.move_to_end(query_id)
        if len(self._ids) > self._most:
            self._ids.popitem(last=False)

    def found_empty(self) -> None:
        """A claim has shown that the queue is empty."""
        self.times_empty += 1

    def take(self, query_id: int, times_empty: int) -> tuple[bool, bool]:
        """Forget a query that a claim has brought.

        Args:
            query_id: Which query.
            times_empty: What `times_empty` was before the claim was sent.

        Returns:
            Whether a push had named it, and whether that was not out of date.
        """
        named_at = self._ids.pop(query_id, None)
        return named_at is not None, named_at is not None and named_at >= times_empty
