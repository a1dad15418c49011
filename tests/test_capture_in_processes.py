"""`WORKER_CAPTURE` in real processes: those of ``process:``, and each way to start a worker."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from structlog.typing import EventDict

from tests.commands import run_command
from tests.processes import TOO_LONG, WorkerProcess, start_worker
from tests.test_capture import said
from trio_worker.capture import Capture
from trio_worker.handlers.kinds import find_handler
from trio_worker.testing import RunningWorker, WebBuddy, open_worker, serve_webbuddy

# --- process: --------------------------------------------------------------------------------------------

SPEAKS = """
import logging, sys
log = logging.getLogger("agent")
def handle(query, ctx):
    ctx.log("first")
    log.debug("debugged")
    log.info("%s logs", query.query_text)
    log.warning("slow")
    print(query.query_text, "prints")
    print("to stderr", file=sys.stderr)
    print("begun", end="")
    return "ok"
"""


@asynccontextmanager
async def open_process_worker(directory: Path, code: str, capture: Capture) -> AsyncIterator[RunningWorker]:
    (directory / "agent.py").write_text(code, encoding="utf-8")
    handler = find_handler("process:agent:handle", directory, most=1, capture=capture)
    with trio.fail_after(TOO_LONG):
        async with open_worker(handler, num_workers=1) as worker:
            yield worker


async def test_in_a_process(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The same lines, query by query; stderr shows where it did, and what is logged is not printed."""
    async with open_process_worker(tmp_path, SPEAKS, Capture("print")) as worker:
        for name in ("one", "two"):
            query = await worker.ask(name)
            assert said(query) == ["first", f"{name} logs", "WARNING: slow", f"{name} prints", "begun"]
    assert capfd.readouterr().err.splitlines() == ["to stderr"] * 2


