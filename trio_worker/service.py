"""The service: who lives inside whom. Both ways to start it run this one function."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import structlog
import trio

from trio_worker.capture import Capture
from trio_worker.errand import Errand
from trio_worker.front import Front
from trio_worker.handlers.opening import open_handler
from trio_worker.journal import Journal
from trio_worker.parts import Given, Parts
from trio_worker.settings import Settings
from trio_worker.stop import last_resort
from trio_worker.ticker import look_again, tick
from trio_worker.watch import watch

__all__ = ["run_service"]

log = structlog.get_logger(__name__)


async def run_service(given: Given, *, abandon: Callable[[], None]) -> None:
    """Claim queries, work on them and report them, until the stop is asked for.

    ::

        last resort                      ends the process when a handler can't be stopped
        └── what the handler has opened  closed when all is reported
            └── clocks                   ticker, watch, recovery, the stop, …; end when all inside has ended
                └── deliveries           logs, results and what models have used go out last
                    └── capture          what handlers log and print, where that is asked for
                        └── handlers     the user's code; what swallows its cancellation is left here
                            └── consumers    end by themselves once the intake is closed

    The journal is around all of it, and the last to end.

    Args:
        given: What it works with.
        abandon: Called when the stop is over and a handler still runs: must end the process.

    Raises:
        ExceptionGroup: With `HandlerError` in it when the handler can't be opened, with `AccessDenied`
            when WebBuddy refuses the first log-in; with anything else that is a bug. Running handlers
            were cancelled and their queries put back as far as that went within two seconds.
    """
    stop, front = given.stop, given.front
    if given.handler.opens:
        front.readiness.ask(handler=lambda: "it is being opened")
    async with (
        last_resort(stop, abandon),
        open_handler(given.handler, directory=Path.cwd(), stop=stop) as opened,
    ):
        if opened is None:
            return  # the stop came first
        async with (
            _cancelled_at_the_end(front) as clocks,
            trio.open_nursery() as delivering,
            _captured(given.settings) as capture,
            trio.open_nursery() as handlers,
        ):
            parts = Parts(
                given=given,
                handler=opened,
                capture=capture,
                handlers=handlers,
                delivering=delivering,
                clocks=clocks,
            )
            parts.show()
            delivering.start_soon(parts.usage_shipping.run)
            _start_clocks(parts)
            async with trio.open_nursery() as consumer_nursery:
                for _ in range(given.consumers):
                    consumer_nursery.start_soon(parts.consumer.run)
            parts.usage_shipping.close()
            if given.errand is None and not stop.limited.is_set():
                await parts.deliveries.all_through()
            # After a drain as well: a handler that was left behind, or that closes, would have no end.
            stop.ask()
        if given.errand is not None:
            _note_what_waits(given.errand, given.journal)


def _start_clocks(parts: Parts) -> None:
    front, interval = parts.given.front, parts.given.settings.watch_interval
    clocks, pulse = parts.clocks, front.liveness.pulse
    parts.recovery.begin()
    front.health.begin(parts.given.settings.polling_interval)
    clocks.start_soon(tick, front.wakeups, front.health.next_interval, pulse("ticker"))
    clocks.start_soon(look_again, front.wakeups, pulse("second look"))
    clocks.start_soon(parts.deliveries.begin_in_time)
    clocks.start_soon(parts.sharing.take_part)
    clocks.start_soon(parts.recovery.look_around)
    clocks.start_soon(parts.lost_claims.find)
    clocks.start_soon(parts.pause.obey)
    clocks.start_soon(parts.queue_length.keep)
    if interval:
        looks = partial(
            watch, parts.given.webbuddy, parts.deliveries, interval=interval, pulse=pulse("watch")
        )
        clocks.start_soon(looks)
    clocks.start_soon(_keep_to_the_stop, parts)


def _note_what_waits(errand: Errand, journal: Journal) -> None:
    errand.waiting = sum(entry.dead is None for entry in journal.entries.values())


@asynccontextmanager
async def _cancelled_at_the_end(front: Front) -> AsyncIterator[trio.Nursery]:
    """A nursery whose tasks serve the body and have no end of their own."""
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
            nursery.cancel_scope.cancel()
    finally:
        front.liveness.forget()
        front.status_page.end()


@asynccontextmanager
async def _captured(settings: Settings) -> AsyncIterator[Capture]:
    capture = Capture(settings.capture, settings.log_level)
    with capture.begin():
        yield capture


async def _keep_to_the_stop(parts: Parts) -> None:
    """Take each part to its end when its time has come."""
    stop = parts.given.stop

    def keep() -> None:
        parts.intake.close()
        parts.recovery.release()
        parts.deliveries.close()
        parts.delivering.cancel_scope.deadline = stop.end

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
    parts.given.journal.stopping()
    keep()
    with trio.move_on_at(stop.work_until):
        await stop.hurried.wait()
        if parts.execution.attempts:
            log.warning("stopping now: running queries are put back")
        keep()
    parts.execution.interrupt(stop.leave_until)
    await stop.hurried.wait()
    keep()
    parts.execution.interrupt(stop.leave_until)
