"""``trio-worker stuck``: which queries are ``in_progress``, and what to do with those that nobody works on.

WebBuddy knows no owner of a query: whether somebody is still at work on one, only its age and its log
tell, and the journals of the workers on this machine.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Literal

import attrs
import click

from trio_worker import event_log
from trio_worker.cli.age import age_text
from trio_worker.cli.ending import Interruption, complain, run_command
from trio_worker.cli.held_here import HeldHere, held_here
from trio_worker.cli.outbox_table import counted
from trio_worker.cli.settings_here import settings_to_ask
from trio_worker.cli.stuck_list import Found, hints, oldest_first, table
from trio_worker.cli.submit import shown
from trio_worker.errors import (
    AccessDenied,
    JournalError,
    NotFound,
    Refused,
    SettingsError,
    WebBuddyError,
)
from trio_worker.launch import state_folder
from trio_worker.phrases import phrases
from trio_worker.query import Query
from trio_worker.settings import Settings
from trio_worker.webbuddy import WebBuddyClient, open_webbuddy

__all__ = ["Action", "handle_stuck"]

Action = Literal["requeue", "fail"]

DONE, FAILED, WRONG_SETTINGS, LOGIN_REFUSED = 0, 1, 2, 3


def handle_stuck(*, older_than: float | None, action: Action | None, sure: bool) -> int:
    """List queries that are ``in_progress``, and put them back or fail them if asked to.

    The list and what was done go to stdout, everything else to stderr. Asking happens between two
    runs of Trio, where Ctrl-C may end the process at once.

    Args:
        older_than: Only those that have been so for as many seconds; None: all.
        action: What to do with them; None: nothing.
        sure: Whether to do it without asking.

    Returns:
        The exit code.
    """
    event_log.configure("warning", "pretty")
    try:
        command = Command(settings_to_ask(), older_than, action)
    except SettingsError as error:
        for problem in error.problems:
            complain(problem)
        return WRONG_SETTINGS
    code = _run(command, command.show)
    chosen = command.chosen
    if code != DONE or action is None:
        return code
    if not chosen:
        command.say_nothing_changed()
        return code
    if not sure:
        queries = counted(len(chosen), "query", "queries")
        answer = _asked(f"{_VERBS[action]} {queries}? A worker elsewhere may still be at work on them.")
        if answer is not True:
            return DONE if answer is False else FAILED
    return _run(command, command.act)


_VERBS: dict[Action, str] = {"requeue": "Put back", "fail": "Fail"}


def _asked(question: str) -> bool | None:
    """Ask; None when there is nobody to answer."""
    try:
        return click.confirm(question, err=True)
    except click.Abort:
        complain("nothing was changed: nobody has answered. With --yes there is no question.")
        return None


def _run(command: Command, work: Callable[[WebBuddyClient], Awaitable[int]]) -> int:
    return run_command(partial(_interruptible, command.settings, work))


async def _interruptible(
    settings: Settings, work: Callable[[WebBuddyClient], Awaitable[int]], interruption: Interruption
) -> int:
    with interruption.scope:
        return await _connected(settings, work)
    return interruption.exit_code


async def _connected(settings: Settings, work: Callable[[WebBuddyClient], Awaitable[int]]) -> int:
    try:
        async with open_webbuddy(
            url=settings.webbuddy_url,
            credentials=settings.credentials(),
            request_timeout=settings.request_timeout,
            ca_file=settings.ca_file,
        ) as webbuddy:
            return await work(webbuddy)
    except AccessDenied as error:
        complain(f"{error}. Check WORKER_USERNAME and WORKER_PASSWORD.")
        return LOGIN_REFUSED
    except NotFound:
        complain("this WebBuddy can't be asked which queries are in_progress: use its admin pages")
        return FAILED
    except (WebBuddyError, JournalError) as error:
        complain(error)
        return FAILED


@attrs.define
class Command:
    """What was asked for, and what was found.

    Attributes:
        settings: The settings.
        older_than: Seconds, or None.
        action: What to do with those that are found.
        found: All that were listed, the oldest first.
    """

    settings: Settings
    older_than: float | None
    action: Action | None
    found: list[Found] = attrs.field(factory=list)

    @property
    def chosen(self) -> list[Found]:
        """Those that may be changed: what a worker of this machine holds, or has left, is left alone."""
        return [found for found in self.found if found.holder is None]

    def say_nothing_changed(self) -> None:
        """Say that all that are listed are left alone."""
        if self.found:
            click.echo(f"{counted(len(self.found), 'query is', 'queries are')} held here: nothing changed")

    async def show(self, webbuddy: WebBuddyClient) -> int:
        """List them.

        Raises:
            WebBuddyError: They can't be read.
            JournalError: What is held here can't be read, and so nothing may be changed.
        """
        queries = await webbuddy.in_progress()
        held = self._held()
        all_found = [Found.at(query, webbuddy.server_now(), held) for query in queries]
        self.found = sorted(filter(self._is_wanted, all_found), key=oldest_first)
        self._print(all_found)
        return DONE

    async def act(self, webbuddy: WebBuddyClient) -> int:
        """Put back or fail those that were listed, each after another look at it.

        Raises:
            WebBuddyError: WebBuddy can't be reached; the rest was left alone.
            JournalError: As in `show`.
        """
        held = self._held()
        code = DONE
        for found in self.chosen:
            holder = held.of(found.query)
            if holder is not None:
                self._left(
                    found, f"a worker of this machine {'holds' if holder.found.owned else 'has left'} it now"
                )
            elif not await self._change(webbuddy, found):
                code = FAILED
        return code

    def _held(self) -> HeldHere:
        try:
            return held_here(state_folder(self.settings))
        except JournalError as error:
            if self.action is not None:
                raise
            complain(f"{error}. What the workers of this machine hold is not marked.")
            return HeldHere()

    def _is_wanted(self, found: Found) -> bool:
        return self.older_than is None or (found.age is not None and found.age >= self.older_than)

    async def _change(self, webbuddy: WebBuddyClient, found: Found) -> bool:
        """Change one, unless it has changed by itself; False when WebBuddy refuses."""
        number = found.query.id
        try:
            changed = _changed(found.query, await webbuddy.get_query(number))
            if changed is not None:
                self._left(found, changed)
                return True
            if self.action == "requeue":
                await webbuddy.report(number, status="queued")
            else:
                reason = phrases(self.settings.language).given_up
                await webbuddy.report(number, status="failed", answer_text=reason)
        except NotFound as error:
            if not error.by_api:
                complain(f"query {number}: left alone, since this WebBuddy does not show single queries")
                return False
            self._left(found, "it was deleted")
            return True
        except Refused as error:
            complain(f"query {number}: {error}")
            return False
        click.echo(f"query {number} is {'queued' if self.action == 'requeue' else 'failed'}")
        return True

    def _left(self, found: Found, why: str) -> None:
        click.echo(f"query {found.query.id} is left alone: {why}")

    def _print(self, all_found: list[Found]) -> None:
        if self.found:
            for line in table(self.found):
                click.echo(shown(line, terminal=sys.stdout.isatty()))
            for hint in hints(self.found):
                complain(hint)
        else:
            longer = "" if self.older_than is None else f" for more than {age_text(self.older_than)}"
            click.echo(f"no query is in_progress{longer}", err=True)
        if any(found.query.query_started is None for found in all_found):
            complain("this WebBuddy does not say since when: the ages are counted from the creation")
        if self.older_than is not None and any(found.age is None for found in all_found):
            complain("some are left out, since this WebBuddy does not say how old they are")


def _changed(before: Query, now: Query) -> str | None:
    """Say what has become of a query since it was listed; None: nothing."""
    if now.query_created != before.query_created:
        return "its number is another query's now"
    if now.status != "in_progress":
        return f"it is {now.status} by now"
    if now.query_started != before.query_started:
        return "it was claimed again"
    return None
