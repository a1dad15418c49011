"""``trio-worker once``: one query, or all that there are, and out. For cron, and for trying a handler."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import click
import trio

from trio_worker import event_log
from trio_worker.capture import Capture
from trio_worker.cli.crash import after_crash
from trio_worker.cli.ending import Interruption, complain, run_command
from trio_worker.cli.outbox_table import counted
from trio_worker.cli.settings_here import read_here
from trio_worker.errand import REPORT_SECONDS, Errand
from trio_worker.errors import SettingsError
from trio_worker.handlers.kinds import find_handler
from trio_worker.handlers.loading import Handler
from trio_worker.launch import OK, WRONG_SETTINGS, Launch, leave_by_force, mask_variables
from trio_worker.settings import LogLevel, read_fields
from trio_worker.stop import Stop
from trio_worker.testing import RunningWorker, StoredQuery, WebBuddy, open_worker
from trio_worker.watchdog import watchdog

__all__ = ["run_offline", "run_once"]

NOT_REACHED = FAILED = 1
ENDED = ("done", "failed")

_OFFLINE = (
    *("handler", "processing_timeout", "max_processing_time", "max_retries", "language"),
    *("mask", "capture", "log_level"),
)


def run_once(*, every: bool, verbose: bool) -> int:
    """Work on the next query, or on all that there are.

    Args:
        every: Until the queue is empty; with all consumers, not with one.
        verbose: Log each step.

    Returns:
        The exit code: 0 also when there was nothing to do; 1 when WebBuddy could not be asked.
    """
    try:
        launch = Launch.prepare(Path.cwd())
        event_log.configure("debug" if verbose else "warning", launch.settings.log_format)
        # WORKER_PROCESSES is how many share the consumers of a service; this process is alone.
        settings = launch.settings if every else attrs.evolve(launch.settings, num_workers=1)
        launch = attrs.evolve(launch, settings=settings, processes=1)
        errand = trio.run(_work, launch, every)
    except SettingsError as error:
        for problem in error.problems:
            complain(problem)
        return WRONG_SETTINGS
    except BaseExceptionGroup as group:
        return after_crash(group)
    if errand.failure is not None:
        complain(errand.failure)
        return NOT_REACHED
    done = counted(errand.taken, "query was", "queries were") + " worked on"
    click.echo(done if errand.taken else "no query is queued", err=True)
    return OK


async def _work(launch: Launch, every: bool) -> Errand:
    # When all is done it asks for the stop itself; the grace is for reporting then, and for closing.
    stop = Stop(grace=REPORT_SECONDS, reserve=REPORT_SECONDS, closes=launch.handler.opens)
    errand = Errand(every)
    async with trio.open_nursery() as nursery:
        await nursery.start(_obey_signals, stop)
        await launch.serve(stop, leave_by_force, errand=errand)
        nursery.cancel_scope.cancel()
    return errand


async def _obey_signals(stop: Stop, task_status: trio.TaskStatus[None]) -> None:
    """The first signal means "now", as the second does to ``run``; also while all is being reported."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        stop.notice_signals(signal.SIGTERM, signal.SIGINT, now_from=1)
        task_status.started()
        async for _ in signals:
            stop.hurry()


# --- Without a WebBuddy -----------------------------------------------------------------------------


def run_offline(text: str, *, verbose: bool) -> int:
    """Work on a query that is made up, with a WebBuddy in this process.

    Its log goes to stderr as it comes, its answer to stdout.

    Args:
        text: What the query says.
        verbose: Log each step of the worker.

    Returns:
        The exit code: 0 when it is done, 1 when it has failed, 128 and a signal's number after that.
    """
    level: LogLevel = "debug" if verbose else "warning"
    try:
        event_log.configure(level, "auto")
        settings = read_here(_offline)
        capture = Capture(settings["capture"], settings["log_level"])
        handler = find_handler(settings.pop("handler"), Path.cwd(), most=1, capture=capture)
    except SettingsError as error:
        for problem in error.problems:
            complain(problem)
        return WRONG_SETTINGS
    try:
        return run_command(partial(_answer, handler, text, settings))
    except BaseExceptionGroup as group:
        return after_crash(group)


def _offline(environ: Mapping[str, str]) -> dict[str, Any]:
    settings = read_fields(environ, *_OFFLINE)
    for warning in mask_variables(settings.pop("mask"), environ):
        complain(warning)
    return settings


async def _answer(handler: Handler, text: str, settings: dict[str, Any], interruption: Interruption) -> int:
    async with trio.open_nursery() as nursery:
        with interruption.scope:
            async with open_worker(
                handler, webbuddy=WebBuddy(), num_workers=1, name="once", **settings
            ) as worker:
                # Outside of the worker, which is still there when it has to be left by force.
                nursery.start_soon(_leave_if_abandoned, worker)  # noqa: ASYNC111
                worker.stop.notice_signals(signal.SIGTERM, signal.SIGINT, now_from=1)
                with watchdog(handler, forced_end=lambda: worker.stop.forced_end, abandon=leave_by_force):
                    query = worker.webbuddy.add_query(text)
                    await _show_log(worker.webbuddy, query)
        nursery.cancel_scope.cancel()
    if interruption.signal is not None:
        return interruption.exit_code
    click.echo(query.answer_text, err=query.status != "done")
    return OK if query.status == "done" else FAILED


async def _leave_if_abandoned(worker: RunningWorker) -> None:
    await worker.abandoned.wait()
    leave_by_force()


async def _show_log(webbuddy: WebBuddy, query: StoredQuery) -> None:
    """Print its log as it comes, until it has ended."""
    shown = 0
    while query.status not in ENDED:
        await webbuddy.until(lambda: len(query.entries) > shown or query.status in ENDED)  # noqa: B023
        for entry in query.entries[shown:]:
            click.echo(entry.text, err=True)
        shown = len(query.entries)
