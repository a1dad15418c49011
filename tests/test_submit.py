"""`trio-worker submit`: each outcome with what is printed and its exit code, over real sockets."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio

from tests.commands import Ended, environment, run_command
from tests.processes import TOO_LONG
from trio_worker.cli.submit import PATIENCE, Watch, shown
from trio_worker.credentials import Credentials
from trio_worker.errors import Unavailable
from trio_worker.testing import StoredQuery, WebBuddy, serve_webbuddy, trio_time
from trio_worker.webbuddy import WebBuddyClient, open_webbuddy


async def submit(
    directory: Path, webbuddy: WebBuddy, *arguments: str, path: str = "", **environ: str
) -> Ended:
    async with serve_webbuddy(webbuddy) as url:
        ended = await run_command(directory, "submit", *arguments, webbuddy_url=url + path, **environ)
    assert "Traceback" not in ended.out + ended.err
    return ended


async def wait_for_answer(
    directory: Path, webbuddy: WebBuddy, work: Callable[[StoredQuery], Awaitable[None]]
) -> Ended:
    """Run ``submit --wait``, and work on its query meanwhile."""
    results = []

    async def run() -> None:
        results.append(await submit(directory, webbuddy, "Протестировать авторизацию", "--wait"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        with trio.fail_after(TOO_LONG):
            await webbuddy.until(lambda: webbuddy.count("query_logs") > 0)
        await work(webbuddy.queries[1])
    return results[0]


def end(webbuddy: WebBuddy, query: StoredQuery, status: str, answer: str) -> None:
    query.answer_text = answer
    webbuddy.set_status(query, status, webbuddy.accounts[1])


async def test_a_query_is_created(tmp_path: Path) -> None:
    """The query is created as its author wrote it; its number, and nothing else, goes to stdout."""
    webbuddy = WebBuddy()
    ended = await submit(tmp_path, webbuddy, "Протестировать авторизацию", "--project", "1")
    assert (ended.code, ended.out) == (0, "1\n")
    assert "query 1 is created in project 1" in ended.err
    query = webbuddy.queries[1]
    assert (query.query_text, query.project, query.user) == ("Протестировать авторизацию", 1, 2)


async def test_the_project_of_the_account(tmp_path: Path) -> None:
    """Without --project it is the account's own; a worker's handler is not needed."""
    webbuddy = WebBuddy()
    ended = await submit(tmp_path, webbuddy, "hello", WORKER_HANDLER="")
    assert (ended.code, webbuddy.queries[1].project) == (0, 1)


async def test_an_account_without_a_project(tmp_path: Path) -> None:
    """Without --project and without a project of its own: what to do; nothing is created, exit 2."""
    webbuddy = WebBuddy()
    ended = await submit(tmp_path, webbuddy, "hello", WORKER_USERNAME="stranger")
    assert (ended.code, ended.out, webbuddy.queries) == (2, "", {})
    assert "has no project of its own: name one, as in --project 1" in ended.err


async def test_wrong_settings(tmp_path: Path) -> None:
    """Everything that is wrong, one sentence each; nothing is sent, exit 2."""
    webbuddy = WebBuddy()
    ended = await submit(tmp_path, webbuddy, "hello", WORKER_USERNAME="", NUM_WORKERS="many")
    assert (ended.code, len(ended.err.splitlines())) == (2, 2)
    assert "WORKER_USERNAME is missing" in ended.err
    assert not webbuddy.requests


async def test_the_log_in_is_refused(tmp_path: Path) -> None:
    """A wrong password: one sentence, without it; exit 3."""
    ended = await submit(tmp_path, WebBuddy(), "hello", WORKER_PASSWORD="not-this-one")
    assert (ended.code, len(ended.err.splitlines())) == (3, 1)
    assert "refused the log-in of user 'member'" in ended.err
    assert "not-this-one" not in ended.err


async def test_webbuddy_is_down(tmp_path: Path) -> None:
    """WebBuddy is not there: no query was created, exit 1."""
    ended = await submit(tmp_path, WebBuddy(down=True), "hello")
    assert (ended.code, len(ended.err.splitlines())) == (1, 1)
    assert "no query was created: POST /api/login/: no connection to" in ended.err


async def test_something_else_than_webbuddy(tmp_path: Path) -> None:
    """A URL without a WebBuddy behind it is said to be that, with and without --project; exit 1."""
    for project in ([], ["--project", "1"]):
        ended = await submit(tmp_path, WebBuddy(), "hello", *project, path="/elsewhere")
        assert ended.code == 1
        assert "no query was created" in ended.err
        assert "is WEBBUDDY_URL right?" in ended.err


async def test_a_project_that_is_not_there(tmp_path: Path) -> None:
    """What WebBuddy refuses is told with its reason; exit 1."""
    ended = await submit(tmp_path, WebBuddy(), "hello", "--project", "77")
    assert ended.code == 1
    assert 'no query was created: POST /api/queries/: WebBuddy answered 400: project: Invalid pk "77"' in (
        ended.err
    )


async def test_a_lost_answer(tmp_path: Path) -> None:
    """A creation whose answer is lost is not repeated, and not said to have failed; exit 1."""
    webbuddy = WebBuddy()
    webbuddy.cut_next(endpoint="create", after_commit=True)
    ended = await submit(tmp_path, webbuddy, "hello")
    assert (ended.code, len(webbuddy.queries)) == (1, 1)
    assert "may have been created all the same: look before you repeat it" in ended.err


async def test_waiting_for_an_answer(tmp_path: Path) -> None:
    """--wait: the log, each entry once, to stderr; the answer alone to stdout; exit 0."""
    webbuddy = WebBuddy()

    async def work(query: StoredQuery) -> None:
        webbuddy.set_status(query, "in_progress", webbuddy.accounts[1])
        for number in range(60):  # more than WebBuddy has on a page
            webbuddy.add_entry(query, 1, f"entry {number}.")
        seen = webbuddy.count("query_logs")
        with trio.fail_after(TOO_LONG):
            await webbuddy.until(lambda: webbuddy.count("query_logs") > seen + 2)
        webbuddy.add_entry(query, 1, "the last one")
        end(webbuddy, query, "done", "Авторизация работает.\n3 из 3")

    ended = await wait_for_answer(tmp_path, webbuddy, work)
    assert (ended.code, ended.out) == (0, "Авторизация работает.\n3 из 3\n")
    texts = [line.partition("  ")[2] for line in ended.err.splitlines()[1:-1]]
    assert texts == [*(f"entry {number}." for number in range(60)), "the last one"]
    assert ended.err.splitlines()[-1] == "query 1 is done"


@asynccontextmanager
async def client_of(webbuddy: WebBuddy) -> AsyncIterator[WebBuddyClient]:
    async with (
        webbuddy.running(),
        open_webbuddy(
            url=webbuddy.url,
            credentials=Credentials("member", "secret"),
            request_timeout=5,
            transport=webbuddy.transport(),
        ) as client,
    ):
        yield client


async def test_waiting_for_a_failure(
    autojump_clock: trio.testing.MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    """--wait for a query that fails: its reason to stdout, exit 1."""
    webbuddy = WebBuddy(now=trio_time())
    async with client_of(webbuddy) as client:
        query = webbuddy.add_query("hello")
        end(webbuddy, query, "failed", "No test card.")
        assert await Watch(client, query.id).run() == 1
    assert capsys.readouterr() == ("No test card.\n", "query 1 is failed\n")


async def test_the_query_is_put_back_and_deleted(
    autojump_clock: trio.testing.MockClock, capsys: pytest.CaptureFixture[str], nursery: trio.Nursery
) -> None:
    """A query that goes back into the queue, and then away: each is said; exit 1."""
    webbuddy = WebBuddy(now=trio_time())
    async with client_of(webbuddy) as client:
        query = webbuddy.add_query("hello")

        async def work() -> None:
            for status in ("in_progress", "queued"):
                webbuddy.set_status(query, status, webbuddy.accounts[1])
                await trio.sleep(5)
            webbuddy.delete_query(query.id)

        nursery.start_soon(work)
        assert await Watch(client, query.id).run() == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "back in the queue",
        "trio-worker: query 1 is gone: it was deleted at WebBuddy",
    ]


async def test_an_outage_while_waiting(
    autojump_clock: trio.testing.MockClock, capsys: pytest.CaptureFixture[str], nursery: trio.Nursery
) -> None:
    """WebBuddy goes away and comes back while --wait waits: said once, and the answer arrives."""
    webbuddy = WebBuddy(now=trio_time())
    async with client_of(webbuddy) as client:
        query = webbuddy.add_query("hello")
        webbuddy.fail_next(503, endpoint="read")
        webbuddy.fail_next(404, endpoint="read")  # a proxy's: not WebBuddy's word that it is gone
        webbuddy.cut_next(endpoint="read")
        webbuddy.fail_next(500, endpoint="query_logs")
        nursery.start_soon(_end_later, webbuddy, query)
        assert await Watch(client, query.id).run() == 0
    out, err = capsys.readouterr()
    assert out == "after all\n"
    assert err.count("trying again") == 1


async def _end_later(webbuddy: WebBuddy, query: StoredQuery) -> None:
    await trio.sleep(60)
    end(webbuddy, query, "done", "after all")


async def test_a_long_outage(autojump_clock: trio.testing.MockClock) -> None:
    """WebBuddy stays away: the wait is given up after its patience."""
    webbuddy = WebBuddy(now=trio_time())
    async with client_of(webbuddy) as client:
        query = webbuddy.add_query("hello")
        webbuddy.down = True
        began = trio.current_time()
        with pytest.raises(Unavailable):
            await Watch(client, query.id).run()
    assert PATIENCE <= trio.current_time() - began < PATIENCE + 10


async def test_each_outage_has_its_own_patience(
    autojump_clock: trio.testing.MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two outages that are together longer than the patience, with WebBuddy well in between."""
    webbuddy = WebBuddy(now=trio_time())
    async with client_of(webbuddy) as client, trio.open_nursery() as nursery:
        query = webbuddy.add_query("hello")
        nursery.start_soon(Watch(client, query.id).run)
        for _ in range(2):
            webbuddy.down = True
            await trio.sleep(PATIENCE * 0.7)
            webbuddy.down = False
            await trio.sleep(20)
        end(webbuddy, query, "done", "in the end")
    assert capsys.readouterr().out == "in the end\n"


