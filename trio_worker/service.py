"""The service: who lives inside whom. Both ways to start it run this one function."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import structlog
import trio
from quart_trio import QuartTrio

from trio_worker.backlog import Backlog
from trio_worker.capture import Capture
from trio_worker.claims import Claims
from trio_worker.consumer import Consumer
from trio_worker.errand import Errand
from trio_worker.execution import Execution, PlainCall, in_a_thread
from trio_worker.figures import Figures
from trio_worker.handlers.loading import Handler
from trio_worker.handlers.opening import open_handler
from trio_worker.history import History
from trio_worker.intake import LONGEST_KNOCK, Intake
from trio_worker.journal import Journal
from trio_worker.left_behind import LeftBehind
from trio_worker.liveness import Liveness
from trio_worker.lost_claims import LostClaims
from trio_worker.neighbours import Neighbours
from trio_worker.overview import Overview
from trio_worker.pause import LOOK_FOR_ORDERS, Pause
from trio_worker.phrases import phrases
from trio_worker.probes import Probes
from trio_worker.projects import Projects
from trio_worker.push_health import PushHealth
from trio_worker.readings import Readings
from trio_worker.recovery import LOOK_AROUND, Recovery
from trio_worker.reporting import Deliveries
from trio_worker.settings import Settings
from trio_worker.stop import Stop, last_resort
from trio_worker.ticker import look_again, tick
from trio_worker.wakeups import Announcements, Wakeups
from trio_worker.watch import watch
from trio_worker.web import Guard, make_app
from trio_worker.web.push_counts import PushCounts
from trio_worker.web.readiness import Readiness
from trio_worker.web.status_page import StatusPage
from trio_worker.webbuddy import WebBuddyClient

__all__ = ["Pushes", "run_service"]

log = structlog.get_logger(__name__)

CLAIM_MARGIN = 1.0  # seconds; a call ends by itself at its limit
SPARE_REPORTS = 64  # ended queries that may wait to be reported, beside one for each consumer
LOOK_AFTER = 30.0  # seconds for which a query is believed to be ours without a look, where there is no watch


class Pushes:
    """What the push endpoint and the service share. Made before either of them.

    Attributes:
        wakeups: Rung by pushes, listened to by consumers.
        announced: The ids that pushes named.
        health: Whether pushes come.
        counts: What came to the push endpoint.
        readiness: What it says to those who ask whether the worker is ready.
        liveness: The same of whether its loops keep their time.
        figures: The same of what it counts.
        neighbours: The other processes on the state folder.
        status_page: The same of all that people want to see.
    """

    def __init__(self) -> None:
        self.wakeups = Wakeups()
        self.announced = Announcements()
        self.health = PushHealth()
        self.counts = PushCounts()
        self.readiness = Readiness()
        self.liveness = Liveness()
        self.figures = Figures()
        self.neighbours = Neighbours()
        self.figures.ask(
            {
                "pushes_total": lambda: {"accepted": self.counts.accepted, "refused": self.counts.refused},
                "foreign_pushes_total": lambda: self.counts.other_url,
                "pushes_broken": lambda: int(self.health.is_broken),
                "ready": lambda: int(not self.readiness.reasons),
                "not_ready": self.readiness.as_numbers,
                "late_loops": lambda: len(self.liveness.reasons),
                "event_loop_delay_seconds": lambda: self.liveness.delays,
            }
        )
        self.status_page = StatusPage(lambda: self.readiness.reasons)

    def pushed(self, query_id: int) -> None:
        """A push has come. Never waits."""
        self.announced.add(query_id)
        self.health.heard()
        self.wakeups.push()

    def app(self, own_url: str, guard: Guard | None = None) -> QuartTrio:
        """Make the app that listens: pushes come to it, and it answers all who ask.

        Args:
            own_url: Our ``WEBBUDDY_URL``.
            guard: Knows who may ask. Without it everybody may.
        """
        return make_app(
            pushed=self.pushed,
            own_url=own_url,
            counts=self.counts,
            readiness=self.readiness,
            liveness=self.liveness,
            figures=self.figures,
            neighbours=self.neighbours,
            status_page=self.status_page,
            guard=guard,
        )


async def run_service(
    settings: Settings,
    *,
    handler: Handler,
    webbuddy: WebBuddyClient,
    journal: Journal,
    pushes: Pushes,
    stop: Stop,
    consumers: int,
    abandon: Callable[[], None],
    call_plain: PlainCall = in_a_thread,
    look_around_every: float = LOOK_AROUND,
    look_for_orders_every: float = LOOK_FOR_ORDERS,
    longest_knock: float = LONGEST_KNOCK,
    errand: Errand | None = None,
) -> None:
    """Claim queries, work on them and report them, until the stop is asked for.

    ::

        last resort                      ends the process when a handler can't be stopped
        └── what the handler has opened  closed when all is reported
            └── clocks                   ticker, watch, recovery, the stop, …; end when all inside has ended
                └── deliveries           logs and results go out last
                    └── capture          what handlers log and print, where that is asked for
                        └── handlers     the user's code; what swallows its cancellation is left here
                            └── consumers    end by themselves once the intake is closed

    The journal is around all of it, and the last to end.

    Args:
        settings: The settings.
        handler: The user's handler, to be opened.
        webbuddy: The door to WebBuddy.
        journal: What is held. What it held when it was opened is taken up before anything new is claimed.
        pushes: Shared with the push endpoint.
        stop: Asked for by a signal.
        consumers: How many consumers this process has.
        abandon: Called when the stop is over and a handler still runs: must end the process.
        call_plain: How a plain handler is called; for virtual time.
        look_around_every: Seconds between two looks for neighbours that have died; for virtual time.
        look_for_orders_every: The same for what an operator orders.
        longest_knock: The same between two claims while there is not even a connection.
        errand: What is to be done before it stops by itself; None: it runs until it is stopped.

    Raises:
        ExceptionGroup: With `HandlerError` in it when the handler can't be opened, with `AccessDenied`
            when WebBuddy refuses the first log-in; with anything else that is a bug. Running handlers
            were cancelled and their queries put back as far as that went within two seconds.
    """
    language, pulse = phrases(settings.language), pushes.liveness.pulse
    if handler.opens:
        pushes.readiness.ask(handler=lambda: "it is being opened")
    async with last_resort(stop, abandon), open_handler(handler, directory=Path.cwd(), stop=stop) as opened:
        if opened is None:
            return  # the stop came first
        async with (
            _cancelled_at_the_end(pushes) as clocks,
            trio.open_nursery() as delivery_nursery,
            _captured(settings) as capture,
            trio.open_nursery() as handler_nursery,
        ):
            left_behind = LeftBehind(journal.left_behind, most=consumers)
            backlog = Backlog(left_behind.gate)
            execution = Execution(
                handler=opened,
                nursery=handler_nursery,
                time_limit=settings.processing_timeout,
                most_time=settings.max_processing_time,
                phrases=language,
                worker=settings.name,
                left_behind=left_behind,
                call_plain=call_plain,
                capture=capture,
            )
            deliveries = Deliveries(
                webbuddy=webbuddy,
                nursery=delivery_nursery,
                phrases=language,
                stop=stop,
                most_waiting=consumers + SPARE_REPORTS,
                look_after=settings.watch_interval or LOOK_AFTER,
                revoke=execution.revoke,
            )
            recovery = Recovery(
                webbuddy=webbuddy,
                journal=journal,
                deliveries=deliveries,
                backlog=backlog,
                phrases=language,
                on_crash=settings.on_crash,
                most_attempts=settings.max_attempts,
                nursery=clocks,
                look_around_every=look_around_every,
                pulse=pulse("look around"),
            )
            claims = Claims(
                webbuddy=webbuddy,
                journal=journal,
                announced=pushes.announced,
                stop=stop,
                limit=settings.request_timeout + CLAIM_MARGIN,
                phrases=language,
                know=deliveries.know,
                shares_tombstones=settings.on_crash == "requeue",
            )
            pause = Pause(
                journal=journal,
                stop=stop,
                every=look_for_orders_every,
                pulse=pulse("orders"),
            )
            intake = Intake(
                webbuddy=webbuddy,
                claims=claims,
                backlog=backlog,
                wakeups=pushes.wakeups,
                announced=pushes.announced,
                push_health=pushes.health,
                gates=(
                    deliveries.gate,
                    journal.gate,
                    recovery.gate,
                    recovery.room,
                    backlog.gate,
                    left_behind.gate,
                    pause.gate,
                ),
                aside=recovery.offer,
                longest_knock=longest_knock,
                errand=errand,
            )
            pause.give_up = intake.give_up
            left_behind.too_many, left_behind.enough_ended = intake.give_up, backlog.look_again
            history = History(consumers, trio.current_time())
            consumer = Consumer(
                wakeups=pushes.wakeups,
                intake=intake,
                execution=execution,
                deliveries=deliveries,
                projects=Projects(webbuddy),
                recovery=recovery,
                phrases=language,
                worker=settings.name,
                time_limit=settings.processing_timeout,
                most_retries=settings.max_retries,
                stop=stop,
                history=history,
                errand=errand,
            )
            lost_claims = LostClaims(
                webbuddy=webbuddy,
                journal=journal,
                mode=settings.lost_claims,
                unclaimed=lambda: pushes.announced.unclaimed,
                said_before=deliveries.said_before,
                pulse=pulse("lost claims"),
            )
            probes = Probes(
                stop=stop,
                journal=journal,
                webbuddy=webbuddy,
                intake=intake,
                deliveries=deliveries,
                recovery=recovery,
                backlog=backlog,
                left_behind=left_behind,
                pause=pause,
            )
            pushes.readiness.ask(**probes.questions())
            probes.watch_loops(pushes.liveness)
            readings = Readings(
                consumers=consumers,
                wakeups=pushes.wakeups,
                intake=intake,
                claims=claims,
                execution=execution,
                deliveries=deliveries,
                journal=journal,
                lost_claims=lost_claims,
                left_behind=left_behind,
                webbuddy=webbuddy,
            )
            pushes.figures.ask(readings.sources())
            overview = Overview(
                settings=settings,
                history=history,
                stop=stop,
                journal=journal,
                webbuddy=webbuddy,
                intake=intake,
                lost_claims=lost_claims,
                left_behind=left_behind,
                push_health=pushes.health,
                unready=lambda: pushes.readiness.reasons,
                late=lambda: pushes.liveness.reasons,
            )
            pushes.status_page.show(overview.snapshot)
            recovery.begin()
            pushes.health.begin(settings.polling_interval)
            clocks.start_soon(tick, pushes.wakeups, pushes.health.next_interval, pulse("ticker"))
            clocks.start_soon(look_again, pushes.wakeups, pulse("second look"))
            clocks.start_soon(deliveries.begin_in_time)
            clocks.start_soon(recovery.look_around)
            clocks.start_soon(lost_claims.find)
            clocks.start_soon(pause.obey)
            if settings.watch_interval:
                interval = settings.watch_interval
                clocks.start_soon(
                    partial(watch, webbuddy, deliveries, interval=interval, pulse=pulse("watch"))
                )
            clocks.start_soon(
                _keep_to, stop, journal, intake, recovery, execution, deliveries, delivery_nursery
            )
            async with trio.open_nursery() as consumer_nursery:
                for _ in range(consumers):
                    consumer_nursery.start_soon(consumer.run)
            if errand is None and not stop.limited.is_set():
                await deliveries.all_through()
            # After a drain as well: a handler that was left behind, or that closes, would have no end.
            stop.ask()
        if errand is not None:
            errand.waiting = sum(entry.dead is None for entry in journal.entries.values())


@asynccontextmanager
async def _cancelled_at_the_end(pushes: Pushes) -> AsyncIterator[trio.Nursery]:
    """A nursery whose tasks serve the body and have no end of their own."""
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
            nursery.cancel_scope.cancel()
    finally:
        pushes.liveness.forget()
        pushes.status_page.end()


@asynccontextmanager
async def _captured(settings: Settings) -> AsyncIterator[Capture]:
    capture = Capture(settings.capture, settings.log_level)
    with capture.begin():
        yield capture


async def _keep_to(
    stop: Stop,
    journal: Journal,
    intake: Intake,
    recovery: Recovery,
    execution: Execution,
    deliveries: Deliveries,
    delivery_nursery: trio.Nursery,
) -> None:
    """Take each part to its end when its time has come."""

    def keep() -> None:
        intake.close()
        recovery.release()
        deliveries.close()
        delivery_nursery.cancel_scope.deadline = stop.end

    try:
        await stop.asked.wait()
        if not stop.limited.is_set():
            log.info("draining: no new query is taken, what runs may take its time")
            keep()
            await stop.limited.wait()
    except trio.Cancelled:
        # From outside, or after a crash. Everybody else is being cancelled as well, but a claim under
        # its shield has to learn that its time has become short.
        stop.hurry()
        keep()
        raise
    if not stop.hurried.is_set():
        log.info("stopping: no new query is taken", grace_seconds=stop.grace)
    journal.stopping()
    keep()
    with trio.move_on_at(stop.work_until):
        await stop.hurried.wait()
        if execution.attempts:
            log.warning("stopping now: running queries are put back")
        keep()
    execution.interrupt(stop.leave_until)
    await stop.hurried.wait()
    keep()
    execution.interrupt(stop.leave_until)
