"""What WebBuddy is told of all queries that are held; `trio_worker.delivery` is the way of one."""

from __future__ import annotations

from collections.abc import Callable

import structlog
import trio

from trio_worker.delivery import Delivery
from trio_worker.gate import Gate
from trio_worker.held import Held
from trio_worker.phrases import Phrases
from trio_worker.query import Query
from trio_worker.stop import Stop
from trio_worker.webbuddy import WebBuddyClient

__all__ = ["Deliveries"]

log = structlog.get_logger(__name__)


class Deliveries:
    """All queries of which WebBuddy has not heard everything.

    Args:
        webbuddy: The door to WebBuddy.
        nursery: Where the deliveries run. It has to outlive the handlers.
        phrases: The language of what the query's author reads.
        stop: The stop; what can't be delivered by its end stays in the journal.
        most_waiting: How many ended queries may wait to be reported before nothing new is claimed.
        look_after: Seconds after which it is no longer believed that a query is ours without a look.
        revoke: Stops the handler of a query that is not ours any more, and takes the reason.

    Attributes:
        gate: Open while there is room for one more query.
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
        revoke: Callable[[Query, str], None],
    ) -> None:
        self.webbuddy = webbuddy
        self.phrases = phrases
        self.stop = stop
        self.look_after = look_after
        self.revoke = revoke
        self.gate = Gate()
        self._nursery = nursery
        self._most_waiting = most_waiting
        self._under_way: dict[str, Delivery] = {}
        self._newest: dict[int, Delivery] = {}  # by the number of the query
        self._waiting = 0

    @property
    def waiting(self) -> int:
        """How many ended queries wait to be reported."""
        return self._waiting

    def of(self, held: Held) -> Delivery:
        """Give the delivery of a query, and begin it where there is none yet.

        One begins with the claim, and ships the log while the handler works. The caller must end it, unless
        the query has ended already.
        """
        delivery = self._under_way.get(held.entry.id)
        if delivery is None:
            self._supersede(held)
            delivery = self._under_way[held.entry.id] = Delivery(self, held)
            self._newest[held.query.id] = delivery
            self._nursery.start_soon(delivery.run, name=f"delivery of query {held.query.id}")
        return delivery

    def _supersede(self, held: Held) -> None:
        """Let go of an older claim of the same query: somebody has requeued it, and it came to us again."""
        older = self._newest.get(held.query.id)
        if older is None:
            return
        log.warning(
            "a query was requeued while it was held here; its first run is let go", query=held.query.id
        )
        if older.held.outcome is None and not older.held.is_put_aside:
            self.revoke(older.held.query, "it was requeued, and claimed here again")
        older.drop()

    def at_work(self) -> list[Held]:
        """List the queries whose handlers are at work, or about to be."""
        helds = [delivery.held for delivery in self._under_way.values()]
        return [held for held in helds if held.outcome is None and not held.is_put_aside]

    def close(self) -> None:
        """The stop has been asked for: no log may hold a result back to its end."""
        # The last chance: perhaps the password is a good one again, which is why we are restarted.
        self.webbuddy.forget_refusal()
        for delivery in self._under_way.values():
            delivery.hurry()

    def count_waiting(self, change: int) -> None:
        """One more, or one fewer, ended query waits to be reported."""
        self._waiting += change
        self.gate.keep(open=self._waiting < self._most_waiting)

    def leave(self, delivery: Delivery) -> None:
        """A delivery is over."""
        self._under_way.pop(delivery.held.entry.id, None)
        if self._newest.get(delivery.held.query.id) is delivery:
            del self._newest[delivery.held.query.id]
