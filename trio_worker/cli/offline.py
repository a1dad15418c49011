"""``trio-worker once --query``: a query that is made up, without any WebBuddy. For trying a handler."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click
import trio

from trio_worker import event_log
from trio_worker.capture import Capture
from trio_worker.cli.crash import after_crash
from trio_worker.cli.ending import Interruption, after_signal, complain, run_command
from trio_worker.cli.settings_here import read_here
from trio_worker.errand import Errand
from trio_worker.errors import SettingsError
from trio_worker.handlers.kinds import find_handler
from trio_worker.handlers.loading import Handler
from trio_worker.launch import OK, WRONG_SETTINGS, leave_by_force, mask_variables
from trio_worker.query import Postponed
from trio_worker.settings import LogLevel, read_fields
from trio_worker.testing import RunningWorker, StoredQuery, WebBuddy, open_worker

__all__ = ["run_offline"]

FAILED = 1
TRY_LATER = 75
"""After `RetryLater`, as a program that is a handler says it."""

ENDED = ("done", "failed")
ACCOUNT = "once"
CLOSE_SECONDS = 6.0  # for what the handler has opened; then a handler that can't be stopped goes by force

_FIELDS = (
    *("handler", "processing_timeout", "max_processing_time", "max_retries", "language"),
    *("mask", "capture", "log_level", "log_format"),
)


def run_offline(text: str, *, verbose: bool) -> int:
    """Work on a query that is made up, with a WebBuddy in this process.

    Its log goes to stderr as it comes, its answer to stdout.

    Args:
        text: What the query says.
        verbose: Log each step of the worker.

    Returns:
        The exit code: 0 when it is done, 1 when it has failed, 75 when its handler wants to be called again
        later, 128 and a signal's number after that.
    """
    level: LogLevel = "debug" if verbose else "warning"
    try:
        settings = read_here(_settings)
        event_log.configure(level, settings["log_format"])
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


def _settings(environ: Mapping[str, str]) -> dict[str, Any]:
    settings = read_fields(environ, *_FIELDS)
    for warning in mask_variables(settings.pop("mask"), environ):
        complain(warning)
    return settings | _password(environ)


def _password(environ: Mapping[str, str]) -> dict[str, str]:
    """The worker's own, if it is set: nobody asks for it here, but it must not be shown."""
    if not any(environ.get(name, "").strip() for name in ("WORKER_PASSWORD", "WORKER_PASSWORD_FILE")):
        return {}
    try:
        return {"password": read_fields(environ, "password", "password_file")["password"]}
    except SettingsError as error:
        for problem in error.problems:
            complain(problem)
        return {}


async def _answer(handler: Handler, text: str, settings: dict[str, Any], interruption: Interruption) -> int:
    password = settings.setdefault("password", "none")
    webbuddy = WebBuddy()
    webbuddy.add_user(ACCOUNT, password, is_service=True)
    query = webbuddy.add_query(text, push=False)
    errand = Errand(every=False)

    def leave() -> None:
        # From the watchdog's thread as well, where the loop could not be told of the signal.
        signalled = worker.stop.signal
        leave_by_force(FAILED if signalled is None else after_signal(signalled))

    async with open_worker(
        handler,
        webbuddy=webbuddy,
        errand=errand,
        abandon=leave,
        username=ACCOUNT,
        name="once",
        num_workers=1,
        shutdown_grace=CLOSE_SECONDS,
        **settings,
    ) as worker:
        worker.stop.notice_signals(*interruption.signals, now_from=1)
        with interruption.scope:
            await _show_log(worker, query)
            # Before the end of the worker: a handler that can't be stopped ends the process there.
            return _show_end(query, errand)
        worker.stop.hurry()
    return interruption.exit_code


async def _show_log(worker: RunningWorker, query: StoredQuery) -> None:
    """Print its log as it comes, until it or the worker has ended: that does when it is put aside."""
    shown = 0

    def show_new() -> None:
        nonlocal shown
        for entry in query.entries[shown:]:
            click.echo(entry.text, err=True)
        shown = len(query.entries)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(_cancel_after, worker.ended, nursery.cancel_scope)
        while query.status not in ENDED:
            await worker.webbuddy.until(lambda: len(query.entries) > shown or query.status in ENDED)
            show_new()
        nursery.cancel_scope.cancel()
    show_new()


async def _cancel_after(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


def _show_end(query: StoredQuery, errand: Errand) -> int:
    if isinstance(errand.last, Postponed):
        wish = f"the handler asks to be called again in {round(errand.last.seconds, 1):.10g} s"
        complain(f"{wish}: {errand.last.reason}" if errand.last.reason else wish)
        return TRY_LATER
    click.echo(query.answer_text, err=query.status != "done")
    return OK if query.status == "done" else FAILED
