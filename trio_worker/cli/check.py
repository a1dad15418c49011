"""``trio-worker check``: whether a worker that was started now would work, line by line."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

import attrs
import trio

from trio_worker import clock, event_log
from trio_worker.cli.check_bus import check_bus
from trio_worker.cli.check_endpoint import check_endpoint
from trio_worker.cli.check_folder import check_folder
from trio_worker.cli.check_handler import ask_handler
from trio_worker.cli.check_report import LOGIN_REFUSED, WRONG_SETTINGS, Report
from trio_worker.cli.ending import Interruption, run_command
from trio_worker.environment import read_environment, unreadable_lines
from trio_worker.errors import AccessDenied, SettingsError, Unavailable, WebBuddyError
from trio_worker.handlers.kinds import find_handler
from trio_worker.handlers.loading import Handler
from trio_worker.handlers.opening import open_handler
from trio_worker.launch import explain
from trio_worker.misspellings import misspellings
from trio_worker.setting_kinds import COMMAND, PROCESS
from trio_worker.settings import Settings, named_handler
from trio_worker.stop import Stop
from trio_worker.webbuddy import Account, WebBuddyClient, open_webbuddy

__all__ = ["check_setup"]

IMPORT_SECONDS = 30  # for the handler's module
CALL_SECONDS = 10.0  # for one call to WebBuddy, whatever WORKER_REQUEST_TIMEOUT allows
NETWORK_SECONDS = 30.0  # for all that goes over the network
LOOK_SECONDS = 3.0  # for looking whether the account sees any query
SKEW_SECONDS = 30.0  # between the two clocks, before it is worth a word


def check_setup() -> int:
    """Check what a worker needs, and say so. Nothing is claimed, and nothing that is written is left.

    Returns:
        The exit code: 0 all is well, 1 there is a problem, 2 a setting or the handler is wrong, 3
        the log-in is refused. The first in the order 2, 3, 1 that is the case.
    """
    event_log.configure("error", "pretty")
    report = Report()
    settings = _check_settings(report)
    if settings is None:
        report.say("skipped", "WebBuddy", "not asked: the settings first")
        return report.exit_code()
    return run_command(Surroundings(settings, report).check)


# --- Settings and handler ------------------------------------------------------------------------


def _check_settings(report: Report) -> Settings | None:
    """Check the environment and the handler that it names; the handler also when the rest is wrong."""
    directory = Path.cwd()
    try:
        environ = read_environment(directory)
        problems = unreadable_lines(directory)
    except SettingsError as error:
        _blame(report, "settings", error)
        return None
    for problem in problems:
        report.fail("settings", problem, WRONG_SETTINGS)
    settings = None
    try:
        settings = Settings.from_environ(environ)
    except SettingsError as error:
        _blame(report, "settings", error)
    else:
        report.say("fine", "settings", _summary(settings))
    for sentence in misspellings(environ, named_handler(environ)):
        report.say("note", "settings", sentence)
    _check_handler(report, named_handler(environ), directory)
    return settings


def _summary(settings: Settings) -> str:
    return (
        f"{settings.num_workers} consumers, polling every {settings.polling_interval:.10g} s, "
        f"{settings.processing_timeout:.10g} s for one query"
    )


def _blame(report: Report, what: str, error: SettingsError) -> None:
    for problem in error.problems:
        report.fail(what, problem, WRONG_SETTINGS)


def _check_handler(report: Report, path: str | None, directory: Path) -> None:
    if path is None:
        report.say("skipped", "handler", "not imported: WORKER_HANDLER first")
        return
    try:
        with _alarm(IMPORT_SECONDS):
            handler = find_handler(path, directory, most=1)
        if path.startswith(PROCESS):
            # No other: what opens a handler of the user's own may reach out to anything.
            _start_and_end(handler, directory)
    except SettingsError as error:
        _blame(report, "handler", error)
    except _TooLong:
        report.fail("handler", f"importing {path} takes longer than {IMPORT_SECONDS} s", WRONG_SETTINGS)
    else:
        report.say("fine", "handler", _described(handler))
        ask_handler(handler, report)


def _start_and_end(handler: Handler, directory: Path) -> None:
    async def start_and_end() -> None:
        stop = Stop(grace=IMPORT_SECONDS, reserve=IMPORT_SECONDS, closes=True)
        with trio.fail_after(IMPORT_SECONDS):
            async with open_handler(handler, directory=directory, stop=stop):
                pass

    try:
        trio.run(start_and_end)
    except trio.TooSlowError:
        raise _TooLong from None
    except BaseExceptionGroup as group:
        sentences, _ = explain(group)
        if not sentences:
            raise
        raise SettingsError(sentences) from None


def _described(handler: Handler) -> str:
    if handler.path.startswith(PROCESS):
        kind = "a plain function, run in a process"
    elif handler.path.startswith(COMMAND):
        kind = "a program"
    elif handler.opens:
        kind = "opened when the worker starts, an async context manager function"
    else:
        kind = "an async function" if handler.is_async else "a plain function, run in a thread"
    place = f" at {handler.file}:{handler.line}" if handler.file is not None else ""
    return f"{handler.path}, {kind}{place}"


class _TooLong(BaseException):
    """Not an Exception: the import of a module catches those, and calls them the module's own."""


