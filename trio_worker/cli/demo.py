"""``trio-worker demo``: a WebBuddy, a worker and some queries, in one process tree, to look at."""

from __future__ import annotations

import json
import shlex
import shutil
import statistics
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import attrs
import click
import httpx
import trio

from trio_worker import event_log
from trio_worker.cli.demo_queries import Case, Sight, make_cases, sight_of, verdict
from trio_worker.cli.demo_screen import PlainScreen, Screen, make_screen
from trio_worker.cli.demo_worker import DemoWorker, start_worker
from trio_worker.cli.ending import Interruption, complain, run_command
from trio_worker.credentials import Credentials
from trio_worker.errors import WebBuddyError
from trio_worker.testing import Account, WebBuddy, serve_webbuddy
from trio_worker.webbuddy import open_webbuddy

__all__ = ["run_demo"]

FINE, WRONG = 0, 1

PROJECT = 1
START_SECONDS = 60.0  # for the worker to begin
STILL_SECONDS = 60.0  # without any change: the demo takes itself for stuck
CALL_SECONDS = 30.0  # for the creation of one query
LOOK_SECONDS = 0.1  # between two looks at the queries
CREATE_SECONDS = 1.5  # over which the creation of the queries is spread
LAST_LINES = 30  # of the worker's log, when something went wrong

_EXPLAINED = {
    "gives up": "one says why",
    "raises": "one raises",
    "never ends": "one runs past its time limit",
}


def run_demo(*, queries: int, keep: bool) -> int:
    """Run the demo.

    Args:
        queries: How many queries.
        keep: Whether both servers go on at the end, until a signal.

    Returns:
        The exit code: 0 when every query ended as it should, 1 when one did not.
    """
    event_log.configure("warning", "pretty")
    return run_command(partial(_demo, make_cases(queries), keep))


