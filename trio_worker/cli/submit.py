"""``trio-worker submit``: create a query as a user does, and watch it."""

from __future__ import annotations

import sys
from functools import partial

import attrs
import click
import trio

from trio_worker import event_log
from trio_worker.cli.ending import Interruption, complain, run_command
from trio_worker.cli.settings_here import settings_to_ask
from trio_worker.errors import AccessDenied, NotFound, SettingsError, Unavailable, WebBuddyError
from trio_worker.query import Query
from trio_worker.settings import Settings
from trio_worker.webbuddy import LogEntry, WebBuddyClient, open_webbuddy

__all__ = ["PATIENCE", "Watch", "shown", "submit_query"]

DONE, FAILED, WRONG_SETTINGS, LOGIN_REFUSED = 0, 1, 2, 3

PAUSE = 1.0  # seconds between two looks at a query; WebBuddy's own page looks every three
PATIENCE = 120.0  # seconds for which a WebBuddy that does not answer is waited for


def submit_query(text: str, *, project: int | None, wait: bool) -> int:
    """Create a query.

    The result goes to stdout: the query's number, or its answer when that is waited for. Everything
    else goes to stderr.

    Args:
        text: What the user asks for.
        project: The number of the project; None is the account's own.
        wait: Whether to show the query's log and its answer.

    Returns:
        The exit code.
    """
    event_log.configure("warning", "pretty")
    try:
        settings = settings_to_ask()
    except SettingsError as error:
        for problem in error.problems:
            complain(problem)
        return WRONG_SETTINGS
    return run_command(partial(_interruptible, Submission(settings, text, project, wait)))


async def _interruptible(submission: Submission, interruption: Interruption) -> int:
    with interruption.scope:
        return await submission.run()
    submission.take_leave()
    return interruption.exit_code


@attrs.define
class Submission:
    """What was asked for, and how far it has come.

    Attributes:
        settings: The settings.
        text: What the user asks for.
        project: The number of the project; None is the account's own.
        wait: Whether to wait for the answer.
        sent: Whether its creation has been asked for.
        query: The query, once it is created.
    """

    settings: Settings
    text: str
    project: int | None
    wait: bool
    sent: bool = False
    query: Query | None = None

    async def run(self) -> int:
        """Create the query, and wait for its answer if asked to.

        Returns:
            The exit code.
        """
        try:
            async with open_webbuddy(
                url=self.settings.webbuddy_url,
                credentials=self.settings.credentials(),
                request_timeout=self.settings.request_timeout,
                ca_file=self.settings.ca_file,
            ) as webbuddy:
                return await self._submit(webbuddy)
        except AccessDenied as error:
            complain(f"{error}. Check WORKER_USERNAME and WORKER_PASSWORD.")
            self.take_leave()
            return LOGIN_REFUSED
        except WebBuddyError as error:
            complain(self._sentence(error))
            return FAILED

    async def _submit(self, webbuddy: WebBuddyClient) -> int:
        if self.project is None:
            self.project = await _own_project(webbuddy)
        if self.project is None:
            complain(
                f"user {self.settings.username!r} has no project of its own: name one, as in --project 1"
            )
            return WRONG_SETTINGS
        self.sent = True
        self.query = await webbuddy.create_query(self.project, self.text)
        number = self.query.id
        click.echo(
            f"query {number} is created in project {self.project} of {self.settings.webbuddy_url}", err=True
        )
        if self.wait:
            return await Watch(webbuddy, number).run()
        click.echo(number)
        return DONE

    def take_leave(self) -> None:
        """Say that the query, if there is one, does not end with this command."""
        if self.query is not None:
            complain(f"query {self.query.id} goes on without you")

    def _sentence(self, error: WebBuddyError) -> str:
        if self.query is not None:
            return f"query {self.query.id} goes on, but can't be watched any longer: {error}"
        if self.sent and isinstance(error, Unavailable) and error.maybe_done:
            return f"{error}. The query may have been created all the same: look before you repeat it."
        return f"no query was created: {error}"


async def _own_project(webbuddy: WebBuddyClient) -> int | None:
    account = await webbuddy.me()
    return None if account is None else account.project


@attrs.define
class Watch:
    """Shows a query's log until it has ended.

    Attributes:
        webbuddy: The door to WebBuddy.
        query_id: Which query.
        seen: The number of the last log entry that was shown.
        status: The status that was shown last.
    """

    webbuddy: WebBuddyClient
    query_id: int
    seen: int = 0
    status: str | None = "queued"

    async def run(self) -> int:
        """Watch it. An outage of WebBuddy is sat out, up to `PATIENCE`.

        Returns:
            The exit code.

        Raises:
            WebBuddyError: When it can't be watched any longer.
        """
        while True:
            query = await self._look_patiently()
            if query is None:
                complain(f"query {self.query_id} is gone: it was deleted at WebBuddy")
                return FAILED
            if query.status in ("done", "failed"):
                return _conclude(query)
            await trio.sleep(PAUSE)

    async def _look_patiently(self) -> Query | None:
        give_up_at = None
        while True:
            try:
                return await self._look()
            except (Unavailable, NotFound) as error:
                # No detail: it was not the API that said "no such thing", but a proxy or a page.
                if isinstance(error, NotFound) and error.detail:
                    return None
                if give_up_at is None:
                    give_up_at = trio.current_time() + PATIENCE
                    complain(f"{error}; trying again for {PATIENCE:g} s")
                if trio.current_time() > give_up_at:
                    raise
            await trio.sleep(PAUSE)

    async def _look(self) -> Query:
        # The log after the status: all entries are there before the query ends, so the log that
        # is read after its end is complete.
        query = await self.webbuddy.get_query(self.query_id)
        try:
            entries = await self.webbuddy.log_entries(self.query_id, after=self.seen)
        except NotFound:
            entries = []  # a WebBuddy that does not show logs; the answer is what counts
        for entry in entries:
            self._show(entry)
        if query.status == "queued" != self.status:
            click.echo("back in the queue", err=True)
        self.status = query.status
        return query

    def _show(self, entry: LogEntry) -> None:
        self.seen = entry.id
        when = f"{entry.created.astimezone():%H:%M:%S}  " if entry.created is not None else ""
        text = entry.text.replace("\n", "\n" + " " * len(when))
        click.echo(when + shown(text, terminal=sys.stderr.isatty()), err=True)


def _conclude(query: Query) -> int:
    click.echo(f"query {query.id} is {query.status}", err=True)
    click.echo(shown(query.answer_text or "", terminal=sys.stdout.isatty()))
    return DONE if query.status == "done" else FAILED


def shown(text: str, *, terminal: bool) -> str:
    """Text of others, without what a terminal would obey; a file gets it as it is."""
    if not terminal:
        return text
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "\ufffd" for letter in text)
