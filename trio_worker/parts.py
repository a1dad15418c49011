"""The parts of a service: who is made with what and knows whom. Their life is in `trio_worker.service`."""

from __future__ import annotations

import math
from functools import cached_property

import attrs
import trio

from trio_worker.backlog import Backlog
from trio_worker.bus import Bus, NoBus
from trio_worker.capture import Capture
from trio_worker.claims import Claims
from trio_worker.consumer import Consumer
from trio_worker.errand import Errand
from trio_worker.execution import Execution
from trio_worker.front import Front
from trio_worker.handlers.loading import Handler
from trio_worker.history import History
from trio_worker.intake import LONGEST_KNOCK, Intake
from trio_worker.journal import Journal
from trio_worker.left_behind import LeftBehind
from trio_worker.lost_claims import LostClaims
from trio_worker.overview import Overview
from trio_worker.pause import LOOK_FOR_ORDERS, Pause
from trio_worker.phrases import Phrases, phrases
from trio_worker.plain_thread import PlainCall, in_a_thread
from trio_worker.probes import Probes
from trio_worker.projects import Projects
from trio_worker.queue_length import QueueLength
from trio_worker.readings import Readings
from trio_worker.recovery import LOOK_AROUND, Recovery
from trio_worker.reporting import Deliveries
from trio_worker.settings import Settings
from trio_worker.sharing import Sharing
from trio_worker.stop import Stop
from trio_worker.usage_shipping import UsageShipping
from trio_worker.webbuddy import WebBuddyClient

__all__ = ["Given", "Parts", "Rates"]

CLAIM_MARGIN = 1.0  # seconds; a call ends by itself at its limit
SPARE_REPORTS = 64  # ended queries that may wait to be reported, beside one for each consumer
LOOK_AFTER = 30.0  # seconds for which a query is believed to be ours without a look, where there is no watch


@attrs.frozen(kw_only=True)
class Rates:
    """How often, where a test in virtual time wants it otherwise.

    Attributes:
        look_around: Seconds between two looks for neighbours that have died.
        look_for_orders: The same for what an operator orders.
        longest_knock: The same between two claims while there is not even a connection.
    """

    look_around: float = LOOK_AROUND
    look_for_orders: float = LOOK_FOR_ORDERS
    longest_knock: float = LONGEST_KNOCK


@attrs.frozen(kw_only=True)
class Given:
    """What a service does not make itself.

    Attributes:
        settings: The settings.
        handler: The user's handler; not opened yet.
        webbuddy: The door to WebBuddy.
        journal: What is held. What it held when it was opened is taken up before anything new is claimed.
        front: Shared with the app that listens.
        stop: Asked for by a signal.
        consumers: How many consumers this process has.
        call_plain: How a plain handler is called; for virtual time.
        rates: How often things are looked at; for virtual time.
        errand: What is to be done before it stops by itself; None: it runs until it is stopped.
        bus: Where it shares wake-ups with other workers.
    """

    settings: Settings
    handler: Handler
    webbuddy: WebBuddyClient
    journal: Journal
    front: Front
    stop: Stop
    consumers: int
    call_plain: PlainCall = in_a_thread
    rates: Rates = Rates()
    errand: Errand | None = None
    bus: Bus = attrs.field(factory=NoBus)


