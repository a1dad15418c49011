"""What the probes ask: whether the worker can do its job, and whether its loops keep their time."""

from __future__ import annotations

import math
from collections.abc import Callable

import attrs
import trio

from trio_worker.backlog import Backlog
from trio_worker.bus import Bus
from trio_worker.errors import AccessDenied
from trio_worker.intake import Intake
from trio_worker.journal import Journal
from trio_worker.left_behind import LeftBehind
from trio_worker.liveness import Liveness
from trio_worker.pause import Pause
from trio_worker.recovery import MOST_ASIDE, Recovery
from trio_worker.reporting import Deliveries
from trio_worker.stop import Stop
from trio_worker.webbuddy import WebBuddyClient

__all__ = ["DRAINING", "NOT_LOGGED_IN", "PATIENCE", "STOPPING", "Probes"]

NOT_LOGGED_IN = "it has not logged in to WebBuddy yet"
STOPPING = "it is stopping"
DRAINING = "it drains: what runs ends, nothing new is taken"

PATIENCE = 60.0
"""Seconds for which WebBuddy may be away before the worker is not ready: a deploy of it is no alarm."""


@attrs.frozen(kw_only=True, eq=False)
class Probes:
    """The parts of the service that are asked. Everything here is synchronous and cheap.

    Attributes:
        stop: Whether it was asked for.
        journal: Whether the disk takes what is written.
        webbuddy: Whether it answers, and has let us in.
        intake: Whether claims get through.
        deliveries: How much waits to be reported.
        recovery: Whether what was held before is taken up.
        backlog: Whether a query has to run alone.
        pause: Whether an operator has paused it.
        left_behind: How many handlers run on that were given up.
        bus: Whether wake-ups are shared with other workers.
    """

    stop: Stop
    journal: Journal
    webbuddy: WebBuddyClient
    intake: Intake
    deliveries: Deliveries
    recovery: Recovery
    backlog: Backlog
    pause: Pause
    left_behind: LeftBehind
    bus: Bus

    def questions(self) -> dict[str, Callable[[], str | None]]:
        """What may keep the worker from its job: each gives a sentence, or None.

        Each gate that holds claims back is among them: none may be closed while all probes are green.
        """
        return {
            "service": self._service,
            "pause": lambda: self.pause.problem,
            "login": self._login,
            "webbuddy": self._webbuddy,
            "journal": lambda: self.journal.illness,
            "handler": lambda: self.left_behind.problem,
            "recovery": self._recovery,
            "results": self._results,
        }

    def notes(self) -> dict[str, Callable[[], str | None]]:
        """What is not as it should be, though queries are taken: each gives a sentence, or None."""
        return {
            "webbuddy": lambda: self.intake.trouble,
            "results": self._results_wait,
            "handler": self._left_behind,
            "bus": lambda: self.bus.trouble,
        }

    def watch_loops(self, liveness: Liveness) -> None:
        """Have those looked after that know their times anyway; the others have a pulse."""
        liveness.watch("claims", lambda: self.intake.due)
        liveness.watch("log shipper", lambda: self.deliveries.due(reports=False))
        liveness.watch("reporter", lambda: self.deliveries.due(reports=True))
        liveness.watch("calls to WebBuddy", lambda: self.webbuddy.turns.oldest + self.webbuddy.longest_call)
        liveness.watch("journal writer", lambda: self.journal.due)

    def _service(self) -> str | None:
        if self.stop.limited.is_set():
            return STOPPING
        return DRAINING if self.stop.asked.is_set() else None

    def _login(self) -> str | None:
        if self.webbuddy.refusal is not None:
            return self.webbuddy.refusal
        if self.webbuddy.logged_in:
            return None
        outage = self.intake.outage  # each claim asks for the log-in first
        return NOT_LOGGED_IN if outage is None else f"{NOT_LOGGED_IN}: {outage}"

    def _webbuddy(self) -> str | None:
        outage = self.intake.outage
        if isinstance(outage, AccessDenied):
            return None  # that is the log-in's matter
        since, failing_since = self.intake.outage_since, self.webbuddy.failing_since
        # One call that failed is no proof: the next one, which would go well, may come much later.
        if self.webbuddy.failed_at - failing_since > PATIENCE:
            since = min(since, failing_since)
        seconds = trio.current_time() - since
        if seconds <= PATIENCE:
            return None
        return f"for {seconds:.0f} s no query can be claimed ({outage or 'WebBuddy does not answer'})"

    def _results_wait(self) -> str | None:
        # While WebBuddy is well, each result waits for a moment: that is no news.
        count = self.deliveries.waiting
        if not count or self.intake.trouble_since == math.inf:
            return None
        return "1 result waits to be reported" if count == 1 else f"{count} results wait to be reported"

    def _left_behind(self) -> str | None:
        count = self.left_behind.tasks + self.left_behind.threads
        if not count:
            return None
        handlers, run = ("handler", "runs") if count == 1 else ("handlers", "run")
        return f"{count} {handlers} could not be stopped and still {run}"

    def _recovery(self) -> str | None:
        if not self.recovery.gate.is_open:
            return "what was held before is not taken up yet"
        if not self.recovery.room.is_open:
            return f"{MOST_ASIDE} queries are put aside: nothing new is claimed until some of them are due"
        if not self.backlog.gate.is_open:
            return "a query runs alone during which the worker has died before, or waits for that"
        return None

    def _results(self) -> str | None:
        if self.deliveries.gate.is_open:
            return None
        return f"{self.deliveries.waiting} results wait to be reported: nothing new is claimed"