@contextmanager
def _alarm(seconds: int) -> Iterator[None]:
    """Raise `_TooLong` in the body after so many seconds.

    The import is not done in a thread with a time limit, since the worker does it in the main thread,
    too, and some modules can't be imported elsewhere.
    """

    def ring(_number: int, _frame: FrameType | None) -> NoReturn:
        raise _TooLong

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# --- The state folder, WebBuddy and the push endpoint --------------------------------------------


@attrs.frozen
class Surroundings:
    """The checks of what is outside of this program.

    Attributes:
        settings: The settings.
        report: Where to say what was found.
    """

    settings: Settings
    report: Report

    async def check(self, interruption: Interruption) -> int:
        """Run them all.

        Returns:
            The exit code.
        """
        with interruption.scope:
            await check_folder(self.settings, self.report)
            with trio.move_on_after(NETWORK_SECONDS) as patience:
                try:
                    await self._ask_webbuddy()
                except SettingsError as error:  # of the proxy, or of the certificates
                    _blame(self.report, "WebBuddy", error)
            if patience.cancelled_caught:
                self.report.fail("WebBuddy", f"not done with it within {NETWORK_SECONDS:g} s")
            await check_bus(self.settings, self.report)
            await check_endpoint(self.settings, self.report)
            return self.report.exit_code()
        return interruption.exit_code

    async def _ask_webbuddy(self) -> None:
        async with open_webbuddy(
            url=self.settings.webbuddy_url,
            credentials=self.settings.credentials(),
            request_timeout=min(self.settings.request_timeout, CALL_SECONDS),
            ca_file=self.settings.ca_file,
        ) as webbuddy:
            try:
                account = await webbuddy.me()
            except WebBuddyError as error:
                self._explain(webbuddy, error)
            else:
                self._reached()
                self._logged_in()
                await self._check_account(webbuddy, account)
            self._check_clock(webbuddy)

    def _reached(self) -> None:
        self.report.say("fine", "WebBuddy", f"{self.settings.webbuddy_url} answers")

    def _logged_in(self) -> None:
        self.report.say("fine", "log-in", f"as {self.settings.username!r}")

    def _explain(self, webbuddy: WebBuddyClient, error: WebBuddyError) -> None:
        """Say how far it went before it went wrong."""
        if isinstance(error, AccessDenied):
            self._reached()
            self.report.fail("log-in", f"{error}. Check WORKER_USERNAME and WORKER_PASSWORD.", LOGIN_REFUSED)
        elif webbuddy.logged_in:
            self._reached()
            self._logged_in()
            self.report.fail("account", f"can't be read: {error}")
        else:
            self.report.fail("WebBuddy", f"{error}. {_remedy(error)}")
            self.report.say("skipped", "log-in", "not tried")

    async def _check_account(self, webbuddy: WebBuddyClient, account: Account | None) -> None:
        say = self.report.say
        if account is None:
            say("skipped", "account", "can't be checked: this WebBuddy does not show it")
        elif account.project is not None:
            say("fine", "account", f"sees project {account.project}")
        elif any(
            account.raw.get(key) is True for key in ("is_service", "is_service_account", "is_superuser")
        ):
            say("fine", "account", "sees all projects")
        elif await _sees_queries(webbuddy):
            say("fine", "account", "has no project of its own, but sees queries: a service account")
        else:
            # No failure, and not known any better: a new WebBuddy looks the same to both.
            say(
                "note",
                "account",
                "has no project, and sees no query yet: fine for a service account, which will see all. An"
                " ordinary user needs a project, or its queue stays empty for ever.",
            )

    def _check_clock(self, webbuddy: WebBuddyClient) -> None:
        date = webbuddy.server_date
        if date is None:
            return
        ahead = (clock.utc_now() - date).total_seconds()
        if abs(ahead) < SKEW_SECONDS:
            self.report.say("fine", "clock", "agrees with WebBuddy's")
            return
        side = "ahead of" if ahead > 0 else "behind"
        # Not a problem: the life of a token is measured, not read off a clock.
        self.report.say(
            "note",
            "clock",
            f"{abs(ahead):.0f} s {side} WebBuddy's: the worker does not mind, but the times in its log and"
            " in its reports will not fit WebBuddy's. Set the clock (NTP).",
        )


def _remedy(error: WebBuddyError) -> str:
    if error.status is None:
        return "Is it running, and is WEBBUDDY_URL right?"
    if isinstance(error, Unavailable) and error.status >= 500:
        return "Something is there, but WebBuddy is not well."
    return "Something is there, but it does not answer as WebBuddy does."


async def _sees_queries(webbuddy: WebBuddyClient) -> bool:
    """Whether the account sees any query at all; that changes nothing."""
    with trio.move_on_after(LOOK_SECONDS):
        for status in ("queued", "in_progress", "failed", "done"):
            try:
                if await webbuddy.by_status(status):
                    return True
            except WebBuddyError:
                return False
        return False
    return True  # so many that they were not all read in that time
