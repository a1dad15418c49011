"""``trio-worker run``: the service and its push endpoint, in one process whose signals are ours."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

import structlog
import trio
from hypercorn.config import Config
from hypercorn.trio import serve

from trio_worker.cli.check_endpoint import bind_problem
from trio_worker.cli.crash import after_crash
from trio_worker.cli.ending import complain
from trio_worker.errors import SettingsError
from trio_worker.launch import OK, WRONG_SETTINGS, Launch, leave_by_force
from trio_worker.stop import Stop
from trio_worker.systemd import Systemd
from trio_worker.web import hypercorn_fixes

__all__ = ["run_worker"]

log = structlog.get_logger(__name__)


def run_worker() -> int:
    """Run the worker.

    Returns:
        The exit code.
    """
    try:
        trio.run(_run, Launch.prepare(Path.cwd()))
    except SettingsError as error:
        for problem in error.problems:
            complain(problem)
        return WRONG_SETTINGS
    except BaseExceptionGroup as group:
        return after_crash(group)
    return OK


async def _run(launch: Launch) -> None:
    """Who lives inside whom: signals around the server around the service."""
    stop, front = launch.stop(), launch.front
    served = trio.Event()
    systemd = Systemd.from_environ(os.environ)
    async with trio.open_nursery() as outer:
        await outer.start(_obey_signals, stop)
        if systemd is not None:
            readiness, late = lambda: front.readiness.reasons, lambda: front.liveness.reasons
            outer.start_soon(partial(systemd.keep_informed, readiness=readiness, late=late, stop=stop))
        async with trio.open_nursery() as nursery:
            await _listen(launch, nursery, until=served)
            # The endpoint outlives the service: a push that comes during the stop is answered, and
            # its query stays queued for somebody else.
            await launch.serve(stop, leave_by_force)
            served.set()
        outer.cancel_scope.cancel()


async def _obey_signals(stop: Stop, task_status: trio.TaskStatus[None]) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGUSR1) as signals:
        stop.notice_signals(signal.SIGTERM, signal.SIGINT, now_from=2)
        task_status.started()
        async for number in signals:
            if number == signal.SIGUSR1:
                stop.drain()
            elif stop.limited.is_set():
                stop.hurry()
            else:
                stop.ask()


async def _listen(launch: Launch, nursery: trio.Nursery, *, until: trio.Event) -> None:
    hypercorn_fixes.install()
    config = Config()
    config.bind = [launch.settings.bind]
    config.graceful_timeout = 1  # seconds for requests under way at the end; a push takes milliseconds
    app = launch.app(config.bind)
    try:
        await nursery.start(partial(serve, app, config, shutdown_trigger=until.wait))
    except* OSError as group:
        reasons = dict.fromkeys(_reasons(group))
        bind = launch.settings.bind
        raise SettingsError([f"WORKER_BIND is {bind!r}: {'; '.join(reasons)}"]) from None


def _reasons(error: BaseException) -> list[str]:
    if isinstance(error, BaseExceptionGroup):
        return [reason for inner in error.exceptions for reason in _reasons(inner)]
    return [bind_problem(error) if isinstance(error, OSError) else str(error)]
