"""What both ways to start have in common: from the environment to the running service."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import structlog
import trio
from quart_trio import QuartTrio

from trio_worker import event_log
from trio_worker.bus import Bus, NoBus
from trio_worker.bus_opening import open_bus, require_bus
from trio_worker.capture import Capture
from trio_worker.disk_kind import disk_warning, read_mounts
from trio_worker.environment import read_environment, unreadable_lines
from trio_worker.errand import Errand
from trio_worker.errors import AccessDenied, JournalError, SettingsError, leaves
from trio_worker.exposure import exposures, open_doors
from trio_worker.front import Front
from trio_worker.handlers.child import kill_children
from trio_worker.handlers.kinds import find_handler
from trio_worker.handlers.loading import Handler
from trio_worker.holdings import look_beside
from trio_worker.journal import Journal, open_journal
from trio_worker.masks import SHORTEST, masks
from trio_worker.misspellings import misspellings
from trio_worker.neighbours import Neighbours
from trio_worker.parts import Given
from trio_worker.runners import Runner, open_thread
from trio_worker.service import run_service
from trio_worker.settings import Settings, named_handler
from trio_worker.state_folder import Address, StateFolder
from trio_worker.stop import Stop
from trio_worker.watchdog import watchdog
from trio_worker.web import Guard
from trio_worker.web.metrics import answer
from trio_worker.webbuddy import WebBuddyClient, open_webbuddy

__all__ = [
    "BAD_JOURNAL",
    "BUG",
    "LOGIN_REFUSED",
    "OK",
    "WRONG_SETTINGS",
    "Launch",
    "explain",
    "leave_by_force",
    "mask_variables",
    "read_settings",
    "state_folder",
]

log = structlog.get_logger(__name__)

OK, BUG, WRONG_SETTINGS, LOGIN_REFUSED, BAD_JOURNAL = 0, 1, 2, 3, 4
"""The exit codes."""


@attrs.frozen
class Launch:
    """A worker whose settings and handler are good, ready to be run.

    Attributes:
        settings: The settings.
        handler: The user's handler, imported.
        processes: How many processes share ``NUM_WORKERS``.
        index: Which of them this is, from 0; None where nobody has numbered them.
        front: Shared by the push endpoint and the service.
        warnings: Sentences about the environment, for the log.
    """

    settings: Settings
    handler: Handler
    processes: int = 1
    index: int | None = None
    front: Front = attrs.field(factory=Front)
    warnings: tuple[str, ...] = ()

    @classmethod
    def prepare(cls, directory: Path, *, processes: int = 1, index: int | None = None) -> Launch:
        """Read the environment, begin to log, import the handler. Blocks: call it before Trio runs.

        Args:
            directory: The working directory: of ``.env``, and importable for the handler.
            processes: How many processes share ``NUM_WORKERS`` where ``WORKER_PROCESSES`` does not say.
            index: Which of them this is, of one parent, from 0; None where nobody has numbered them.

        Raises:
            SettingsError: With everything that is wrong with the environment and with the handler, and
                then with the names that are no settings: one of them may be a missing one's.
        """
        environ = read_environment(directory)
        settings, warnings = read_settings(environ, directory)
        event_log.configure(settings.log_level, settings.log_format, process=index)
        masks.know("own tokens", settings.push_token, settings.admin_token)
        require_bus(settings)
        warnings += (*mask_variables(settings.mask, environ), *exposures(settings))
        try:
            capture = Capture(settings.capture, settings.log_level)
            most = settings.num_workers
            handler = find_handler(settings.handler, directory, most=most, capture=capture)
        except SettingsError as error:
            raise SettingsError([*error.problems, *warnings]) from error
        if index is None:
            return cls(settings, handler, settings.worker_processes or processes, warnings=warnings)
        return cls(
            settings,
            handler,
            settings.worker_processes or processes,
            # Where others share the consumers as well, nobody has numbered all of them.
            index if settings.worker_processes in (None, processes) else None,
            Front(Neighbours.of_parent(index)),
            warnings if index == 0 else (),  # said once
        )

    @property
    def consumers(self) -> int:
        """How many consumers this process has."""
        return self.settings.share_of(self.processes, self.index)

    def app(self, binds: Iterable[str]) -> QuartTrio:
        """Make the app that listens for this worker.

        Args:
            binds: Where it will, for a warning in the log if that is open to others.
        """
        for warning in open_doors(self.settings, binds):
            log.warning(warning)
        guard = Guard(self.settings.push_token, self.settings.admin_token)
        return self.front.app(self.settings.webbuddy_url, guard)

    def stop(self) -> Stop:
        """Make the stop that `serve` obeys."""
        settings = self.settings
        return Stop(
            grace=settings.shutdown_grace, reserve=settings.shutdown_reserve, closes=self.handler.opens
        )

    async def serve(self, stop: Stop, abandon: Callable[[], None], *, errand: Errand | None = None) -> None:
        """Run the service to the end of its stop.

        Args:
            stop: Asked for by a signal.
            abandon: Ends the process when a handler can't be stopped; `leave_by_force`.
            errand: What is to be done before it stops by itself.

        Raises:
            ExceptionGroup: As `run_service` does.
        """
        self._announce()
        settings = self.settings
        async with (
            open_thread("trio-worker journal") as runner,
            open_journal(state_folder(settings), sync=settings.journal_sync, runner=runner) as journal,
            self.front.neighbours.open(
                state_folder(settings),
                {
                    "figures": partial(answer, self.front.figures),
                    "readiness": self.front.readiness.answer,
                    "overview": self.front.status_page.snapshots.newest,
                },
                runner=runner,
            ),
            open_webbuddy(
                url=settings.webbuddy_url,
                credentials=settings.credentials(),
                request_timeout=settings.request_timeout,
                ca_file=settings.ca_file,
            ) as webbuddy,
            self._open_bus(errand, runner) as bus,
        ):
            await _warn_of_the_stranded(state_folder(settings), runner)
            await self._work(journal, webbuddy, stop, abandon, errand, bus)
        log.info("stopped", pushes=attrs.asdict(self.front.counts))

    async def _work(
        self,
        journal: Journal,
        webbuddy: WebBuddyClient,
        stop: Stop,
        abandon: Callable[[], None],
        errand: Errand | None,
        bus: Bus,
    ) -> None:
        def give_up_on_the_loop() -> None:
            journal.stopping_by_force()
            abandon()

        # What is there now stays to the end: no need to look through it at each full collection, in whose
        # 30 ms nothing else goes on.
        gc.freeze()
        with watchdog(
            self.handler,
            forced_end=lambda: stop.forced_end,
            abandon=give_up_on_the_loop,
            delays=self.front.liveness.delays,
        ):
            given = Given(
                settings=self.settings,
                handler=self.handler,
                webbuddy=webbuddy,
                journal=journal,
                front=self.front,
                stop=stop,
                consumers=self.consumers,
                errand=errand,
                bus=bus,
            )
            await run_service(given, abandon=abandon)

    @asynccontextmanager
    async def _open_bus(self, errand: Errand | None, runner: Runner) -> AsyncIterator[Bus]:
        """Open what wake-ups are shared over; on an errand none are."""
        if errand is not None:
            yield NoBus()
            return
        async with open_bus(self.settings, state_folder(self.settings), runner=runner) as bus:
            yield bus

    def _announce(self) -> None:
        for warning in (*self.warnings, *_disk_warnings(self.settings.state_dir)):
            log.warning(warning)
        total = self.settings.num_workers
        log.info(
            "started",
            worker=self.settings.name,
            webbuddy=self.settings.webbuddy_url,
            handler=self.handler.path,
            consumers=f"{self.consumers} of {total} here" if self.processes > 1 else str(total),
        )


def read_settings(environ: Mapping[str, str], directory: Path) -> tuple[Settings, tuple[str, ...]]:
    """Read the settings of a worker, and warnings about names that are none.

    Args:
        environ: As `read_environment` gives it.
        directory: The working directory.

    Raises:
        SettingsError: With everything that is wrong; then the handler is looked at, too.
    """
    warnings = tuple(misspellings(environ, named_handler(environ)))
    problems = unreadable_lines(directory)
    settings = None
    try:
        settings = Settings.from_environ(environ)
    except SettingsError as error:
        problems += error.problems
    if settings is None or problems:
        raise SettingsError([*problems, *_handler_problems(environ, directory), *warnings])
    return settings, warnings


def mask_variables(names: Iterable[str], environ: Mapping[str, str]) -> Iterator[str]:
    """Keep the values of variables out of all that is shown; say for which that can't be done."""
    for name in names:
        if not environ.get(name):
            yield f"WORKER_MASK names {name}, which is not set"
        elif masks.know(name, environ[name]):
            yield (
                f"WORKER_MASK names {name}, whose value is shorter than {SHORTEST} characters and is not"
                " masked: it would be found in ordinary words"
            )