@attrs.frozen(kw_only=True, slots=False)
class Parts:
    """Each is made when the first other one wants it: what they need of each other says the order.

    Attributes:
        given: What is there already.
        handler: The handler, opened.
        capture: What handlers log and print.
        handlers: The nursery of the handlers.
        delivering: That of the deliveries.
        clocks: That of the clocks.
    """

    given: Given
    handler: Handler
    capture: Capture
    handlers: trio.Nursery
    delivering: trio.Nursery
    clocks: trio.Nursery

    # --- What runs queries -----------------------------------------------------------------------------

    @cached_property
    def phrases(self) -> Phrases:
        """The language of what the query's author reads."""
        return phrases(self.given.settings.language)

    @cached_property
    def left_behind(self) -> LeftBehind:
        """Handlers that could not be stopped."""
        return LeftBehind(self.given.journal.left_behind, most=self.given.consumers)

    @cached_property
    def execution(self) -> Execution:
        """What runs the handler."""
        settings = self.given.settings
        return Execution(
            handler=self.handler,
            nursery=self.handlers,
            time_limit=settings.processing_timeout,
            most_time=settings.max_processing_time,
            phrases=self.phrases,
            worker=settings.name,
            left_behind=self.left_behind,
            call_plain=self.given.call_plain,
            capture=self.capture,
        )

    @cached_property
    def history(self) -> History:
        """What each consumer does, and has done."""
        return History(self.given.consumers, trio.current_time())

    @cached_property
    def consumer(self) -> Consumer:
        """What all consumers run."""
        settings = self.given.settings
        return Consumer(
            wakeups=self.given.front.wakeups,
            intake=self.intake,
            execution=self.execution,
            deliveries=self.deliveries,
            projects=Projects(self.given.webbuddy),
            recovery=self.recovery,
            phrases=self.phrases,
            worker=settings.name,
            time_limit=settings.processing_timeout,
            most_retries=settings.max_retries,
            stop=self.given.stop,
            history=self.history,
            errand=self.given.errand,
        )

    # --- Where queries come from -----------------------------------------------------------------------

    @cached_property
    def backlog(self) -> Backlog:
        """Queries that are ours already, and wait for a consumer."""
        return Backlog(self.left_behind.gate)

    @cached_property
    def claims(self) -> Claims:
        """What sends claims."""
        settings = self.given.settings
        return Claims(
            webbuddy=self.given.webbuddy,
            journal=self.given.journal,
            announced=self.given.front.announced,
            stop=self.given.stop,
            limit=settings.request_timeout + CLAIM_MARGIN,
            phrases=self.phrases,
            know=self.deliveries.know,
            shares_tombstones=settings.on_crash == "requeue",
        )

    @cached_property
    def pause(self) -> Pause:
        """What an operator has ordered."""
        return Pause(
            journal=self.given.journal,
            stop=self.given.stop,
            every=self.given.rates.look_for_orders,
            pulse=self.given.front.liveness.pulse("orders"),
        )

    @cached_property
    def intake(self) -> Intake:
        """What hands queries to consumers."""
        front, backlog, recovery = self.given.front, self.backlog, self.recovery
        intake = Intake(
            webbuddy=self.given.webbuddy,
            claims=self.claims,
            backlog=backlog,
            wakeups=front.wakeups,
            announced=front.announced,
            push_health=front.health,
            gates=(
                self.deliveries.gate,
                self.given.journal.gate,
                recovery.gate,
                recovery.room,
                backlog.gate,
                self.left_behind.gate,
                self.pause.gate,
            ),
            aside=recovery.offer,
            longest_knock=self.given.rates.longest_knock,
            errand=self.given.errand,
        )
        self.pause.give_up = self.left_behind.too_many = intake.give_up
        self.left_behind.enough_ended = backlog.look_again
        return intake

    @cached_property
    def sharing(self) -> Sharing:
        """Who shares wake-ups with other workers."""
        front = self.given.front
        sharing = Sharing(
            bus=self.given.bus,
            wakeups=front.wakeups,
            announced=front.announced,
            intake=self.intake,
            pulse=front.liveness.pulse("sharing"),
        )
        front.wakeups.pass_on = sharing.pass_on
        front.wakeups.give_back = sharing.give_back
        return sharing

    # --- What becomes of them --------------------------------------------------------------------------

    @cached_property
    def deliveries(self) -> Deliveries:
        """Who tells WebBuddy."""
        return Deliveries(
            webbuddy=self.given.webbuddy,
            nursery=self.delivering,
            phrases=self.phrases,
            stop=self.given.stop,
            most_waiting=self.given.consumers + SPARE_REPORTS,
            look_after=self.given.settings.watch_interval or LOOK_AFTER,
            revoke=self.execution.revoke,
            put_back=self.given.front.wakeups.put_back,
        )

    @cached_property
    def usage_shipping(self) -> UsageShipping:
        """Who tells WebBuddy what models have used."""
        return UsageShipping(self.given.webbuddy, self.given.journal, self.given.stop)

    @cached_property
    def recovery(self) -> Recovery:
        """Who takes up what processes have left, and keeps what is to be tried again."""
        settings = self.given.settings
        return Recovery(
            webbuddy=self.given.webbuddy,
            journal=self.given.journal,
            deliveries=self.deliveries,
            backlog=self.backlog,
            phrases=self.phrases,
            on_crash=settings.on_crash,
            most_attempts=settings.max_attempts,
            nursery=self.clocks,
            look_around_every=self.given.rates.look_around,
            death=self.given.front.neighbours.death,
            is_idle=lambda: not self.execution.attempts,
            pulse=self.given.front.liveness.pulse("look around"),
        )

    @cached_property
    def lost_claims(self) -> LostClaims:
        """Who looks for queries that were handed out to nobody."""
        return LostClaims(
            webbuddy=self.given.webbuddy,
            journal=self.given.journal,
            mode=self.given.settings.lost_claims,
            unclaimed=lambda: self.given.front.announced.unclaimed,
            said_before=self.deliveries.said_before,
            put_back=self.given.front.wakeups.put_back,
            pulse=self.given.front.liveness.pulse("lost claims"),
        )

    @cached_property
    def queue_length(self) -> QueueLength:
        """Who counts what waits at WebBuddy."""
        return QueueLength(
            webbuddy=self.given.webbuddy,
            neighbours=self.given.front.neighbours,
            interval=self.given.settings.polling_interval,
            is_well=lambda: self.intake.trouble_since == math.inf,
            pulse=self.given.front.liveness.pulse("queue length"),
        )

    # --- What is shown of all this ---------------------------------------------------------------------

    def show(self) -> None:
        """Answer whoever asks the front from now on."""
        front = self.given.front
        probes = self._probes()
        front.readiness.ask(**probes.questions())
        front.readiness.note(**probes.notes())
        probes.watch_loops(front.liveness)
        front.figures.ask(self._readings().sources())
        front.status_page.show(self._overview().snapshot)

    def _probes(self) -> Probes:
        return Probes(
            stop=self.given.stop,
            journal=self.given.journal,
            webbuddy=self.given.webbuddy,
            intake=self.intake,
            deliveries=self.deliveries,
            recovery=self.recovery,
            backlog=self.backlog,
            left_behind=self.left_behind,
            pause=self.pause,
            bus=self.given.bus,
        )

    def _readings(self) -> Readings:
        return Readings(
            consumers=self.given.consumers,
            wakeups=self.given.front.wakeups,
            intake=self.intake,
            claims=self.claims,
            execution=self.execution,
            deliveries=self.deliveries,
            usage_shipping=self.usage_shipping,
            journal=self.given.journal,
            lost_claims=self.lost_claims,
            left_behind=self.left_behind,
            webbuddy=self.given.webbuddy,
            sharing=self.sharing,
            queue_length=self.queue_length,
        )

    def _overview(self) -> Overview:
        front = self.given.front
        return Overview(
            settings=self.given.settings,
            history=self.history,
            stop=self.given.stop,
            journal=self.given.journal,
            intake=self.intake,
            lost_claims=self.lost_claims,
            left_behind=self.left_behind,
            push_health=front.health,
            unready=lambda: front.readiness.reasons,
            late=lambda: front.liveness.reasons,
        )