@pytest.mark.parametrize(
    ("capture", "lines"),
    [
        (Capture("off"), ["first"]),
        (Capture("logging", "debug"), ["first", "debugged", "x logs", "WARNING: slow"]),
        (Capture("logging", "error"), ["first"]),
    ],
)
async def test_the_switch_in_a_process(
    capture: Capture, lines: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It and the level come there. What is printed and not captured shows where it was."""
    async with open_process_worker(tmp_path, SPEAKS, capture) as worker:
        assert said(await worker.ask("x")) == lines
    # The process ends in the middle of its last line; it flushes that then.
    assert capfd.readouterr().err.splitlines() == ["x prints", "to stderr", "begun"]


async def test_a_module_that_sets_logging_up_in_a_process(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Its handlers show what they showed, and take nothing away from the worker's log."""
    code = "import logging\nlogging.basicConfig(format='own %(message)s', level=10, force=True)\n" + SPEAKS
    caplog.set_level("DEBUG")
    async with open_process_worker(tmp_path, code, Capture("logging")) as worker:
        assert said(await worker.ask("x")) == ["first", "x logs", "WARNING: slow"]
    assert [line for line in capfd.readouterr().err.splitlines() if line.startswith("own")] == [
        "own debugged",
        "own x logs",
        "own slow",
    ]
    assert [record.message for record in caplog.records if record.name == "agent"] == ["x logs", "slow"]


async def test_others_in_a_process(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A thread of the handler's own, and a fork, are not concerned."""
    code = """
import os, threading
def handle(query, ctx):
    thread = threading.Thread(target=print, args=("a thread",))
    thread.start()
    thread.join()
    if (child := os.fork()) == 0:
        print("a fork", flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    print("the handler")
    return "ok"
"""
    async with open_process_worker(tmp_path, code, Capture("print")) as worker:
        assert said(await worker.ask("x")) == ["the handler"]
    assert [line for line in capfd.readouterr().err.splitlines() if line.startswith("a ")] == [
        "a thread",
        "a fork",
    ]


async def test_a_collector_that_never_rests_in_a_process(tmp_path: Path) -> None:
    """One that logs in the middle of a message to the worker neither spoils it nor waits for itself."""
    code = """
import gc, logging
log = logging.getLogger("agent")
class Phoenix:
    lives = 1000
    def __init__(self):
        self.me = self
    def __del__(self):
        if Phoenix.lives:
            Phoenix.lives -= 1
            log.info("a __del__ logs")
            Phoenix()
def handle(query, ctx):
    Phoenix()
    before = gc.get_threshold()
    gc.set_threshold(1)
    for number in range(100):
        print("print", number)
    gc.set_threshold(*before)
    Phoenix.lives = 0
    return "ok"
"""
    async with open_process_worker(tmp_path, code, Capture("print")) as worker:
        lines = said(await worker.ask("x"))
    assert "a __del__ logs" in lines
    assert [line for line in lines if line.startswith("print")] == [f"print {n}" for n in range(100)]


CLOSES = """
import logging, os, pathlib
log = logging.getLogger("agent")
def handle(query, ctx):
    files = {n: os.path.realpath(f"/proc/self/fd/{n}") for n in map(int, os.listdir("/proc/self/fd"))}
    (socket,) = [n for n, name in files.items() if "socket:" in name]
    os.close(socket)
    database = os.open("database", os.O_RDWR | os.O_CREAT)
    os.dup2(database, socket)
    log.error("this can't be sent")
    if (fork := os.fork()) == 0:
        os._exit(os.write(socket, b"the fork's own") - 14)
    assert os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1]) == 0
    pathlib.Path("reached").touch()
    return "ok"
"""


async def test_a_handler_that_has_closed_our_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events: list[EventDict]
) -> None:
    """`logging` says what is wrong, and raises nothing; what has got the socket's number is left alone."""
    assert logging.raiseExceptions
    monkeypatch.chdir(tmp_path)
    async with open_process_worker(tmp_path, CLOSES, Capture("logging")) as worker:
        query = await worker.ask("x")
    assert (tmp_path / "reached").exists()
    assert (tmp_path / "database").read_bytes() == b"the fork's own"
    assert (query.status, said(query)) == ("failed", [])
    assert [event["how"] for event in events if "process died" in event["event"]] == ["exit status 1"]


# --- The worker's log of what a process logs ---------------------------------------------------------------

LOGS = """
import logging, os, signal, threading
log = logging.getLogger("agent")
log.info("imported")
def handle(query, ctx):
    log.debug("too little")
    log.info("%s logs", query.query_text)
    log.warning("with %s", os.environ["API_KEY"])
    try:
        raise ValueError(os.environ["API_KEY"])
    except ValueError:
        log.exception("broken")
    thread = threading.Thread(target=log.info, args=("a thread's",))
    thread.start()
    thread.join()
    if query.query_text == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    return "answer"
"""


@pytest.mark.parametrize(
    ("capture", "lines"),
    [
        ("off", []),
        ("logging", ["x logs", "WARNING: with [MASKED]", "ERROR: broken: ValueError: [MASKED]"]),
    ],
)
async def test_the_log_of_a_worker_with_processes(capture: str, lines: list[str], tmp_path: Path) -> None:
    """What is logged there is in the worker's log as if it had been here: level, masks, the query's id.

    In that of the query once, if at all.
    """
    webbuddy = WebBuddy()
    query = webbuddy.add_query("x")
    settings = {"WORKER_CAPTURE": capture, "WORKER_HANDLER": "process:agent:handle", **SECRET}
    async with (
        serve_webbuddy(webbuddy) as url,
        start_worker(tmp_path, webbuddy_url=url, handler=LOGS, **settings) as worker,
    ):
        await worker.until(lambda line: '"query done"' in line)
        with trio.fail_after(TOO_LONG):
            await webbuddy.until(webbuddy.all_ended)
    assert said(query) == lines
    logged = [json.loads(line) for line in worker.lines if '"agent"' in line]
    assert [(event["level"], event["event"], event.get("query")) for event in logged] == [
        ("info", "imported", None),
        ("info", "x logs", 1),
        ("warning", "with [MASKED]", 1),
        ("error", "broken", 1),
        ("info", "a thread's", None),
    ]
    (text,) = [event["exception"] for event in logged if "exception" in event]
    assert text.startswith("Traceback")
    assert text.endswith("\nValueError: [MASKED]")


async def test_the_log_of_a_process_that_dies(tmp_path: Path) -> None:
    """Its last words arrive. What another one logs that is started for its sake is not of its query."""
    webbuddy = WebBuddy()
    webbuddy.add_query("dies")
    settings = {"WORKER_HANDLER": "process:agent:handle", "NUM_WORKERS": "1", **SECRET}
    async with (
        serve_webbuddy(webbuddy) as url,
        start_worker(tmp_path, webbuddy_url=url, handler=LOGS, **settings) as worker,
    ):
        await worker.until(lambda line: '"broken"' in line)
        await worker.until(lambda line: '"query failed"' in line)
        webbuddy.add_query("x")
        await worker.until(lambda line: '"query done"' in line)
    logged = [event for event in operators(worker) if event[0] != "with [MASKED]"]
    assert logged == [
        *[("imported", None), ("dies logs", 1), ("broken", 1), ("a thread's", None)],
        *[("imported", None), ("x logs", 2), ("broken", 2), ("a thread's", None)],
    ]


async def test_records_that_the_worker_does_not_wait_for(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Those of a fork, and of the end of a process, show on stderr as if there were no worker."""
    code = """
import atexit, logging, os
log = logging.getLogger("agent")
def handle(query, ctx):
    atexit.register(log.warning, "at exit")
    atexit.register(log.info, "not a warning")
    if (fork := os.fork()) == 0:
        log.warning("a fork")
        os._exit(0)
    os.waitpid(fork, 0)
    log.warning("the handler")
    return "ok"
"""
    async with open_process_worker(tmp_path, code, Capture()) as worker:
        await worker.ask("x")
    assert capfd.readouterr().err.splitlines() == ["a fork", "at exit"]
    assert [record.message for record in caplog.records if record.name == "agent"] == ["the handler"]


# --- Each way to start a worker --------------------------------------------------------------------------

AGENT = """
import logging, os
import structlog
log = logging.getLogger("agent")
async def handle(query, ctx):
    log.info("%s logs", query.query_text)
    structlog.get_logger("agent").info("fetched", status=200, page="of two words")
    print(query.query_text, "prints", os.environ["API_KEY"])
    return "answer"
def plain(query, ctx):
    log.info("%s logs", query.query_text)
    print(query.query_text, "prints", os.environ["API_KEY"])
    return "answer"
"""
SECRET = {"API_KEY": "key-0123456789", "WORKER_MASK": "API_KEY"}
LINES = ["x logs", "fetched status=200 page=of two words", "x prints [MASKED]"]
PLAIN_LINES = ["x logs", "x prints [MASKED]"]
HYPERCORN = ("-m", "hypercorn", "-k", "trio", "-b", "127.0.0.1:0", "trio_worker.asgi:app")


def operators(worker: WorkerProcess) -> list[tuple[str, int | None]]:
    """What the worker's own log has of the handler's records: what they say, and of which query."""
    events = [json.loads(line) for line in worker.lines if line.startswith("{")]
    return [(event["event"], event.get("query")) for event in events if event.get("logger") == "agent"]


@pytest.mark.parametrize("command", [("-m", "trio_worker", "run"), HYPERCORN], ids=["run", "hypercorn"])
async def test_a_worker(command: Sequence[str], tmp_path: Path) -> None:
    """Both ways; the operator's log has the records as well, and stdout has nothing."""
    webbuddy = WebBuddy()
    query = webbuddy.add_query("x")
    async with serve_webbuddy(webbuddy) as url:
        settings = {"WORKER_CAPTURE": "print", **SECRET}
        async with start_worker(
            tmp_path, webbuddy_url=url, command=command, handler=AGENT, **settings
        ) as worker:
            with trio.fail_after(TOO_LONG):
                await webbuddy.until(webbuddy.all_ended)
            await worker.until(lambda line: '"query done"' in line)
    assert (query.answer_text, said(query)) == ("answer", LINES)
    assert operators(worker) == [("x logs", 1), ("fetched", 1)]
    assert "x prints" not in worker.output


async def test_a_worker_with_processes(tmp_path: Path) -> None:
    """The setting gets there."""
    webbuddy = WebBuddy()
    query = webbuddy.add_query("x")
    settings = {"WORKER_CAPTURE": "print", "WORKER_HANDLER": "process:agent:plain", **SECRET}
    async with (
        serve_webbuddy(webbuddy) as url,
        start_worker(tmp_path, webbuddy_url=url, handler=AGENT, **settings),
    ):
        with trio.fail_after(TOO_LONG):
            await webbuddy.until(webbuddy.all_ended)
    assert (query.answer_text, said(query)) == ("answer", PLAIN_LINES)


@pytest.mark.parametrize("handler", ["agent:handle", "agent:plain", "process:agent:plain"])
async def test_a_made_up_query(handler: str, tmp_path: Path) -> None:
    """Its log is on stderr, with what was captured; its answer alone is on stdout."""
    (tmp_path / "agent.py").write_text(AGENT)
    settings = {"WORKER_CAPTURE": "print", "WORKER_HANDLER": handler, **SECRET}
    ended = await run_command(tmp_path, "once", "--query", "x", webbuddy_url="", **settings)
    assert (ended.code, ended.out) == (0, "answer\n"), ended.err
    for line in PLAIN_LINES:
        assert line in ended.err


async def test_once(tmp_path: Path) -> None:
    """The log of the query has all that `run` would bring there, though the command's own says less."""
    (tmp_path / "agent.py").write_text(AGENT)
    webbuddy = WebBuddy()
    query = webbuddy.add_query("x")
    async with serve_webbuddy(webbuddy) as url:
        settings = {"WORKER_CAPTURE": "print", "WORKER_HANDLER": "agent:plain", **SECRET}
        ended = await run_command(tmp_path, "once", webbuddy_url=url, WORKER_USERNAME="worker", **settings)
    assert (ended.code, ended.out) == (0, ""), ended.err
    assert "x logs" not in ended.err
    assert said(query) == PLAIN_LINES