async def _demo(cases: Sequence[Case], keep: bool, interruption: Interruption) -> int:
    """Who lives inside whom: WebBuddy around the worker around the demo.

    A signal cancels the innermost only. The worker is stopped in any case, and finds its WebBuddy
    there while it puts back what it has.
    """
    webbuddy = WebBuddy()
    consumers = min(50, max(5, len(cases) // 10))
    with TemporaryDirectory(prefix="trio-worker-demo-", ignore_cleanup_errors=True) as directory:
        async with (
            serve_webbuddy(webbuddy) as url,
            start_worker(url, Path(directory), consumers=consumers) as worker,
        ):
            demo = Demo(cases, webbuddy, worker)
            with interruption.scope:
                demo.code = await demo.run()
                if keep and worker.exit_code is None:
                    await demo.keep()
    if keep and demo.code is not None:
        click.echo("The worker and WebBuddy are stopped.")
    if demo.code is None:
        complain("interrupted; the worker and WebBuddy are stopped")
        return interruption.exit_code
    if demo.code == FINE and worker.exit_code != 0:
        complain(f"the worker did not stop as it should: exit code {worker.exit_code}")
        return WRONG
    return demo.code


@attrs.define
class Demo:
    """The demo between its two servers.

    Attributes:
        cases: What is asked, and what should come of it.
        webbuddy: Whom is asked.
        worker: Who answers.
        url: Where the worker listens.
        created: The numbers of the queries, in the order of the cases.
        trouble: Why a query could not be created.
        code: The exit code, once it is known.
    """

    cases: Sequence[Case]
    webbuddy: WebBuddy
    worker: DemoWorker
    url: str = ""
    created: list[int] = attrs.field(factory=list)
    trouble: str | None = None
    code: int | None = None

    async def run(self) -> int:
        """Create the queries, and show what becomes of them.

        Returns:
            The exit code.
        """
        problem = await self._start()
        began = trio.current_time()
        if problem is None:
            click.echo(f"WebBuddy at {self.webbuddy.url}, worker at {self.url}")
            with make_screen() as screen:
                problem = await self._work(screen)
        if problem is not None:
            complain(problem)
        elif not (problems := self._problems()):
            self._praise(trio.current_time() - began)
            return FINE
        else:
            complain(f"{len(problems)} of {len(self.cases)} queries did not end as they should:")
            for sentence in problems:
                click.echo(f"  {sentence}", err=True)
        self._show_log()
        return WRONG

    async def _start(self) -> str | None:
        """Wait until the worker listens, and has looked into the queue for the first time.

        Without the latter the first query is found by that look rather than by its push.

        Returns:
            What is wrong; None when nothing is.
        """
        with trio.move_on_after(START_SECONDS):
            while (url := self.worker.url()) is None or not self.webbuddy.count("claim_next"):
                if self.worker.exit_code is not None:
                    return self._worker_ended()
                await trio.sleep(LOOK_SECONDS / 2)
            self.webbuddy.push_url = self.url = url
            return None
        return f"the worker has not begun after {START_SECONDS:g} s"

    def _worker_ended(self) -> str:
        return f"the worker has ended, with exit code {self.worker.exit_code}"

    async def _work(self, screen: Screen) -> str | None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._create)
            problem = await self._watch(screen)
            nursery.cancel_scope.cancel()
        return problem

    # --- Creating the queries --------------------------------------------------------------------

    async def _create(self) -> None:
        """Create the queries as a user does: through WebBuddy's API."""
        pause = CREATE_SECONDS / len(self.cases)
        user = self._user()
        async with open_webbuddy(
            url=self.webbuddy.url,
            credentials=Credentials(user.username, user.password),
            request_timeout=CALL_SECONDS,
            transport=httpx.AsyncHTTPTransport(),  # whatever proxy the environment names
        ) as client:
            try:
                for case in self.cases:
                    if not case.pushed:
                        await self._stop_pushing()
                    query = await client.create_query(PROJECT, case.text)
                    self.created.append(query.id)
                    await trio.sleep(pause if case.pushed else 0)
            except WebBuddyError as error:
                self.trouble = f"a query could not be created: {error}"
        self.webbuddy.pushing = True

    async def _stop_pushing(self) -> None:
        """Let WebBuddy tell nobody any more, and wait until the worker has nothing else to find.

        A worker that is busy asks for more whenever a query ends; this is to show what it does
        when nothing has told it of anything. The one that never ends may still run.
        """
        if self.webbuddy.pushing:
            self.webbuddy.pushing = False
            await self.webbuddy.until(lambda: len(self.webbuddy.with_status("queued", "in_progress")) <= 1)

    def _user(self) -> Account:
        return next(account for account in self.webbuddy.accounts.values() if account.project == PROJECT)

    # --- Looking at them -------------------------------------------------------------------------

    async def _watch(self, screen: Screen) -> str | None:
        """Show the queries until all of them have ended.

        Returns:
            Why that will not be; None when it is.
        """
        changes = -1
        with trio.move_on_after(STILL_SECONDS) as patience:
            while self.trouble is None and self.worker.exit_code is None:
                sights = self._sights()
                screen.show(sights)
                if len(self.created) == len(self.cases) and all(sight.ended for sight in sights):
                    return None
                if changes != self._changes():
                    changes = self._changes()
                    patience.deadline = trio.current_time() + STILL_SECONDS
                await trio.sleep(LOOK_SECONDS)
            return self.trouble or self._worker_ended()
        return f"nothing has changed for {STILL_SECONDS:g} s"

    def _sights(self) -> list[Sight]:
        now = self.webbuddy.now()
        return [sight_of(query, now) for query in self.webbuddy.queries.values()]

    def _changes(self) -> int:
        return sum(len(query.history) + len(query.entries) for query in self.webbuddy.queries.values())

    # --- The end ---------------------------------------------------------------------------------

    def _problems(self) -> list[str]:
        problems = []
        for case, number in zip(self.cases, self.created, strict=True):
            wrong = verdict(case, self.webbuddy.queries[number])
            if wrong is not None:
                problems.append(f"query {number}, {case.text!r}, {wrong}")
        return problems

    def _praise(self, seconds: float) -> None:
        sights = self._sights()
        failed = [case.task.ending for case in self.cases if case.status == "failed"]
        done = len(sights) - len(failed)
        click.echo()
        click.echo(
            f"{len(sights)} of {len(sights)} queries ended as they should, in {seconds:.1f} s: "
            f"{done} done, {len(failed)} failed."
        )
        if failed:
            click.echo(f"Failed on purpose: {', '.join(_EXPLAINED[ending] for ending in failed)}.")
        for source in ("push", "poll"):
            waits = [sight.waited or 0 for sight in sights if sight.found_by == source]
            if waits:
                share = "half of them " if len(waits) > 1 else ""
                median = _in_words(statistics.median(waits))
                click.echo(f"Found by {source}: {len(waits)}, {share}within {median}.")

    def _show_log(self) -> None:
        lines = self.worker.last_lines(LAST_LINES)
        click.echo("The worker's log ends like this:" if lines else "The worker's log is empty.", err=True)
        for line in lines:
            click.echo(f"  {line}", err=True)

    # --- Afterwards ------------------------------------------------------------------------------

    async def keep(self) -> None:
        """Leave both running, and show what becomes of queries that others create. Never returns."""
        for line in self._instructions():
            click.echo(line)
        screen = PlainScreen()
        mine = set(self.created)
        while self.worker.exit_code is None:
            screen.show([sight for sight in self._sights() if sight.number not in mine])
            await trio.sleep(LOOK_SECONDS)
        complain(self._worker_ended())
        self._show_log()
        self.code = WRONG

    def _instructions(self) -> list[str]:
        url, user = self.webbuddy.url, self._user()
        token = self.webbuddy.signer.issue(user, "access")
        body = json.dumps({"project": PROJECT, "query_text": "Протестировать оплату"}, ensure_ascii=False)
        curl = [
            *("curl", "-sS", "-H", f"Authorization: Bearer {token}", "-H", "Content-Type: application/json"),
            *("-d", body, f"{url}/api/queries/"),
        ]
        submit = [
            *(f"WEBBUDDY_URL={url}", f"WORKER_USERNAME={user.username}", f"WORKER_PASSWORD={user.password}"),
            *(*_own_command(), "submit", "Протестировать оплату", "--wait"),
        ]
        return [
            "",
            f"WebBuddy goes on at {url}, the worker at {self.url}, until Ctrl-C.",
            f"The worker's log: {self.worker.log}",
            "",
            "Create a query with curl:",
            "",
            shlex.join(curl),
            "",
            "or with trio-worker, and wait for its answer:",
            "",
            # The variables are not quoted: a shell would take them for the name of a program.
            " ".join([*submit[:3], shlex.join(submit[3:])]),
            "",
        ]


def _in_words(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _own_command() -> list[str]:
    """How this program was called, so that it can be called again."""
    own = sys.argv[0]
    if own.endswith("__main__.py"):
        return [sys.executable, "-m", "trio_worker"]
    return ["trio-worker"] if shutil.which("trio-worker") == own else [own]
