"""What WebBuddy is told of a query, in order: its log entries, then how it ended."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial

import structlog
import trio

from trio_worker.backoff import Backoff
from trio_worker.errors import AccessDenied, Busy, NotFound, Refused, Unavailable
from trio_worker.phrases import Phrases
from trio_worker.query import Done, Failed, Outcome, Query, Released
from trio_worker.query_log import QueryLog
from trio_worker.stop import Stop, only_cancelled
from trio_worker.tokens import REFUSAL_HOLDS
from trio_worker.webbuddy import WebBuddyClient

__all__ = ["Deliveries", "Delivery"]

log = structlog.get_logger(__name__)

LOG_PATIENCE = 30.0  # seconds after the end of a query in which its log is still tried
BUSY_TRIES = 6  # plain 500s that are answered by a short pause, as in the intake
LAST_PAUSE = 0.5  # seconds between two tries while the service stops


class Deliveries:
    """All queries of which WebBuddy has not heard everything.

    Args:
        webbuddy: The door to WebBuddy.
        nursery: Where the deliveries run. It has to outlive the handlers.
        phrases: The language of what the query's author reads.
        stop: The stop; what can't be delivered by its end is given up.
        most_waiting: How many ended queries may wait to be reported before `room` waits.
    """

    def __init__(
        self,
        *,
        webbuddy: WebBuddyClient,
        nursery: trio.Nursery,
        phrases: Phrases,
        stop: Stop,
        most_waiting: int,
    ) -> None:
        self.webbuddy = webbuddy
        self.phrases = phrases
        self.stop = stop
        self._nursery = nursery
        self._most_waiting = most_waiting
        self._under_way: set[Delivery] = set()
        self._waiting = 0
        self._changed = trio.Event()

    @property
    def waiting(self) -> int:
        """How many ended queries wait to be reported."""
        return self._waiting

    def begin(self, query: Query, query_log: QueryLog) -> Delivery:
        """Start to ship the log of a query that was just claimed. The caller must `Delivery.end` it."""
        delivery = Delivery(self, query, query_log)
        self._under_way.add(delivery)
        self._nursery.start_soon(delivery.run, name=f"delivery of query {query.id}")
        return delivery

    async def room(self) -> None:
        """Wait until no more ended queries wait than may. Always a checkpoint."""
        await trio.lowlevel.checkpoint()
        while self._waiting >= self._most_waiting:
            await self._changed.wait()

    def close(self) -> None:
        """The stop has been asked for: no log may hold a result back to its end."""
        # The last chance: perhaps the password is a good one again, which is why we are restarted.
        self.webbuddy.forget_refusal()
        for delivery in self._under_way:
            delivery.shorten()

    def ended(self, delivery: Delivery) -> None:
        """One more result waits."""
        self._waiting += 1

    def leave(self, delivery: Delivery) -> None:
        """A delivery is over."""
        self._under_way.discard(delivery)
        if delivery.outcome is not None:
            self._waiting -= 1
        self._changed.set()
        self._changed = trio.Event()


class Delivery:
    """One query's way back to WebBuddy."""

    def __init__(self, deliveries: Deliveries, query: Query, query_log: QueryLog) -> None:
        self._all = deliveries
        self._query = query
        self._log = query_log
        self._shipping = trio.CancelScope()
        self._ended = trio.Event()
        self._perhaps_put_back = False
        self.outcome: Outcome | None = None
        self.ended_at: datetime | None = None

    def end(self, outcome: Outcome, last_line: str) -> None:
        """Hand over how the query ended. Synchronous, so that it also works in cancelled code.

        Args:
            outcome: What to report.
            last_line: The last line of the query's log.
        """
        self.outcome = outcome
        self.ended_at = datetime.now(UTC)
        self._log.close(last_line)
        self._ended.set()
        self._all.ended(self)
        self.shorten()

    def shorten(self) -> None:
        """Set the time by which the log must be through."""
        stop = self._all.stop
        if stop.asked.is_set():
            leave_for_report = (stop.end - stop.work_until) / 3
            self._ship_until(stop.end - leave_for_report)
        if self._log.closed_at is not None:
            self._ship_until(self._log.closed_at + LOG_PATIENCE)

    def _ship_until(self, deadline: float) -> None:
        self._shipping.deadline = min(self._shipping.deadline, deadline)

    async def run(self) -> None:
        """Ship and report. Cancelled, it still tries to the end of the stop, then gives up loudly."""
        with self._all.stop.after_a_crash():
            try:
                await self._deliver()
            except BaseException as error:
                if only_cancelled(error):
                    self._all.stop.hurry()
                    with trio.move_on_at(self._all.stop.end, shield=True) as scope:
                        await self._deliver()
                    if scope.cancelled_caught:
                        log.error(
                            "stopped before WebBuddy has heard how the query ended:"
                            " it stays in_progress there",
                            outcome=type(self.outcome).__name__,
                        )
                raise
            finally:
                self._all.leave(self)

    async def _deliver(self) -> None:
        self._shipping = trio.CancelScope()
        self.shorten()
        with self._shipping:
            await self._ship()
        if self._shipping.cancelled_caught:
            log.warning(
                "log entries were dropped: WebBuddy did not take them in time", lines=self._log.unsent_lines
            )
        # The time for the log may be over before the query is, when a blocked event loop runs again.
        await self._ended.wait()
        await self._report()

    async def _ship(self) -> None:
        while (entry := await self._log.next_entry()) is not None:
            await self._persist(partial(self._send_entry, entry))
            self._log.sent()

    async def _send_entry(self, entry: str) -> None:
        try:
            await self._all.webbuddy.add_log(self._query, entry)
        except Refused as refused:
            log.warning("WebBuddy refused a log entry; it is dropped", reason=str(refused))

    async def _report(self) -> None:
        outcome = self.outcome
        assert outcome is not None  # noqa: S101 - it has ended
        try:
            await self._persist(partial(self._send_outcome, outcome))
        except NotFound:
            log.warning("the query is gone from WebBuddy; its result is dropped")
        except Refused as refused:
            await self._report_refusal(outcome, refused)
        else:
            log.debug("reported")

    async def _report_refusal(self, outcome: Outcome, refused: Refused) -> None:
        log.error("WebBuddy refused the result; reporting the query as failed", reason=str(refused))
        reason = (
            outcome.reason
            if isinstance(outcome, Released)
            else self._all.phrases.refused.format(detail=refused.detail or refused.status)
        )
        try:
            await self._persist(partial(self._send_outcome, Failed(reason, "refused")))
        except Refused as again:
            log.error("WebBuddy refused that as well: the query stays as it is there", reason=str(again))

    async def _send_outcome(self, outcome: Outcome) -> None:
        report = self._all.webbuddy.report
        match outcome:
            case Done(answer):
                await report(self._query.id, status="done", answer_text=answer, query_finished=self.ended_at)
            case Failed(reason):
                await report(
                    self._query.id, status="failed", answer_text=reason, query_finished=self.ended_at
                )
            case Released():
                await self._put_back()

    async def _put_back(self) -> None:
        """Release the query; repeated only as long as it is still ours.

        Unlike a result, a release must not be repeated blindly: once it got through, the next worker
        has the query, and a second release would take it away from that one.
        """
        if self._perhaps_put_back and not await self._still_ours():
            log.info("the query was put back, though the answer to that was lost")
            return
        try:
            await self._all.webbuddy.report(self._query.id, status="queued")
        except Unavailable as error:
            self._perhaps_put_back = self._perhaps_put_back or error.maybe_done
            raise

    async def _still_ours(self) -> bool:
        try:
            now = await self._all.webbuddy.get_query(self._query.id)
        except NotFound:  # gone, or a WebBuddy that can't be asked
            return False
        return now.status == "in_progress" and now.query_started == self._query.query_started

    async def _persist(self, send: Callable[[], Awaitable[None]]) -> None:
        """Repeat a call until it got through; only what WebBuddy will never take comes out."""
        pauses = Backoff(first=0.5, most=60.0)
        short_pauses = Backoff(first=0.05, most=1.0)
        short_tries = BUSY_TRIES
        while True:
            try:
                return await send()
            except Busy as error:
                short_tries -= 1
                # When it goes on it is an outage, and each ended query would ask twice a second.
                pause = short_pauses.next() if short_tries > 0 else pauses.next(error.retry_after)
            except Unavailable as error:
                pause = pauses.next(error.retry_after)
            except AccessDenied:
                pause = REFUSAL_HOLDS
            await self._pause(pause)

    async def _pause(self, seconds: float) -> None:
        stopping = self._all.stop.asked
        if stopping.is_set():
            await trio.sleep(min(seconds, LAST_PAUSE))
            return
        with trio.move_on_after(seconds):
            await stopping.wait()
