"""One query's way back to WebBuddy: its log entries, in order, then how it ended."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import structlog
import trio

from trio_worker.errors import AccessDenied, JournalIllError, NotFound, Refused, Unavailable
from trio_worker.held import Held
from trio_worker.journal import Receipt
from trio_worker.looks import Looks, TakenError
from trio_worker.ownership import Standing
from trio_worker.query import Done, Failed, Outcome, Released
from trio_worker.repeats import Repeats
from trio_worker.stop import only_cancelled

if TYPE_CHECKING:
    from trio_worker.reporting import Deliveries

__all__ = ["LOG_PATIENCE", "Delivery"]

log = structlog.get_logger(__name__)

LOG_PATIENCE = 60.0
"""Seconds for which a result waits for its log while WebBuddy takes other calls, but no log entries."""

LAST_PAUSE = 0.5  # seconds between two tries while the service stops


class Delivery:
    """One query's way back to WebBuddy, from its claim on and over all its attempts.

    Made by `Deliveries.of`.

    Attributes:
        held: The query.
        said: The hashes of the log entries that were sent, or may have been.
        is_begun: Whether it has begun: its task is there, or was, or is not needed any more.
        due: When the call or the pause has to be over in which it is, on Trio's clock; infinite: in none.
        is_reporting: Whether that is for the result, and not for the log.
    """

    def __init__(self, deliveries: Deliveries, held: Held) -> None:
        self.held = held
        self._all = deliveries
        # One for all, since each costs as much as parsing an answer: its deadline is the log's, while that is
        # shipped before the result.
        self._scope = trio.CancelScope()
        self._log_goes_first = True
        self._is_put_off = False
        self._ended = trio.Event()
        self._written: Receipt | None = None
        self._tried = False
        self._dropped = False
        self.said: set[int] = set()
        self.due = math.inf
        self.is_reporting = False
        self.is_begun = False
        self._looks = Looks(deliveries.webbuddy, held, after=deliveries.look_after)
        self._log_fails_since = math.inf
        self._fails_alone = False  # as seen when it last failed
        self._entry_taken = True
        if held.outcome is not None:
            held.log.close("")
            self._note_end()

    # --- What the consumer does; all of it synchronous, so that it also works in cancelled code --------

    def end(self, outcome: Outcome, last_line: str) -> None:
        """Hand over how the query ended.

        Args:
            outcome: What to report.
            last_line: The last line of the query's log.
        """
        if self._dropped:
            return
        self.held.log.close(last_line)  # first: the line goes to disk together with the outcome
        self._written = self.held.end(outcome)
        self._note_end()
        self._all.tally.ended(outcome)
        if self._log_fails_since < math.inf:
            self._overtake_at(trio.current_time() + LOG_PATIENCE)
        self.hurry()

    def drop(self) -> None:
        """Tell WebBuddy nothing more: the query is not ours any more."""
        if not self._dropped and not self._ended.is_set():
            self._all.tally.outcomes.add("taken_away")
        self._dropped = True
        self.held.log.close("")
        if self.held.entry.dead is None:
            self.held.forget()
        self._put_off()

    def _note_end(self) -> None:
        self._ended.set()
        self._all.count_waiting(+1)
        self._all.begin(self)

    def hurry(self) -> None:
        """Keep to the stop, if there is one: by when the log has to be through."""
        stop = self._all.stop
        if not stop.asked.is_set():
            return
        if stop.limited.is_set():
            leave_for_report = (stop.end - stop.work_until) / 3
            self._overtake_at(stop.end - leave_for_report)
        if self.held.is_put_aside:
            self._put_off()  # it stays in the journal for the next start

    def _put_off(self) -> None:
        self._is_put_off = True
        if self.is_begun:
            self._scope.cancel()
        else:
            # Not begun only to end at once: at the end of an errand its nursery may be closed by now.
            self.is_begun = True
            self._all.leave(self)

    # --- The task --------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Ship and report. Cancelled, it still tries to the end of the stop, then leaves it on disk."""
        with self._all.stop.after_a_crash():
            try:
                await self._deliver()
            except BaseException as error:
                if only_cancelled(error):
                    self._all.stop.hurry()
                    with trio.move_on_at(self._all.stop.end, shield=True) as scope:
                        await self._deliver()
                    if scope.cancelled_caught:
                        log.warning(
                            "WebBuddy has not heard how the query ended: that waits for the next start",
                            query=self.held.query.id,
                        )
                raise
            finally:
                if self._ended.is_set():
                    self._all.count_waiting(-1)
                self._all.leave(self)

    async def _deliver(self) -> None:
        try:
            await self._tell_all()
        except TakenError as taken:
            number = self.held.query.id
            if taken.standing is Standing.OTHER_DATABASE:
                self.held.died(str(taken))
                log.error("left alone (trio-worker outbox)", query=number, reason=str(taken))
                return
            log.warning("the query is no longer ours; nothing is reported", query=number, reason=str(taken))
            self.drop()

    async def _tell_all(self) -> None:
        while not self._is_put_off:
            self._scope = trio.CancelScope()
            self.hurry()
            with self._scope:
                await self._tell()
                return
            # Put off; or the time is over for which the log may hold the result back.
            if self._log_goes_first and not self._is_put_off:
                self._overtake()

    def _overtake(self) -> None:
        if self._all.stop.limited.is_set():
            self._log_goes_first = False
        # Else it is down, or was: now is the time to try the log again.
        elif self._fails_alone:
            self._all.log_overtaken.happened(query=self.held.query.id)
            self._log_goes_first = False

    async def _tell(self) -> None:
        if self._log_goes_first:
            await self._ship(to_the_end=self.held.entry.reported)
            self._log_goes_first = False
            if self._scope.deadline < math.inf:
                self._scope.deadline = math.inf
        # The time for the log may be over before the query is, when a blocked event loop runs again.
        if not self._ended.is_set():
            await self._ended.wait()
        if not self.held.entry.reported:
            if isinstance(self.held.outcome, Released):
                # As late as this, since it counts the log's entries; whoever claims it next, also here, is
                # not to begin at nothing.
                self._written = self.held.bury()
            await self._until_written()
            await self._report()
        if self.held.entry.dead is not None:
            return
        if self.held.log.unsent_lines:
            self.held.reported()
            self.is_reporting = False
            await self._ship(to_the_end=True)
        self.held.forget()

    async def _until_written(self) -> None:
        """The outcome is on disk before WebBuddy hears of it; a disk that is ill holds nobody up."""
        if self._written is not None:
            try:
                await self._written.durable()
            except JournalIllError:
                log.warning("reporting a result that could not be written down", query=self.held.query.id)

    # --- The log ---------------------------------------------------------------------------------------

    async def _ship(self, *, to_the_end: bool) -> None:
        """Ship the log until it is closed; unless ``to_the_end``, the result may overtake it."""
        if self.held.resumed:
            await self._persist(self._reconcile)
            self.held.resumed = False
        failed = None if to_the_end else self._note_failure
        while (entry := await self.held.log.next_entry()) is not None:
            await self._persist(partial(self._send_entry, entry), failed=failed)
            self._log_fails_since, self._fails_alone = math.inf, False
            self._all.tally.shipped(*self.held.log.sent(), taken=self._entry_taken)

    async def _reconcile(self) -> None:
        """Ask which entries arrived just before the crash, so that none is sent twice."""
        query = self.held.query
        if not self.held.log.unsent_lines:
            return
        try:
            entries = await self._all.webbuddy.log_entries(query.id)
        except Refused:
            return  # this WebBuddy does not show logs: better twice than never
        since = query.query_started
        texts = [
            entry.text
            for entry in entries
            if entry.created is None or since is None or entry.created >= since
        ]
        self.held.log.skip_arrived(texts)

    async def _send_entry(self, entry: str) -> None:
        # While it is worked on, the watch looks.
        if self.held.outcome is not None or self.held.is_put_aside:
            await self._looks.make_sure()
        self.said.add(hash(entry))
        self._entry_taken = True
        try:
            await self._all.webbuddy.add_log(self.held.query, entry)
        except Refused as refused:
            self._entry_taken = False
            self._all.entry_refused.happened(query=self.held.query.id, reason=str(refused))

    def _note_failure(self) -> None:
        """The log fails: from the end of the query on it may hold the result back for so long."""
        now, closed_at = trio.current_time(), self.held.log.closed_at
        self._log_fails_since = min(self._log_fails_since, now)
        self._fails_alone = self._others_work
        if closed_at is None:
            return
        overtaken_at = max(self._log_fails_since, closed_at) + LOG_PATIENCE
        if now < overtaken_at or self._others_work:
            self._overtake_at(overtaken_at)

    def _overtake_at(self, time: float) -> None:
        if self._log_goes_first and time < self._scope.deadline:
            self._scope.deadline = time

    @property
    def _others_work(self) -> bool:
        """Whether WebBuddy has taken other calls since the log fails; if not, it is down, and all wait."""
        return self._all.webbuddy.well_at > self._log_fails_since

    # --- The result ------------------------------------------------------------------------------------

    async def _report(self) -> None:
        self.is_reporting = True
        try:
            await self._persist(self._send_outcome)
        except NotFound:
            raise TakenError from None
        except Refused as refused:
            await self._report_refusal(refused)
        else:
            self._all.tally.reported(self.held.entry.ended_at)
            log.debug("reported", query=self.held.query.id)

    async def _report_refusal(self, refused: Refused) -> None:
        number = self.held.query.id
        self._all.tally.refused += 1
        log.error("WebBuddy refused the result; reporting failed instead", query=number, reason=str(refused))
        outcome = self.held.outcome
        reason = (
            outcome.reason
            if isinstance(outcome, Released)
            else self._all.phrases.refused.format(detail=refused.detail or refused.status)
        )
        self.held.instead = Failed(reason, "refused")
        try:
            await self._persist(self._send_outcome)
        except NotFound:
            raise TakenError from None
        except Refused as again:
            self.held.instead = None
            self.held.died(str(again))
            log.error(
                "WebBuddy refuses every result: the query stays as it is there, and the result here as a dead"
                " letter (trio-worker outbox)",
                query=number,
                reason=str(again),
            )
        else:
            self._all.tally.reported(self.held.entry.ended_at)

    async def _send_outcome(self) -> None:
        """Report once.

        After a first try that failed, a look comes before each: what got through must not be said again
        over what somebody else has made of the query meanwhile.
        """
        report = self._all.webbuddy.report
        number, outcome = self.held.query.id, self.held.outcome
        if await self._looks.make_sure(always=self._tried) is Standing.DELIVERED:
            return
        self._tried = True
        match outcome:
            case Done(answer):
                await report(number, status="done", answer_text=answer, query_finished=self._ended_at())
            case Failed(reason):
                await report(number, status="failed", answer_text=reason, query_finished=self._ended_at())
            case Released():
                await report(number, status="queued")
                self._all.put_back()

    def _ended_at(self) -> datetime:
        return datetime.fromtimestamp(self.held.entry.ended_at or 0.0, UTC)

    # --- Again and again -------------------------------------------------------------------------------

    async def _persist(
        self, send: Callable[[], Awaitable[None]], *, failed: Callable[[], None] | None = None
    ) -> None:
        """Repeat a call until it got through; only what WebBuddy will never take comes out.

        Args:
            send: Makes the call, with a look before it where that is due.
            failed: Called after each failure.
        """
        try:
            await self._repeat(send, failed)
        finally:
            self.due = math.inf

    async def _repeat(self, send: Callable[[], Awaitable[None]], failed: Callable[[], None] | None) -> None:
        repeats = Repeats()
        while True:
            self.due = trio.current_time() + 2 * self._all.webbuddy.longest_call
            try:
                return await send()
            except (Unavailable, AccessDenied) as error:
                pause = repeats.pause(error)
            if failed is not None:
                failed()
            await self._pause(pause)
            self._all.tally.retries.add("report" if self.is_reporting else "log")

    async def _pause(self, seconds: float) -> None:
        self.due = trio.current_time() + seconds
        stopping = self._all.stop.limited
        if stopping.is_set():
            await trio.sleep(min(seconds, LAST_PAUSE))
            return
        with trio.move_on_after(seconds):
            await stopping.wait()
