"""What WebBuddy is told of all queries that are held; `trio_worker.delivery` is the way of one."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from weakref import WeakValueDictionary

import structlog
import trio

from trio_worker.delivery import Delivery
from trio_worker.delivery_tally import DeliveryTally
from trio_worker.gate import Gate
from trio_worker.held import Held
from trio_worker.ownership import Standing
from trio_worker.phrases import Phrases
from trio_worker.query import Query
from trio_worker.query_log import GATHER
from trio_worker.stop import Stop
from trio_worker.trouble import Trouble
from trio_worker.webbuddy import WebBuddyClient

__all__ = ["Deliveries"]

OTHER_DATABASE = Standing.OTHER_DATABASE.value

log = structlog.get_logger(__name__)

MOST_REMEMBERED = 1000  # queries that were delivered last


class Deliveries:
    """All queries of which WebBuddy has not heard everything.

    Args:
        webbuddy: The door to WebBuddy.
        nursery: Where the deliveries run. It has to outlive the handlers.
        phrases: The language of what the query's author reads.
        stop: The stop; what can't be delivered by its end stays in the journal.
        most_waiting: How many ended queries may wait to be reported before nothing new is claimed.
        look_after: Seconds after which it is no longer believed that a query is ours without a look.
        revoke: Stops the handler of a query that is not ours any more; says whether one was at work.
        put_back: Told of each query that is in the queue again; synchronous.

    Attributes:
        gate: Open while there is room for one more query.
        tally: What became of queries, in numbers.
        entry_refused: Said when WebBuddy refuses a log entry.
        log_overtaken: Said when it takes none, and results go before their logs.
    """

    def __init__(
        self,
        *,
        webbuddy: WebBuddyClient,
        nursery: trio.Nursery,
        phrases: Phrases,
        stop: Stop,
        most_waiting: int,
        look_after: float,
        revoke: Callable[[Query, str], bool],
        put_back: Callable[[], None],
    ) -> None:
        self.webbuddy = webbuddy
        self.phrases = phrases
        self.stop = stop
        self.look_after = look_after
        self.revoke = revoke
        self.put_back = put_back
        self.gate = Gate()
        self.tally = DeliveryTally()
        self._nursery = nursery
        self._most_waiting = most_waiting
        self._under_way: dict[str, Delivery] = {}
        # The newest of each number. Weakly: whoever works on one keeps it.
        self._held: WeakValueDictionary[int, Held] = WeakValueDictionary()
        self._waiting = 0
        self._left = trio.Event()
        self._later: deque[tuple[float, Delivery]] = deque()  # those that may not have begun yet, and when to
        self._is_one_later = trio.Event()
        self._said: dict[int, set[int]] = {}
        # Of all queries: a WebBuddy that refuses one entry may refuse the same of ten thousand. Results are
        # another matter: each that is refused is an answer that its author does not get.
        self.entry_refused = Trouble(log, "WebBuddy refused a log entry; it is dropped")
        self.log_overtaken = Trouble(log, "WebBuddy takes no log entries: the result goes first")

    @property
    def waiting(self) -> int:
        """How many ended queries wait to be reported."""
        return self._waiting

    def due(self, *, reports: bool) -> float:
        """When the first of the reports or, without ``reports``, of the logs means to go on.

        Returns:
            That time, on Trio's clock; infinite: nothing is to be sent.
        """
        dues = (one.due for one in self._under_way.values() if one.is_reporting == reports)
        return min(dues, default=math.inf)

    def of(self, held: Held) -> Delivery:
        """Give the delivery of a query, and make it where there is none yet.

        It ships the log while the handler works. The caller must end it, unless the query has ended already.
        """
        delivery = self._under_way.get(held.entry.id)
        if delivery is None:
            delivery = Delivery(self, held)
            self._under_way[held.entry.id] = delivery
            if held.resumed or held.outcome is not None:
                self.begin(delivery)
            else:
                self._later.append((trio.current_time() + GATHER, delivery))
                self._is_one_later.set()
        return delivery

    def begin(self, delivery: Delivery) -> None:
        """Send from now on. Again, it does nothing."""
        if not delivery.is_begun:
            delivery.is_begun = True
            self._nursery.start_soon(delivery.run, name=f"delivery of query {delivery.held.query.id}")

    async def begin_in_time(self) -> None:
        """Begin each delivery by when its first entry is due. Never returns.

        A query that has ended before that begins it itself, without having waited: most are short.
        """
        while True:
            while self._later:
                at, delivery = self._later[0]
                if not delivery.is_begun:
                    await trio.sleep_until(at)
                    with structlog.contextvars.bound_contextvars(query=delivery.held.query.id):
                        self.begin(delivery)
                self._later.popleft()
            self._is_one_later = trio.Event()
            await self._is_one_later.wait()

    def know(self, held: Held) -> None:
        """Remember that a query is held; an older claim of it is let go.

        Somebody has requeued it, and it came to us again; or WebBuddy's database was reset, and the number
        is another query's.

        Args:
            held: The query. Not always the later claim: a neighbour that has died may have held an older one.
        """
        known = self._held.get(held.query.id)
        if known is None or known.entry.id == held.entry.id or known.is_over:
            self._held[held.query.id] = held
            return
        older, newer = (held, known) if _is_before(held, known) else (known, held)
        self._held[held.query.id] = newer
        created = older.query.query_created, newer.query.query_created
        if None not in created and created[0] != created[1]:
            log.error("left alone (trio-worker outbox)", query=held.query.id, reason=OTHER_DATABASE)
            older.died(OTHER_DATABASE)
        self.let_go(older, "it was requeued, and claimed here again")

    def let_go(self, held: Held, reason: str) -> None:
        """Stop whatever is done about a query that is not ours any more, and tell WebBuddy nothing.

        Args:
            held: The query.
            reason: What was seen, for the operator.
        """
        # Not `of`: where there is no delivery any more, a new one would never end.
        delivery = self._under_way.get(held.entry.id)
        if self.revoke(held.query, reason):
            return  # its consumer drops it when the handler has ended
        log.warning("a query held here is no longer ours; forgotten", query=held.query.id, reason=reason)
        if delivery is not None:
            delivery.drop()
        elif held.entry.dead is None:
            if held.outcome is None:
                self.tally.outcomes.add("taken_away")
            held.forget()

    def at_work(self) -> list[Held]:
        """List the queries whose handlers are at work, or about to be."""
        helds = [delivery.held for delivery in self._under_way.values()]
        return [held for held in helds if held.outcome is None and not held.is_put_aside]

    def close(self) -> None:
        """The stop has been asked for: no log may hold a result back to its end."""
        # The last chance: perhaps the password is a good one again, which is why we are restarted.
        self.webbuddy.forget_refusal()
        for delivery in list(self._under_way.values()):
            delivery.hurry()

    def count_waiting(self, change: int) -> None:
        """One more, or one fewer, ended query waits to be reported."""
        self._waiting += change
        self.gate.keep(open=self._waiting < self._most_waiting)

    def leave(self, delivery: Delivery) -> None:
        """A delivery is over."""
        self._under_way.pop(delivery.held.entry.id, None)
        self._left.set()
        number = delivery.held.query.id
        said = self._said.pop(number, set()) | delivery.said
        self._said[number] = said  # the newest last
        if len(self._said) > MOST_REMEMBERED:
            del self._said[next(iter(self._said))]

    async def all_through(self) -> None:
        """Wait until none is under way."""
        while self._under_way:
            self._left = trio.Event()
            await self._left.wait()

    def said_before(self, query_id: int, entry: str) -> bool:
        """Whether a claim of a query that is over here has sent this log entry.

        Such an entry may have come late, after the next claim of the query: it does not tell that somebody
        works on that one.
        """
        return hash(entry) in self._said.get(query_id, ())


def _is_before(one: Held, other: Held) -> bool:
    """Whether one claim was before the other: by WebBuddy's clock, unless one version of it does not tell."""
    started, others = one.query.query_started, other.query.query_started
    if started is not None and others is not None:
        return started < others
    return one.entry.claimed_at < other.entry.claimed_at
