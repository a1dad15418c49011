"""``trio-worker once``: a query, or all of them, and out; and a query without any WebBuddy."""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.commands import run_command
from tests.forerunner import claimed_by_the_dead, leave_behind
from tests.processes import TOO_LONG, start_worker
from trio_worker import Context, Query
from trio_worker.errand import Errand
from trio_worker.testing import WebBuddy, open_worker, serve_webbuddy, trio_time

ANSWERS = "async def handle(query, ctx):\n    return 'answer to ' + query.query_text\n"
FAILS = (
    "from trio_worker import QueryFailed\n"
    "async def handle(query, ctx):\n    ctx.log('looking')\n    raise QueryFailed('no such page')\n"
)
LONG = "import trio\nasync def handle(query, ctx):\n    ctx.log('at work')\n    await trio.sleep(3600)\n"
LATER = (
    "from trio_worker import RetryLater\n"
    "async def handle(query, ctx):\n    raise RetryLater(3600.1234567, 'too many requests')\n"
)
SWALLOWS = (
    "import trio\nasync def handle(query, ctx):\n    ctx.log('at work')\n"
    "    with trio.CancelScope(shield=True):\n        await trio.sleep(3600)\n"
)
USER = {"WORKER_USERNAME": "worker", "WORKER_HANDLER": "agent:handle"}


def write(directory: Path, handler: str) -> None:
    (directory / "agent.py").write_text(handler)


@pytest.mark.parametrize(
    ("options", "done", "said"),
    [((), 1, "1 query was worked on"), (("--drain",), 3, "3 queries were worked on")],
)
async def test_queries_that_wait(tmp_path: Path, options: tuple[str, ...], done: int, said: str) -> None:
    """The next one, or all of them; reported, and nothing is left in the journal."""
    write(tmp_path, ANSWERS)
    webbuddy = WebBuddy()
    queries = [webbuddy.add_query(f"query {number}") for number in range(3)]
    async with serve_webbuddy(webbuddy) as url:
        ended = await run_command(tmp_path, "once", *options, webbuddy_url=url, **USER)
    assert (ended.code, ended.out) == (0, ""), ended.err
    assert said in ended.err
    assert [query.status for query in queries] == ["done"] * done + ["queued"] * (3 - done)
    assert queries[0].answer_text == "answer to query 0"
    assert [path for path in (tmp_path / "state").rglob("*") if path.is_file()] == []


async def test_an_empty_queue(tmp_path: Path) -> None:
    """That is no failure: cron would send a mail."""
    write(tmp_path, ANSWERS)
    async with serve_webbuddy(WebBuddy()) as url:
        ended = await run_command(tmp_path, "once", webbuddy_url=url, **USER)
    assert ended.code == 0, ended.err
    assert "no query is queued" in ended.err


async def test_a_webbuddy_that_is_down(tmp_path: Path) -> None:
    """It is not waited for: whoever has started us does that again. A sentence, and no traceback."""
    write(tmp_path, ANSWERS)
    ended = await run_command(tmp_path, "once", webbuddy_url="http://127.0.0.1:9", **USER)
    assert ended.code == 1
    assert (
        "WebBuddy can't be asked for a query: POST /api/login/: no connection to http://127.0.0.1:9"
        in ended.err
    )
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    ("environ", "code", "said"),
    [
        ({"WORKER_PASSWORD": "not-this-one"}, 3, "refused the log-in of user 'worker'"),
        ({"WORKER_HANDLER": "agent:no_such"}, 2, "has no no_such"),
        ({"NUM_WORKERS": "many"}, 2, "NUM_WORKERS is 'many'"),
    ],
)
async def test_what_the_operator_did(tmp_path: Path, environ: dict[str, str], code: int, said: str) -> None:
    """The exit codes of `run`."""
    write(tmp_path, ANSWERS)
    async with serve_webbuddy(WebBuddy()) as url:
        ended = await run_command(tmp_path, "once", webbuddy_url=url, **(USER | environ))
    assert ended.code == code, ended.err
    assert said in ended.err
    assert "Traceback" not in ended.err


async def test_a_signal_puts_the_query_back(tmp_path: Path) -> None:
    """At once, not after a grace: nobody has asked for one."""
    webbuddy = WebBuddy()
    query = webbuddy.add_query("long")
    async with (
        serve_webbuddy(webbuddy) as url,
        start_worker(
            tmp_path, webbuddy_url=url, command=("-m", "trio_worker", "once"), handler=LONG
        ) as worker,
    ):
        with trio.fail_after(TOO_LONG):
            await webbuddy.until(lambda: any("at work" in entry for entry in query.logs))
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.wait() == 143, worker.output
    assert query.statuses == ["queued", "in_progress", "queued"]
    assert "1 query was put back" in worker.output
    assert "worked on" not in worker.output