def state_folder(settings: Settings) -> StateFolder:
    """Where this worker's journals are."""
    return StateFolder(settings.state_dir, Address(settings.webbuddy_url, settings.username))


async def _warn_of_the_stranded(folder: StateFolder, runner: Runner) -> None:
    """Log what is held for other settings than ours, and by no worker that lives."""
    try:
        others = await runner(partial(look_beside, folder))
    except JournalError as error:
        log.warning("whether anything is held for other settings can't be seen", reason=str(error))
        return
    for other in others:
        if other.left:
            log.warning(
                "queries are held for another WEBBUDDY_URL or account, and nobody takes them up: if yours has"
                " changed, start the worker once as it was (see trio-worker outbox)",
                webbuddy=str(other.url),
                account=str(other.account),
                held=other.left,
            )


def _disk_warnings(folder: Path) -> list[str]:
    warning = disk_warning(folder.resolve(), read_mounts())
    return [] if warning is None else [warning]


def _handler_problems(environ: Mapping[str, str], directory: Path) -> tuple[str, ...]:
    """What is wrong with the handler, where the environment can't be used anyway."""
    path = named_handler(environ)
    if path is None:
        return ()  # its variable is among the problems already
    try:
        find_handler(path, directory, most=1)
    except SettingsError as error:
        return error.problems
    return ()


