"""``hypercorn -k trio -b 127.0.0.1:8001 trio_worker.asgi:app``: the service inside hypercorn.

Hypercorn runs this in each of its processes. By itself it would serve on when the service has crashed, and
stop gracefully only when SIGTERM goes to its parent alone; so the service looks after its process here:

- SIGTERM and SIGINT are received here as well, whoever else got them, and so is the parent's death.
- SIGUSR1 drains it, as `trio-worker drain` does. For the parent it is deadly.
- When the service has ended and hypercorn has not been told to stop, the process is ended.

Importing this module reads the environment and imports the handler. What is wrong with them is said in
plain sentences, and the process exits with 2.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import NoReturn

import structlog
import trio
from hypercorn.config import Config
from hypercorn.utils import check_multiprocess_shutdown_event
from quart_trio import QuartTrio

from trio_worker.errors import SettingsError
from trio_worker.launch import BUG, WRONG_SETTINGS, Launch, explain, leave_by_force, state_folder
from trio_worker.orders import draining
from trio_worker.stop import Stop
from trio_worker.web import hypercorn_fixes

__all__ = ["app"]

log = structlog.get_logger(__name__)

HYPERCORNS_DEFAULT = ["127.0.0.1:8000"]
LISTEN_ELSEWHERE = "start hypercorn with -b 127.0.0.1:8001"
MARGIN = 5.0  # seconds beyond the grace before hypercorn or Quart may lose patience


class Host:
    """The service as hypercorn's guest: begun and ended by its lifespan.

    Args:
        launch: What to run.
        shutdown: What hypercorn's parent sets to stop its processes; None where there is no parent.
    """

    def __init__(self, launch: Launch, shutdown: Event | None) -> None:
        self._launch = launch
        self._shutdown = shutdown
        self._stop: Stop | None = None
        self._last_signal = signal.SIGTERM
        self._told = trio.Event()
        self._ended = trio.Event()

    async def begin(self) -> None:
        """Start the service. Hypercorn listens once this has returned."""
        self._stop = self._launch.stop()
        await app.nursery.start(self._serve)

    async def end(self) -> None:
        """Hypercorn stops: let the service come to its end first."""
        self._told.set()
        assert self._stop is not None  # noqa: S101 - `begin` came first
        self._stop.ask()
        await self._ended.wait()

    async def _serve(self, task_status: trio.TaskStatus[None]) -> None:
        assert self._stop is not None  # noqa: S101 - `begin` has set it
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._obey_signals, self._stop)
                nursery.start_soon(_watch_parent, self._stop)
                if self._shutdown is not None:
                    nursery.start_soon(_obey_parent, self._shutdown, self._stop)
                task_status.started()
                await self._launch.serve(self._stop, leave_by_force)
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            _end_after_crash(group)
            raise
        finally:
            self._ended.set()
        # Both hypercorn and we may have been told; it asks itself every tenth of a second.
        with trio.move_on_after(1):
            await self._told.wait()
            return
        if self._launch.processes > 1 and await self._is_told_before_all_are_drained():
            return
        # By the signal's own default, so that hypercorn's parent does not start another in its place.
        signal.signal(self._last_signal, signal.SIG_DFL)
        os.kill(os.getpid(), self._last_signal)

    async def _is_told_before_all_are_drained(self) -> bool:
        """Wait for the other processes that drain: with the first that ends hypercorn's parent stops all.

        Returns:
            Whether hypercorn has told us to stop before that.
        """
        folder, said = state_folder(self._launch.settings), False
        while await trio.to_thread.run_sync(draining, folder):
            if not said:
                log.info("waiting for the other processes that drain")
                said = True
            with trio.move_on_after(1):
                await self._told.wait()
                return True
        return False

    async def _obey_signals(self, stop: Stop, task_status: trio.TaskStatus[None]) -> None:
        # Each of them stops; hypercorn's parent repeats signals by itself, so a second one says nothing.
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGUSR1) as signals:
            stop.notice_signals(signal.SIGTERM, signal.SIGINT, now_from=None)
            task_status.started()
            async for number in signals:
                if number == signal.SIGUSR1:
                    stop.drain()
                else:
                    self._last_signal = signal.Signals(number)
                    stop.ask()


async def _obey_parent(shutdown: Event, stop: Stop) -> None:
    """Stop when hypercorn's parent says so.

    Hypercorn itself comes to `Host.end` only when all requests under way are through: a client that
    dawdles would eat up the grace, and queries would be claimed meanwhile.
    """
    await check_multiprocess_shutdown_event(shutdown, trio.sleep)
    stop.ask()


async def _watch_parent(stop: Stop) -> None:
    """Stop when hypercorn's parent is gone: nobody would ever tell us to."""
    parent = multiprocessing.parent_process()
    if parent is None:  # --workers 0
        return
    await trio.lowlevel.wait_readable(parent.sentinel)
    log.warning("hypercorn's parent process is gone")
    stop.ask()


def _end_after_crash(group: BaseExceptionGroup) -> None:
    """End the process; hypercorn would log the exception and serve on, with no service behind it.

    Returns only when the service was merely cancelled.
    """
    crash = group.split(trio.Cancelled)[1]
    if crash is None:
        return
    sentences, code = explain(crash)
    if code == BUG:
        log.critical("the worker has crashed: this is a bug", exc_info=crash)
    for sentence in sentences:
        _say(sentence)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _compose() -> QuartTrio:
    config, shutdown = _hypercorn()
    if config is not None and config.worker_class != "trio":
        _refuse(f"hypercorn runs with -k {config.worker_class}; this app needs Trio: start it with -k trio")
    if config is not None and config.bind == HYPERCORNS_DEFAULT:
        _refuse(f"hypercorn would listen on 127.0.0.1:8000, WebBuddy's own port: {LISTEN_ELSEWHERE}")
    try:
        launch = Launch.prepare(Path.cwd(), processes=max(1, config.workers) if config is not None else 1)
    except SettingsError as error:
        _refuse(*error.problems)
    if config is not None:
        # Hypercorn has no flag for this one.
        config.shutdown_timeout = max(config.shutdown_timeout, launch.settings.shutdown_grace + MARGIN)
    hypercorn_fixes.install()
    composed = launch.app(config.bind if config is not None else ())
    # Quart cancels everything when it is over, `after_serving` itself included.
    composed.config["BACKGROUND_TASK_SHUTDOWN_TIMEOUT"] = launch.settings.shutdown_grace + MARGIN
    host = Host(launch, shutdown)
    composed.before_serving(host.begin)
    composed.after_serving(host.end)
    return composed


def _hypercorn() -> tuple[Config | None, Event | None]:
    """Find the configuration of the hypercorn that imports us, and its shutdown event.

    The former is None when somebody else imports us; the latter also with ``--workers 0``.

    Hypercorn tells an app nothing of itself. Its own frames are exact; reading `sys.argv` again
    would miss what came from a file.
    """
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        config = frame.f_locals.get("config")
        if isinstance(config, Config):
            return config, frame.f_locals.get("shutdown_event")
    return None, None


def _refuse(*sentences: str) -> NoReturn:
    for sentence in sentences:
        _say(sentence)
    raise SystemExit(WRONG_SETTINGS)


def _say(sentence: str) -> None:
    print(f"trio-worker: {sentence}", file=sys.stderr)


app = _compose()