BLOCKS = "import time\nasync def handle(query, ctx):\n    time.sleep(3600)\n"


@pytest.mark.parametrize("arguments", [("once",), ("once", "--query", "x")])
async def test_a_signal_while_the_handler_blocks_the_event_loop(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    """It is named while it does, and one signal ends it: nothing in the loop could."""
    webbuddy = WebBuddy()
    webbuddy.add_query("x")
    async with (
        serve_webbuddy(webbuddy) as url,
        start_worker(
            tmp_path, webbuddy_url=url, command=("-m", "trio_worker", *arguments), handler=BLOCKS
        ) as worker,
    ):
        await worker.until(lambda line: "blocks the whole worker" in line)
        worker.process.send_signal(signal.SIGINT)
        assert await worker.wait() == 130, worker.output


OPENS = (
    "import contextlib, trio\n"
    "@contextlib.asynccontextmanager\nasync def handle():\n"
    "    yield work\n"
    "    await trio.sleep(0.01)\n    print('closed in order')\n"
    "async def work(query, ctx):\n    ctx.log('at work')\n    await trio.sleep(3600)\n"
)


async def test_a_signal_while_the_result_is_reported(tmp_path: Path) -> None:
    """WebBuddy does not take it: nobody has to wait for the minute to be over."""
    webbuddy = WebBuddy()
    query = webbuddy.add_query("x")
    webbuddy.fail_next(503, calls=10**6, endpoint="patch")
    async with (
        serve_webbuddy(webbuddy) as url,
        start_worker(
            tmp_path, webbuddy_url=url, command=("-m", "trio_worker", "once"), handler=ANSWERS
        ) as worker,
    ):
        with trio.fail_after(TOO_LONG):
            await webbuddy.until(lambda: webbuddy.count("patch") > 1)
        with trio.fail_after(30):
            worker.process.send_signal(signal.SIGINT)
            assert await worker.wait() == 130, worker.output
    assert query.status == "in_progress"


async def test_all_consumers_work_off_the_queue(tmp_path: Path) -> None:
    """WORKER_PROCESSES is about a service of several; this process is alone."""
    write(
        tmp_path,
        "import trio\ntogether = trio.Event()\nthere = []\n"
        "async def handle(query, ctx):\n    there.append(1)\n"
        "    if len(there) == 4:\n        together.set()\n"
        "    with trio.move_on_after(30):\n        await together.wait()\n        return 'together'\n",
    )
    webbuddy = WebBuddy()
    queries = [webbuddy.add_query(str(number)) for number in range(4)]
    many = {"NUM_WORKERS": "4", "WORKER_PROCESSES": "4"}
    async with serve_webbuddy(webbuddy) as url:
        ended = await run_command(tmp_path, "once", "--drain", webbuddy_url=url, **(USER | many))
    assert ended.code == 0, ended.err
    assert [query.answer_text for query in queries] == ["together"] * 4


async def test_what_the_handler_opens_is_closed_after_a_signal(tmp_path: Path) -> None:
    """In order, when its query is back in the queue."""
    webbuddy = WebBuddy()
    query = webbuddy.add_query("x")
    async with (
        serve_webbuddy(webbuddy) as url,
        start_worker(
            tmp_path, webbuddy_url=url, command=("-m", "trio_worker", "once"), handler=OPENS
        ) as worker,
    ):
        with trio.fail_after(TOO_LONG):
            await webbuddy.until(lambda: any("at work" in entry for entry in query.logs))
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.wait() == 143, worker.output
    assert "closed in order" in worker.output
    assert query.statuses == ["queued", "in_progress", "queued"]


async def test_a_query_that_is_put_aside(tmp_path: Path) -> None:
    """It is not done, so it is not 0."""
    write(tmp_path, LATER)
    webbuddy = WebBuddy()
    query = webbuddy.add_query("x")
    async with serve_webbuddy(webbuddy) as url:
        ended = await run_command(tmp_path, "once", webbuddy_url=url, **USER)
    assert (ended.code, query.status) == (1, "in_progress"), ended.err
    assert "1 query is left in the journal" in ended.err
    assert "worked on" not in ended.err


async def test_a_made_up_query(tmp_path: Path) -> None:
    """No settings but the handler's: its answer is all that there is on stdout."""
    write(tmp_path, ANSWERS)
    nobody = {"WORKER_USERNAME": "", "WORKER_PASSWORD": "", "WORKER_HANDLER": "agent:handle"}
    ended = await run_command(tmp_path, "once", "--query", "Привет", webbuddy_url="", **nobody)
    assert (ended.code, ended.out) == (0, "answer to Привет\n"), ended.err
    assert "Started, time limit 300 s" in ended.err


async def test_a_made_up_query_that_fails(tmp_path: Path) -> None:
    """Its reason is not taken for an answer."""
    write(tmp_path, FAILS)
    ended = await run_command(
        tmp_path, "once", "--query", "x", webbuddy_url="", WORKER_HANDLER="agent:handle"
    )
    assert (ended.code, ended.out) == (1, "")
    assert "looking" in ended.err
    assert ended.err.rstrip().endswith("no such page")


async def test_ctrl_c_in_a_made_up_query(tmp_path: Path) -> None:
    """No answer, and not 0; nothing of the handler lives on."""
    async with start_worker(
        tmp_path,
        webbuddy_url="http://127.0.0.1:9",
        command=("-m", "trio_worker", "once", "--query", "x"),
        handler=LONG,
    ) as worker:
        await worker.until(lambda line: "at work" in line)
        worker.process.send_signal(signal.SIGINT)
        assert await worker.wait() == 130, worker.output
    assert "Traceback" not in worker.output
    said = [json.loads(line) for line in worker.output.splitlines() if line.startswith("{")]
    assert [line for line in said if line["logger"] == "trio_worker.delivery"] == []


async def test_a_made_up_query_whose_handler_can_not_be_stopped(tmp_path: Path) -> None:
    """What comes of it is shown; then the process ends, though the handler does not."""
    write(tmp_path, SWALLOWS)
    limit = {"WORKER_PROCESSING_TIMEOUT": "1", "WORKER_HANDLER": "agent:handle"}
    ended = await run_command(tmp_path, "once", "--query", "x", webbuddy_url="", **limit)
    assert ended.code == 1
    assert "past its time limit of 1 s and could not be stopped" in ended.err
    assert "leaving by force" in ended.err


async def test_ctrl_c_while_the_handler_of_a_made_up_query_can_not_be_stopped(tmp_path: Path) -> None:
    """It ends all the same, as after any other Ctrl-C."""
    async with start_worker(
        tmp_path,
        webbuddy_url="http://127.0.0.1:9",
        command=("-m", "trio_worker", "once", "--query", "x"),
        handler=SWALLOWS,
    ) as worker:
        await worker.until(lambda line: "at work" in line)
        worker.process.send_signal(signal.SIGINT)
        assert await worker.wait() == 130, worker.output


async def test_a_made_up_query_that_is_to_be_tried_again_later(tmp_path: Path) -> None:
    """Nobody waits for that here; the exit code is that of a program which says so."""
    write(tmp_path, LATER)
    ended = await run_command(
        tmp_path, "once", "--query", "x", webbuddy_url="", WORKER_HANDLER="agent:handle"
    )
    assert (ended.code, ended.out) == (75, ""), ended.err
    assert "the handler asks to be called again in 3600.1 s: too many requests" in ended.err


@pytest.mark.parametrize("where", ["WORKER_PASSWORD", "WORKER_PASSWORD_FILE"])
async def test_the_workers_password_in_a_made_up_query(where: str, tmp_path: Path) -> None:
    """It is not needed; where it is set, it does not show."""
    write(tmp_path, "async def handle(query, ctx):\n    return 'it is correct horse'\n")
    (tmp_path / "password").write_text("correct horse\n")
    values = {"WORKER_PASSWORD": "correct horse", "WORKER_PASSWORD_FILE": str(tmp_path / "password")}
    environ = {"WORKER_PASSWORD": "", "WORKER_HANDLER": "agent:handle"} | {where: values[where]}
    ended = await run_command(tmp_path, "once", "--query", "x", webbuddy_url="", **environ)
    assert (ended.code, ended.out) == (0, "it is [MASKED]\n"), ended.err


async def test_a_password_file_that_a_made_up_query_can_not_read(tmp_path: Path) -> None:
    """That is said, and it goes on."""
    write(tmp_path, ANSWERS)
    file = {"WORKER_PASSWORD": "", "WORKER_PASSWORD_FILE": "no-such-file", "WORKER_HANDLER": "agent:handle"}
    ended = await run_command(tmp_path, "once", "--query", "x", webbuddy_url="", **file)
    assert (ended.code, ended.out) == (0, "answer to x\n"), ended.err
    assert "WORKER_PASSWORD_FILE is 'no-such-file'" in ended.err


async def test_the_format_of_a_made_up_querys_log(tmp_path: Path) -> None:
    """As for the worker."""
    write(tmp_path, FAILS)
    environ = {"WORKER_HANDLER": "agent:handle", "WORKER_LOG_FORMAT": "pretty"}
    ended = await run_command(tmp_path, "once", "--query", "x", webbuddy_url="", **environ)
    assert ended.code == 1
    assert '"event"' not in ended.err
    assert "query failed" in ended.err


async def test_secrets_in_a_made_up_query(tmp_path: Path) -> None:
    """`WORKER_MASK` counts here, too."""
    write(tmp_path, "import os\nasync def handle(query, ctx):\n    return os.environ['API_KEY']\n")
    secret = {"API_KEY": "key-0123456789", "WORKER_MASK": "API_KEY", "WORKER_HANDLER": "agent:handle"}
    ended = await run_command(tmp_path, "once", "--query", "x", webbuddy_url="", **secret)
    assert (ended.code, ended.out) == (0, "[MASKED]\n"), ended.err


async def test_each_step_is_shown(tmp_path: Path) -> None:
    """With --verbose: what is asked of WebBuddy, and what becomes of the query."""
    write(tmp_path, ANSWERS)
    ended = await run_command(
        tmp_path, "once", "--query", "x", "--verbose", webbuddy_url="", WORKER_HANDLER="agent:handle"
    )
    assert ended.code == 0
    for event in ("query claimed", "query done", "reported"):
        assert event in ended.err


@pytest.mark.parametrize("arguments", [("--drain", "--query", "x"), ("--query", " ")])
async def test_options_that_do_not_fit(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """click's own exit code for a command that was mistyped."""
    ended = await run_command(tmp_path, "once", *arguments, webbuddy_url="http://127.0.0.1:9")
    assert ended.code == 2
    assert "Usage" in ended.err


# --- In virtual time -------------------------------------------------------------------------------------


async def test_what_the_handler_opens_has_time_to_close(autojump_clock: MockClock) -> None:
    """Also when WebBuddy takes no result: that does not use up all the time there is."""
    closed: list[float] = []

    async def work(query: Query, ctx: Context) -> str:
        await trio.sleep(3600)
        return "ok"

    @asynccontextmanager
    async def agent() -> AsyncIterator[Callable[[Query, Context], Awaitable[str]]]:
        yield work
        await trio.sleep(0.3)
        closed.append(trio.current_time())

    webbuddy, errand = WebBuddy(now=trio_time()), Errand(every=False)
    query = webbuddy.add_query("x", push=False)
    webbuddy.fail_next(503, calls=10**6, endpoint="patch")
    async with open_worker(agent, webbuddy=webbuddy, errand=errand) as worker:
        await webbuddy.until(lambda: query.status == "in_progress")
        worker.stop.hurry()
        await worker.ended.wait()
    assert (len(closed), query.status, errand.waiting) == (1, "in_progress", 1)
    assert not worker.abandoned.is_set()


async def test_what_was_held_comes_first(tmp_path: Path, autojump_clock: MockClock) -> None:
    """It is the one query; the next stays queued."""

    async def handle(query: Query, ctx: Context) -> str:
        return "ok"

    webbuddy = WebBuddy(now=trio_time())
    stored, entry = claimed_by_the_dead(webbuddy)
    leave_behind(tmp_path, webbuddy, [entry])
    new = webbuddy.add_query("new", push=False)
    errand = Errand(every=False)
    async with open_worker(
        handle, webbuddy=webbuddy, state_dir=tmp_path, num_workers=1, errand=errand
    ) as worker:
        with trio.fail_after(60):
            await worker.ended.wait()
    assert (stored.status, new.status, errand.taken) == ("done", "queued", 1)


async def test_a_result_that_webbuddy_does_not_take_is_kept(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """It ends soon all the same; the next one on this folder reports it."""

    async def handle(query: Query, ctx: Context) -> str:
        return "ok"

    webbuddy = WebBuddy(now=trio_time())
    query = webbuddy.add_query("x", push=False)
    webbuddy.fail_next(503, calls=10**6, endpoint="patch")
    waiting: list[int] = []
    for _ in range(2):
        errand = Errand(every=False)
        async with open_worker(
            handle,
            webbuddy=webbuddy,
            state_dir=tmp_path,
            num_workers=1,
            errand=errand,
            shutdown_grace=9,
        ) as worker:
            with trio.fail_after(10):
                await worker.ended.wait()
        waiting.append(errand.waiting)
        webbuddy.faults.clear()
    assert query.statuses == ["queued", "in_progress", "done"]
    assert waiting == [1, 0]
