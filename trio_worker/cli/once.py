"""``trio-worker once``: one query of WebBuddy's, or all that there are, and out. For cron."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import attrs
import click
import trio

from trio_worker import event_log
from trio_worker.cli.crash import after_crash
from trio_worker.cli.ending import after_signal, complain
from trio_worker.cli.outbox_table import counted
from trio_worker.errand import REPORT_SECONDS, Errand
from trio_worker.errors import SettingsError
from trio_worker.launch import OK, WRONG_SETTINGS, Launch, leave_by_force
from trio_worker.query import Done, Failed, Released, Revoked
from trio_worker.stop import Stop

__all__ = ["run_once"]

NOT_ALL_DONE = 1


def run_once(*, every: bool, verbose: bool) -> int:
    """Work on the next query, or on all that there are.

    Args:
        every: Until the queue is empty; with all consumers, not with one.
        verbose: Log each step.

    Returns:
        The exit code: 0 also when there was nothing to do; 1 when WebBuddy could not be asked, or when
        something is left in the journal; 128 and a signal's number after that.
    """
    try:
        launch = Launch.prepare(Path.cwd())
        event_log.configure("debug" if verbose else "warning", launch.settings.log_format)
        # WORKER_PROCESSES is how many share the consumers of a service; this process is alone.
        settings = launch.settings if every else attrs.evolve(launch.settings, num_workers=1)
        launch = attrs.evolve(launch, settings=settings, processes=1)
        stop = Stop(grace=REPORT_SECONDS, reserve=REPORT_SECONDS, closes=launch.handler.opens)
        errand = Errand(every)
        trio.run(_work, launch, stop, errand)
    except SettingsError as error:
        for problem in error.problems:
            complain(problem)
        return WRONG_SETTINGS
    except BaseExceptionGroup as group:
        return after_crash(group)
    return _tell(errand, stop.signal)


async def _work(launch: Launch, stop: Stop, errand: Errand) -> None:
    def leave() -> None:
        # From the watchdog's thread as well.
        leave_by_force(NOT_ALL_DONE if stop.signal is None else after_signal(stop.signal))

    async with trio.open_nursery() as nursery:
        await nursery.start(_obey_signals, stop)
        await launch.serve(stop, leave, errand=errand)
        nursery.cancel_scope.cancel()


async def _obey_signals(stop: Stop, task_status: trio.TaskStatus[None]) -> None:
    """The first signal means "now", as the second does to ``run``; also while all is being reported."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        stop.notice_signals(signal.SIGTERM, signal.SIGINT, now_from=1)
        task_status.started()
        async for _ in signals:
            stop.hurry()


def _tell(errand: Errand, signalled: int | None) -> int:
    """Say what has become of the queries, and give the exit code."""
    for sentence in _sentences(errand):
        click.echo(sentence, err=True)
    if errand.failure is not None:
        complain(errand.failure)
    elif not errand.taken and signalled is None:
        click.echo("no query is queued", err=True)
    if errand.waiting:
        left = counted(errand.waiting, "query is", "queries are")
        complain(
            f"{left} left in the journal, for the next start to go on with: trio-worker outbox shows why"
        )
    if signalled is not None:
        return after_signal(signalled)
    return NOT_ALL_DONE if errand.failure is not None or errand.waiting else OK


def _sentences(errand: Errand) -> Iterator[str]:
    query = partial(counted, one="query was", many="queries were")
    if worked_on := errand.endings[Done] + errand.endings[Failed]:
        yield f"{query(worked_on)} worked on"
    if errand.endings[Released]:
        yield f"{query(errand.endings[Released])} put back"
    if errand.endings[Revoked]:
        yield f"{query(errand.endings[Revoked])} taken by somebody else"
