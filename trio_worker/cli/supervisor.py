"""``trio-worker run --processes N``: a parent that has nothing to do but to see to N workers.

::

    parent     listens, and accepts nothing; reads the settings, and imports no handler
    └── place  0 to N-1; in each one process after the other
        └── process   trio-worker run, on the parent's socket

The first process is started alone: a handler that can't be imported or a log-in that is refused is said once,
and ends all. Once it has begun a process that dies is replaced, however it has died.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from functools import partial
from pathlib import Path

import attrs
import structlog
import trio
from hypercorn.config import Config

from trio_worker import event_log
from trio_worker.backoff import Backoff
from trio_worker.cli.child import Child, start_child
from trio_worker.cli.crash import after_crash
from trio_worker.cli.ending import complain
from trio_worker.cli.member import LOOK_AROUND
from trio_worker.cli.run import cannot_listen, obey_signals
from trio_worker.environment import read_environment
from trio_worker.errors import SettingsError
from trio_worker.launch import BAD_JOURNAL, BUG, LOGIN_REFUSED, OK, WRONG_SETTINGS, read_settings
from trio_worker.settings import Settings
from trio_worker.stop import Stop
from trio_worker.systemd import Systemd

__all__ = ["run_processes"]

log = structlog.get_logger(__name__)

ALONE = 10.0  # seconds for which the others wait for the first one: a model may take minutes to load
STEADY = 60.0  # seconds of a life after which a death is not one in a row
LONGEST_PAUSE = 60.0  # seconds between a death in a row and the next start
MARGIN = 3.0  # seconds beyond the grace after which what is left is killed
LOOK = 1.0  # seconds between two looks

_OPERATORS = (WRONG_SETTINGS, LOGIN_REFUSED, BAD_JOURNAL)


def run_processes(count: int) -> int:
    """Run so many workers on one socket until a signal stops them, or all have drained.

    Returns:
        The exit code: 0, or the first of a process that did not end as it was asked to.
    """
    try:
        directory = Path.cwd()
        settings, _ = read_settings(read_environment(directory), directory)
        event_log.configure(settings.log_level, settings.log_format)
        with _listening(settings.bind) as listener:
            return trio.run(_run, count, settings, listener)
    except SettingsError as error:
        for problem in error.problems:
            complain(problem)
        return WRONG_SETTINGS
    except BaseExceptionGroup as group:
        return after_crash(group)


def _listening(bind: str) -> socket.socket:
    config = Config()
    config.bind = [bind]
    try:
        [listener] = config.create_sockets().insecure_sockets
        listener.listen(config.backlog)
    except OSError as error:
        raise cannot_listen(bind, error) from None
    return listener


async def _run(count: int, settings: Settings, listener: socket.socket) -> int:
    stop = Stop(grace=settings.shutdown_grace, reserve=settings.shutdown_reserve)
    systemd = Systemd.from_environ(os.environ)
    supervisor = Supervisor(count, listener, stop)
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(obey_signals, stop))
        nursery.start_soon(supervisor.look_after_all)
        if systemd is not None:
            inform = partial(systemd.keep_informed, readiness=supervisor.unready, late=supervisor.overdue)
            nursery.start_soon(partial(inform, stop=stop))
        await supervisor.keep_all()
        nursery.cancel_scope.cancel()
    log.info("all processes have ended", exit_code=supervisor.exit_code)
    return supervisor.exit_code


@attrs.define(eq=False)
class Supervisor:
    """Keeps so many processes alive, until the stop is asked for.

    Attributes:
        count: How many.
        listener: The socket that they share.
        stop: Asked for by a signal, or because the start has failed.
        exit_code: That of the whole.
    """

    count: int
    listener: socket.socket
    stop: Stop
    exit_code: int = attrs.field(default=OK, init=False)
    _living: dict[int, Child] = attrs.field(factory=dict, init=False)
    _begun: set[int] = attrs.field(factory=set, init=False)
    _first: trio.Event = attrs.field(factory=trio.Event, init=False)

    async def keep_all(self) -> None:
        """Return when all have ended, and none is to be replaced."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep, 0)
            await self._first.wait()
            for index in range(1, self.count):
                nursery.start_soon(self._keep, index)

    async def _keep(self, index: int) -> None:
        """Have one process after the other in a place. The first death in a row is made good at once."""
        pauses, pause = Backoff(first=1.0, most=LONGEST_PAUSE), 0.0
        while not self.stop.limited.is_set():
            began = trio.current_time()
            if await self._live(index):
                break
            if trio.current_time() - began >= STEADY:
                pauses.reset()
                pause = 0.0
            with trio.move_on_after(pause):
                await self.stop.limited.wait()
            pause = pauses.next()
        self._first.set()  # it has ended before it has begun

    async def _live(self, index: int) -> bool:
        """Have one process; whether it is to have no successor."""
        try:
            child = await start_child(index, self.count, self.listener)
        except OSError as error:
            log.error("a process can't be started", process=index, reason=str(error))
            return False
        self._living[index] = child
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._note_begin, child)
            nursery.start_soon(self._note_drain, child)
            code = await child.see_through(self.stop)
            nursery.cancel_scope.cancel()
        del self._living[index]
        return self._is_the_last(child, code)

    async def _note_begin(self, child: Child) -> None:
        await child.listens.wait()
        with trio.move_on_after(ALONE):
            await child.began.wait()
        self._first.set()
        await child.began.wait()
        self._begun.add(child.index)

    async def _note_drain(self, child: Child) -> None:
        """What `trio-worker drain` orders is for all, whoever sees it first, and for who is started later."""
        await child.drains.wait()
        self.stop.drain()

    def _is_the_last(self, child: Child, code: int) -> bool:
        """Judge the end of a process, and say what follows from it."""
        if self.stop.limited.is_set():
            is_cut_short = code == -signal.SIGTERM and not child.listens.is_set()
            self._note(OK if is_cut_short else code)
            return True
        if code == OK and self.stop.asked.is_set():
            log.info("a process has drained", process=child.index, pid=child.process.pid)
            return True
        if code in _OPERATORS and self.stop.asked.is_set():
            self._note(code)  # it could take up nothing, nor could the next
            return True
        # Once one works, none that dies or has wrong settings ends it.
        if not self._begun and (code in _OPERATORS or (child.index == 0 and code != OK)):
            if code not in _OPERATORS:
                log.error("the first process has died at its start", pid=child.process.pid, **_how(code))
            self._note(code)
            self.stop.hurry()
            return True
        log.error(
            "a process has ended by itself: another takes its place",
            process=child.index,
            pid=child.process.pid,
            **_how(code),
            lived_seconds=round(trio.current_time() - child.began_at, 1),
        )
        for other in self._living.values():
            other.tell(LOOK_AROUND)
        return False

    def _note(self, code: int) -> None:
        self.exit_code = self.exit_code or (code if code >= 0 else BUG)

    async def look_after_all(self) -> None:
        """End those that can't be helped, and those that outstay the grace. Never returns."""
        while True:
            await trio.sleep(LOOK)
            is_over = time.monotonic() > self.stop.forced_end + MARGIN
            for child in self._living.values():
                if is_over:
                    log.error("a process outstays the grace: killed", process=child.index)
                    child.process.kill()
                elif not self.stop.limited.is_set():
                    child.look_after()

    def unready(self) -> dict[str, str]:
        """Say for systemd what is not as it should be; `NOT_STARTED` as long as not all have begun."""
        if len(self._begun) < self.count:
            return {"service": f"{len(self._begun)} of {self.count} processes have begun"}
        reasons = {f"process {index}": "it is about to be started again" for index in range(self.count)}
        for index, child in self._living.items():
            reasons[f"process {index}"] = child.problem
        return {name: reason for name, reason in reasons.items() if reason}

    def overdue(self) -> dict[str, str]:
        """Say for systemd's watchdog which processes are beyond the help of this one."""
        overdue = [child for child in self._living.values() if child.is_overdue]
        return {f"process {child.index}": "it can't be ended" for child in overdue}


def _how(code: int) -> dict[str, int | str]:
    return {"exit_code": code} if code >= 0 else {"signal": signal.Signals(-code).name}
