"""One of the N consumers: take a query, work, hand over how it ended, again."""

from __future__ import annotations

import attrs
import structlog
import trio

from trio_worker.delivery import Delivery
from trio_worker.desk import HeldDesk
from trio_worker.errand import Errand
from trio_worker.errors import JournalIllError, WebBuddyError
from trio_worker.execution import Execution
from trio_worker.held import Held
from trio_worker.history import Attempt, History
from trio_worker.intake import Intake
from trio_worker.ownership import Standing, look
from trio_worker.phrases import Phrases
from trio_worker.projects import Projects
from trio_worker.query import Done, Ending, Failed, Outcome, Postponed, Released, Revoked
from trio_worker.recovery import Recovery
from trio_worker.reporting import Deliveries
from trio_worker.stop import Stop
from trio_worker.wakeups import Wakeups

__all__ = ["Consumer"]

log = structlog.get_logger(__name__)


@attrs.frozen(kw_only=True)
class Consumer:
    """What a consumer needs. All N tasks run the same one.

    Attributes:
        wakeups: Where it listens.
        intake: Where its queries come from.
        execution: What runs the handler.
        deliveries: Who tells WebBuddy.
        projects: Where settings of projects come from.
        recovery: Who keeps what is to be tried again later.
        phrases: The language of what the query's author reads.
        worker: The name of this worker, for the query's log.
        time_limit: Seconds for one query, for the query's log.
        most_retries: How often a handler may put one query aside.
        stop: The stop.
        history: Told of each attempt, for those who look.
        errand: Told how each query ended; None: there is none.
    """

    wakeups: Wakeups
    intake: Intake
    execution: Execution
    deliveries: Deliveries
    projects: Projects
    recovery: Recovery
    phrases: Phrases
    worker: str
    time_limit: float
    most_retries: int
    stop: Stop
    history: History
    errand: Errand | None = None

    async def run(self) -> None:
        """Work on queries, one at a time, until the intake is closed."""
        with self.stop.after_a_crash(), self.wakeups.listen() as listener:
            while (held := await self.intake.next(listener)) is not None:
                with structlog.contextvars.bound_contextvars(query=held.query.id):
                    try:
                        await self.work(held)
                    finally:
                        self.intake.finished()

    async def work(self, held: Held) -> None:
        """See one query through an attempt. Cancelled, the outcome is that it is put back."""
        delivery = self.deliveries.of(held)
        entry = held.entry
        # One that was put aside, or has crashed, is counted when it is started.
        number = entry.attempts if entry.running else entry.attempts + 1
        attempt = self.history.begin(held.query, number, entry.source, trio.current_time())
        ending: Ending = Released(self.phrases.stopping)
        try:
            if not held.on_disk:
                self._note_claim(held, attempt)
                ending = Released(self.phrases.not_written)
            elif not await self._is_ours(held):
                ending = Revoked("somebody took it while it waited")
            elif not self.stop.asked.is_set():
                await self._begin(held, attempt)
                ending = await self._run(held)
            elif entry.running:  # as it was claimed; one that was put aside has said so long ago
                self._note_claim(held, attempt)
        finally:
            # Also when this task is cancelled, or a bug raises: the query must not stay ours.
            self._conclude(held, delivery, ending, attempt)

    async def _run(self, held: Held) -> Ending:
        if held.is_over:
            return Revoked("somebody took it while it was written down")
        deadline = self.execution.deadline()
        desk = HeldDesk(held, deadline, self.projects, self.worker)
        ctx = self.execution.context(desk, attempt=held.entry.attempts, saved=held.entry.saved)
        try:
            return await self.execution.run(held.query, ctx, deadline)
        finally:
            desk.close()

    async def _is_ours(self, held: Held) -> bool:
        """Look, if it has waited for long; where WebBuddy can't be asked, the look before the report does."""
        if trio.current_time() - held.seen_at <= self.deliveries.look_after:
            return True
        try:
            found = await look(self.deliveries.webbuddy, held)
        except WebBuddyError:
            return True
        return found not in (Standing.TAKEN, Standing.OTHER_DATABASE)

    async def _begin(self, held: Held, attempt: Attempt) -> None:
        """Tell the query's author, and see to it that the attempt is on disk before the handler starts."""
        if held.entry.running:  # as it was claimed
            self._note_claim(held, attempt)
        else:
            try:
                await held.start().durable()
            except JournalIllError:
                pass  # its claim is on disk; an attempt that is not counted is better than none
            self._note_attempt(held, attempt)
        held.log.write(self.phrases.started.format(limit=self.time_limit))

    def _note_claim(self, held: Held, attempt: Attempt) -> None:
        pick_up = None if attempt.pick_up is None else round(attempt.pick_up, 3)
        log.info("query claimed", attempt=attempt.attempt, source=attempt.source, pick_up_seconds=pick_up)
        source = self.phrases.claimed_push if attempt.source == "push" else self.phrases.claimed_poll
        held.log.write(self.phrases.claimed.format(worker=self.worker, source=source))

    def _note_attempt(self, held: Held, attempt: Attempt) -> None:
        log.info(
            "query is tried again",
            attempt=attempt.attempt,
            source=attempt.source,
            deaths=held.entry.deaths,
            alone=held.is_suspect,
        )
        phrase = self.phrases.again_after_crash if held.after_crash else self.phrases.again
        held.log.write(phrase.format(attempt=attempt.attempt, worker=self.worker))
        held.after_crash = False

    def _conclude(self, held: Held, delivery: Delivery, ending: Ending, attempt: Attempt) -> None:
        now = trio.current_time()
        if isinstance(ending, Postponed):
            ending = self._postponed(held, ending)
        self.history.end(attempt, ending, now)
        if self.errand is not None:
            self.errand.ended(ending)
        seconds = now - attempt.began_at
        said = {"attempt": attempt.attempt, "source": attempt.source, "seconds": round(seconds, 3)}
        match ending:
            case Postponed(again_in, reason):
                retries = held.entry.retries
                log.info("query put aside", **said, again_in_seconds=again_in, retries=retries, reason=reason)
                self.deliveries.tally.outcomes.add("put_aside")  # its delivery goes on
            case Revoked(reason):
                log.warning("query is no longer ours; its handler was stopped", **said, reason=reason)
                delivery.drop()
            case Done():
                log.info("query done", **said)
                delivery.end(ending, self.phrases.done.format(seconds=seconds))
            case Failed(reason, kind):
                log.warning("query failed", **said, kind=kind, reason=reason)
                delivery.end(ending, self.phrases.failed.format(seconds=seconds, reason=reason))
            case Released(reason):
                log.warning("query put back", **said, reason=reason)
                delivery.end(ending, self.phrases.put_back.format(seconds=seconds, reason=reason))

    def _postponed(self, held: Held, wish: Postponed) -> Postponed | Outcome:
        """Put a query aside; an outcome when that can't be."""
        if self.stop.asked.is_set():
            return Released(self.phrases.stopping)
        count, most = held.entry.retries + 1, self.most_retries
        if count > most:
            return Failed(self.phrases.too_often.format(count=count, most=most), "too_often")
        line = self.phrases.postponed.format(seconds=wish.seconds, reason=wish.reason)
        held.log.write(line.rstrip(": "))
        held.postpone(wish.seconds)
        self.recovery.add(held)
        return wish