def explain(crash: BaseExceptionGroup) -> tuple[list[str], int]:
    """Tell what ended the service: the operator's matter, or a bug.

    It is the operator's only when there is nothing else in the group. A bug may come up in the very
    moment in which a log-in is refused, and must not be hidden by that.

    Returns:
        The sentences for the operator, and the exit code; no sentence and `BUG` for a bug.
    """
    causes = [leaf for leaf in leaves(crash) if not isinstance(leaf, trio.Cancelled)]
    problems = [leaf for leaf in causes if isinstance(leaf, SettingsError | AccessDenied | JournalError)]
    if not causes or len(problems) < len(causes):
        return [], BUG
    # Each once: several tasks may have been refused the same log-in.
    sentences = dict.fromkeys(sentence for problem in problems for sentence in _sentences(problem))
    return list(sentences), next(code for kind, code in _CODES if any(isinstance(p, kind) for p in problems))


_CODES = ((SettingsError, WRONG_SETTINGS), (JournalError, BAD_JOURNAL), (AccessDenied, LOGIN_REFUSED))


def _sentences(problem: SettingsError | AccessDenied | JournalError) -> tuple[str, ...]:
    if isinstance(problem, SettingsError):
        return problem.problems
    if isinstance(problem, JournalError):
        return (str(problem),)
    return (f"{problem}. Check WORKER_USERNAME and WORKER_PASSWORD.",)


def leave_by_force(code: int = BUG) -> None:
    """End the process: a handler swallows its cancellation, and Trio waits for it for ever.

    Programs go with it, which would live on; the pool's processes end by themselves then.

    Args:
        code: The exit code.
    """
    log.error("a handler could not be stopped within the grace; leaving by force")
    kill_children()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
