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
from trio_worker.cli.member import Member
from trio_worker.errors import SettingsError, leaves
from trio_worker.launch import OK, WRONG_SETTINGS, Launch, leave_by_force
from trio_worker.stop import Stop
from trio_worker.systemd import Systemd
from trio_worker.web import hypercorn_fixes

__all__ = ["cannot_listen", "obey_signals", "run_worker"]

log = structlog.get_logger(__name__)


def run_worker(member_of: str | None = None) -> int:
    """Run the worker.

    Args:
        member_of: What the parent of several processes has given this one, as a text; None: there is none.

    Returns:
        The exit code.
    """
    try:
        if member_of is None:
            trio.run(_run, Launch.prepare(Path.cwd()), None)
        else:
            member = Member.read(member_of)
            member.follow_the_parent()
            launch = Launch.prepare(Path.cwd(), processes=member.processes, index=member.index)
            trio.run(_run, launch, member)
    except SettingsError as error:
        for problem in error.problems:
            complain(problem)
        return WRONG_SETTINGS
    except BaseExceptionGroup as group:
        return after_crash(group)
    return OK


async def _run(launch: Launch, member: Member | None) -> None:
    """Who lives inside whom: signals around the server around the service."""
    stop, front = launch.stop(), launch.front
    served = trio.Event()
    systemd = Systemd.from_environ(os.environ)
    async with trio.open_nursery() as outer:
        await outer.start(partial(obey_signals, stop, is_member=member is not None))
        if systemd is not None:
            readiness, late = lambda: front.readiness.reasons, lambda: front.liveness.reasons
            outer.start_soon(partial(systemd.keep_informed, readiness=readiness, late=late, stop=stop))
        async with trio.open_nursery() as nursery:
            await _listen(launch, nursery, member, until=served)
            if member is not None:
                outer.start_soon(member.keep_in_touch, front, stop)
            # The endpoint outlives the service: a push that comes during the stop is answered, and
            # its query stays queued for somebody else.
            await launch.serve(stop, leave_by_force)
            served.set()
        outer.cancel_scope.cancel()


async def obey_signals(stop: Stop, *, is_member: bool = False, task_status: trio.TaskStatus[None]) -> None:
    """Ask for the stop when a signal says so. Never returns.

    Args:
        stop: The stop.
        is_member: Whether there is a parent, who may have got the same signals. A second one then does not
            mean "now", and none means to drain: the parent says so to all, or nobody does.
        task_status: Told once signals are received.
    """
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGUSR1) as signals:
        stop.notice_signals(signal.SIGTERM, signal.SIGINT, now_from=None if is_member else 2)
        task_status.started()
        async for number in signals:
            if number == signal.SIGUSR1:
                if not is_member:
                    stop.drain()
            elif stop.limited.is_set() and not is_member:
                stop.hurry()
            else:
                stop.ask()


async def _listen(launch: Launch, nursery: trio.Nursery, member: Member | None, *, until: trio.Event) -> None:
    hypercorn_fixes.install()
    config, bind = Config(), launch.settings.bind
    config.bind = [bind if member is None else f"fd://{member.listener}"]
    config.graceful_timeout = 1  # seconds for requests under way at the end; a push takes milliseconds
    # What is open to others is said once.
    app = launch.app([bind] if member is None or member.index == 0 else [])
    try:
        await nursery.start(partial(serve, app, config, shutdown_trigger=until.wait))
    except* OSError as group:
        raise cannot_listen(bind, group) from None


def cannot_listen(bind: str, error: BaseException) -> SettingsError:
    """Say why nobody can listen at a ``WORKER_BIND``."""
    reasons = (bind_problem(leaf) if isinstance(leaf, OSError) else str(leaf) for leaf in leaves(error))
    return SettingsError([f"WORKER_BIND is {bind!r}: {'; '.join(dict.fromkeys(reasons))}"])