async def test_without_a_log(
    autojump_clock: trio.testing.MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    """A WebBuddy that does not show logs: the answer is shown all the same."""
    webbuddy = WebBuddy(now=trio_time())
    webbuddy.fail_next(404, endpoint="query_logs", calls=1000)
    async with client_of(webbuddy) as client:
        query = webbuddy.add_query("hello")
        end(webbuddy, query, "done", "fine")
        assert await Watch(client, query.id).run() == 0
    assert capsys.readouterr().out == "fine\n"


async def test_the_log_in_is_refused_while_waiting(tmp_path: Path) -> None:
    """The account is closed while --wait waits: the query is said to go on; exit 3."""
    webbuddy = WebBuddy()

    async def work(query: StoredQuery) -> None:
        webbuddy.accounts[2] = attrs.evolve(webbuddy.accounts[2], is_active=False)

    ended = await wait_for_answer(tmp_path, webbuddy, work)
    assert ended.code == 3
    assert "refused the log-in of user 'member'" in ended.err
    assert "query 1 goes on without you" in ended.err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_signal_while_waiting(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """Ctrl-C ends the wait, not the query, and says so without a traceback; exit 130."""
    webbuddy = WebBuddy()
    command = [sys.executable, "-m", "trio_worker", "submit", "hello", "--wait"]
    async with serve_webbuddy(webbuddy) as url:
        with trio.fail_after(TOO_LONG):
            process = await trio.lowlevel.open_process(
                command, cwd=tmp_path, env=environment(url), stderr=subprocess.PIPE, stdout=subprocess.PIPE
            )
            await webbuddy.until(lambda: webbuddy.count("query_logs") > 0)
            process.send_signal(number)
            assert process.stderr is not None
            assert process.stdout is not None
            async with process.stderr, process.stdout:
                said = b"".join([chunk async for chunk in process.stderr]).decode()
                assert await process.wait() == code
    assert "query 1 goes on without you" in said
    assert "Traceback" not in said
    assert webbuddy.queries[1].status == "queued"


def test_what_a_terminal_would_obey() -> None:
    """An answer can't move a terminal's cursor; in a file it stays as it is."""
    answer = "one\n\ttwo \x1b[2J\x9bK три"
    assert shown(answer, terminal=True) == "one\n\ttwo \ufffd[2J\ufffdK три"
    assert shown(answer, terminal=False) == answer
