"""What the parts of the service are asked for its figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import attrs

from trio_worker import clock
from trio_worker.claims import Claims
from trio_worker.execution import Execution
from trio_worker.figures import Source
from trio_worker.intake import Intake
from trio_worker.journal import Journal
from trio_worker.journal_file import Entry
from trio_worker.left_behind import LeftBehind
from trio_worker.lost_claims import LostClaims
from trio_worker.queue_length import QueueLength
from trio_worker.reporting import Deliveries
from trio_worker.sharing import Sharing
from trio_worker.usage_shipping import UsageShipping
from trio_worker.wakeups import Wakeups
from trio_worker.webbuddy import WebBuddyClient

__all__ = ["Readings"]


@attrs.frozen(kw_only=True, eq=False)
class Readings:
    """The parts that count. Everything here is synchronous, and done only when somebody asks.

    Attributes:
        consumers: How many consumers there are.
        wakeups: What tells them to ask.
        intake: How often a claim was sent again.
        claims: What came of claims.
        execution: How long handlers take.
        deliveries: What became of queries.
        usage_shipping: What became of token usage.
        journal: What is held.
        lost_claims: What was found of lost claims.
        left_behind: What could not be stopped.
        webbuddy: The requests, and the tokens.
        sharing: What came over the bus.
        queue_length: How many queries wait at WebBuddy.
    """

    consumers: int
    wakeups: Wakeups
    intake: Intake
    claims: Claims
    execution: Execution
    deliveries: Deliveries
    usage_shipping: UsageShipping
    journal: Journal
    lost_claims: LostClaims
    left_behind: LeftBehind
    webbuddy: WebBuddyClient
    sharing: Sharing
    queue_length: QueueLength

    def sources(self) -> dict[str, Source]:
        """Whom to ask, by the names of `trio_worker.figures`."""
        tally, traffic = self.deliveries.tally, self.webbuddy.traffic
        return {
            "claims_total": lambda: self.claims.results,
            "queries_total": lambda: tally.outcomes,
            "failures_total": lambda: tally.failures,
            "pickup_seconds": lambda: self.claims.pick_ups,
            "run_seconds": lambda: self.execution.run_times,
            "report_delay_seconds": lambda: tally.report_delays,
            "consumers": lambda: self.consumers,
            "consumers_busy": lambda: len(self.execution.attempts),
            "consumer_busy_seconds_total": lambda: self.execution.busy_seconds,
            "queue_length": self.queue_length.read,
            "wakeups_total": lambda: self.wakeups.sources,
            "bus_hints_total": lambda: self.sharing.hints,
            "bus_up": lambda: int(self.sharing.bus.trouble is None),
            "webbuddy_calls_total": lambda: traffic.calls,
            "webbuddy_call_seconds": lambda: traffic.seconds,
            "retries_total": self._retries,
            "token_renewals_total": lambda: self.webbuddy.renewals,
            "held_queries": self._held,
            "dead_letters": lambda: sum(entry.dead is not None for entry in self.journal.entries.values()),
            "results_refused_total": lambda: tally.refused,
            "lost_claims": lambda: len(self.journal.lost),
            "lost_queries_total": lambda: self.lost_claims.found,
            "log_lines_total": lambda: tally.log_lines,
            "token_usages_total": lambda: self.usage_shipping.fates,
            "left_behind": lambda: {"task": self.left_behind.tasks, "thread": self.left_behind.threads},
        }

    def _retries(self) -> Mapping[str, float]:
        again = self.deliveries.tally.retries.by
        return {"claim": self.intake.retries, "log": again["log"], "report": again["report"]}

    def _held(self) -> Mapping[str, float]:
        alive = (entry for entry in self.journal.entries.values() if entry.dead is None)
        found = Counter(map(_state, alive))
        return {state: found[state] for state in ("running", "waiting", "put_aside", "ended")}


def _state(entry: Entry) -> str:
    if entry.outcome is not None:
        return "ended"
    if entry.running:
        return "running"
    return "put_aside" if entry.due is not None and entry.due > clock.now() else "waiting"
