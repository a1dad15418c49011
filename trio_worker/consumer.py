"""One of the N consumers: claim, work, hand over the outcome, again."""

from __future__ import annotations

import attrs
import structlog
import trio

from trio_worker.context import Context
from trio_worker.execution import Execution
from trio_worker.intake import Claim, Intake
from trio_worker.phrases import Phrases
from trio_worker.query import Done, Failed, Outcome, Released
from trio_worker.query_log import QueryLog
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
        phrases: The language of what the query's author reads.
        worker: The name of this worker, for the query's log.
        time_limit: Seconds for one query, for the query's log.
        stop: The stop.
    """

    wakeups: Wakeups
    intake: Intake
    execution: Execution
    deliveries: Deliveries
    phrases: Phrases
    worker: str
    time_limit: float
    stop: Stop

    async def run(self) -> None:
        """Work on queries, one at a time, until the intake is closed."""
        with self.stop.after_a_crash(), self.wakeups.listen() as listener:
            while (claim := await self.intake.next(listener)) is not None:
                with structlog.contextvars.bound_contextvars(query=claim.query.id):
                    await self.work(claim)

    async def work(self, claim: Claim) -> None:
        """See one claimed query to its outcome. Cancelled, the outcome is that it is put back."""
        query_log = QueryLog(self.phrases, began=claim.at)
        delivery = self.deliveries.begin(claim.query, query_log)
        outcome: Outcome = Released(self.phrases.stopping)
        try:
            self._note_claim(claim, query_log)
            if not self.stop.asked.is_set():
                query_log.write(self.phrases.started.format(limit=self.time_limit))
                outcome = await self.execution.run(claim.query, Context(query_log.write))
        finally:
            # Also when this task is cancelled, or a bug raises: the query must not stay ours.
            delivery.end(outcome, self._last_line(outcome, trio.current_time() - claim.at))

    def _note_claim(self, claim: Claim, query_log: QueryLog) -> None:
        log.info("query claimed", source=claim.source)
        source = self.phrases.claimed_push if claim.source == "push" else self.phrases.claimed_poll
        query_log.write(self.phrases.claimed.format(worker=self.worker, source=source))

    def _last_line(self, outcome: Outcome, seconds: float) -> str:
        took = round(seconds, 3)
        match outcome:
            case Done():
                log.info("query done", seconds=took)
                return self.phrases.done.format(seconds=seconds)
            case Failed(reason, kind):
                log.warning("query failed", kind=kind, reason=reason, seconds=took)
                return self.phrases.failed.format(seconds=seconds, reason=reason)
            case Released(reason):
                log.warning("query put back", seconds=took)
                return self.phrases.put_back.format(seconds=seconds, reason=reason)
