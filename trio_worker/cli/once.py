"""``trio-worker once``: one query, or all that there are, and out. For cron, and for trying a handler."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import attrs
import click
import trio

from trio_worker import event_log
from trio_worker.environment import read_environment
from trio_worker.errand import REPORT_SECONDS, Errand
from trio_worker.errors import SettingsError
from trio_worker.handlers.kinds import find_handler
from trio_worker.handlers.loading import Handler
from trio_worker.launch import BUG, OK, WRONG_SETTINGS, Launch, explain, leave_by_force, mask_variables
from trio_worker.settings import LogLevel, read_fields
from trio_worker.stop import Stop
from trio_worker.testing import RunningWorker, StoredQuery, WebBuddy, open_worker

__all__ = ["run_offline", "run_once"]

NOT_REACHED = FAILED = 1
INTERRUPTED = 130
ENDED = ("done", "failed")

_OFFLINE = ("handler", "processing_timeout", "max_processing_time", "max_retries", "language", "mask")


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
        if not every:
            launch = attrs.evolve(launch, settings=attrs.evolve(launch.settings, num_workers=1))
        errand = trio.run(_work, launch, every)
    except SettingsError as error:
        _say(error.problems)
        return WRONG_SETTINGS
    except BaseExceptionGroup as group:
        sentences, code = explain(group)
        if code == BUG:
            raise
        _say(sentences)
        return code
    if errand.failure is not None:
        _say([f"WebBuddy can't be asked for a query: {errand.failure}"])
        return NOT_REACHED
    click.echo(_counted(errand.taken), err=True)
    return OK


def _counted(taken: int) -> str:
    if not taken:
        return "no query is queued"
    return "1 query was worked on" if taken == 1 else f"{taken} queries were worked on"


async def _work(launch: Launch, every: bool) -> Errand:
    stop, errand = Stop(grace=REPORT_SECONDS, reserve=REPORT_SECONDS), Errand(every)
    async with trio.open_nursery() as nursery:
        await nursery.start(_obey_signals, stop)
        await launch.serve(stop, leave_by_force, errand=errand)
        nursery.cancel_scope.cancel()
    return errand


async def _obey_signals(stop: Stop, task_status: trio.TaskStatus[None]) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
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
        The exit code: 0 when it is done, 1 when it has failed, 130 when a signal has put it back.
    """
    level: LogLevel = "debug" if verbose else "warning"
    try:
        environ = read_environment(Path.cwd())
        settings = read_fields(environ, *_OFFLINE)
        event_log.configure(level, "auto")
        _say(mask_variables(settings.pop("mask"), environ))
        handler = find_handler(settings.pop("handler"), Path.cwd(), most=1)
    except SettingsError as error:
        _say(error.problems)
        return WRONG_SETTINGS
    try:
        return trio.run(_answer, handler, text, settings)
    except BaseExceptionGroup as group:
        sentences, code = explain(group)
        if code == BUG:
            raise
        _say(sentences)
        return code


async def _answer(handler: Handler, text: str, settings: dict[str, Any]) -> int:
    webbuddy = WebBuddy()
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with (
            open_worker(handler, webbuddy=webbuddy, num_workers=1, name="once", **settings) as worker,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(_hurry, signals, worker)
            query = worker.webbuddy.add_query(text)
            await _show_log(worker, query)
            nursery.cancel_scope.cancel()
    if query.status not in ENDED:
        return INTERRUPTED
    click.echo(query.answer_text, err=query.status != "done")
    return OK if query.status == "done" else FAILED


async def _hurry(signals: AsyncIterator[int], worker: RunningWorker) -> None:
    async for _ in signals:
        worker.stop.hurry()


async def _show_log(worker: RunningWorker, query: StoredQuery) -> None:
    """Print its log as it comes, until it has ended or was put back."""
    shown = 0

    def has_news() -> bool:
        return len(query.entries) > shown or query.status in ENDED or len(query.history) > 2

    while query.status not in ENDED and len(query.history) <= 2:
        await worker.webbuddy.until(has_news)
        for entry in query.entries[shown:]:
            click.echo(entry.text, err=True)
        shown = len(query.entries)


def _say(sentences: Iterable[str]) -> None:
    for sentence in sentences:
        click.echo(f"trio-worker: {sentence}", err=True)
