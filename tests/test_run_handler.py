"""The fixture `run_handler`: every kind of handler, every way to end, and handlers that block the loop."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from trio_worker import Context, PlainContext, Project, Query, QueryFailed, RetryLater
from trio_worker.masks import MASK, masks
from trio_worker.testing import HandlerError, OpenWorker, RunHandler, WebBuddy
from trio_worker.testing.blocking import COMPUTES, WAITS, LoopBlocked
from trio_worker.testing.trial import try_handler

Failed = pytest.fail.Exception
TOKEN = "token-0123456789"

block = time.sleep  # by this name no linter finds it in an async function


async def shouts(query: Query, ctx: Context) -> str:
    ctx.log(f"reading {query.query_text}")
    await trio.lowlevel.checkpoint()
    return query.query_text.upper()


@asynccontextmanager
async def opened() -> AsyncIterator[Callable[..., Any]]:
    block(2 * WAITS)  # as a model that is loaded: nobody waits for the loop yet
    yield shouts


@asynccontextmanager
async def opened_plain() -> AsyncIterator[Callable[..., Any]]:
    yield sleeps


def sleeps(query: Query, ctx: PlainContext) -> str:
    time.sleep(2 * WAITS)
    ctx.log("awake")
    return "slept"


class Agent:
    async def __call__(self, query: Query, ctx: Context) -> str:
        return await shouts(query, ctx)


# --- Every kind, every way to end ----------------------------------------------------------------


@pytest.mark.parametrize("handler", [shouts, opened, Agent(), "tests.test_run_handler:shouts"])
def test_async_handlers(handler: Any, run_handler: RunHandler) -> None:
    """A function, what opens one, an object, and the text of WORKER_HANDLER."""
    result = run_handler(handler, "page")
    assert (result.status, result.kind, result.answer_text) == ("done", "answered", "PAGE")
    assert (result.logs, result.saved, result.retry_seconds) == (["reading page"], None, None)


def test_a_plain_function_may_block(run_handler: RunHandler) -> None:
    """It has a thread of its own."""
    result = run_handler(sleeps)
    assert (result.answer_text, result.logs) == ("slept", ["awake"])


def test_processes_and_programs(
    run_handler: RunHandler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found from the working directory; what they log and save is in the result."""
    (tmp_path / "in_a_process.py").write_text(
        "import os\n"
        "def handle(query, ctx):\n"
        "    ctx.log('here')\n"
        "    ctx.save(ctx.attempt)\n"
        "    return f'{query.project_name} {os.getpid()}'\n"
    )
    program = tmp_path / "agent.sh"
    program.write_text("#!/bin/sh\ncat >/dev/null\necho no such page >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    result = run_handler("process:in_a_process:handle", project_name="Shop", attempt=4)
    name, pid = result.answer_text.split()
    assert (name, result.logs, result.saved) == ("Shop", ["here"], 4)
    assert int(pid) != os.getpid()
    result = run_handler("command:./agent.sh")
    assert (result.status, result.kind, result.logs) == ("failed", "exit_status", ["no such page"])
    assert result.answer_text == "The agent ended with exit status 3.\nno such page"


def fails(query: Query, ctx: Context) -> None:
    raise ValueError("details")


def gives_up(query: Query, ctx: Context) -> None:
    raise QueryFailed("Which page?")


async def is_slow(query: Query, ctx: Context) -> None:
    await trio.sleep(1000)


def is_slow_in_a_thread(query: Query, ctx: Context) -> None:
    time.sleep(10)


async def swallows(query: Query, ctx: Context) -> None:
    with trio.CancelScope(shield=True):
        await trio.sleep(400)


@pytest.mark.parametrize(
    ("handler", "limit", "kind", "said"),
    [
        (fails, 300, "error", "The agent ended with an error (ValueError)."),
        (gives_up, 300, "said_so", "Which page?"),
        (lambda query, ctx: None, 300, "bad_answer", "The agent ended without an answer."),
        (is_slow, 0.05, "timeout", "The agent ran past its time limit of 0.05 s and was stopped."),
        (is_slow_in_a_thread, 0.05, "left_behind", "limit of 0.05 s and could not be stopped."),
    ],
)
def test_failures(handler: Any, limit: float, kind: str, said: str, run_handler: RunHandler) -> None:
    """Each is a result, by the worker's rules."""
    result = run_handler(handler, processing_timeout=limit)
    assert (result.status, result.kind) == ("failed", kind)
    assert said in result.answer_text


def test_retry_later_and_the_next_attempt(run_handler: RunHandler) -> None:
    """What the first has saved the second finds."""

    async def handle(query: Query, ctx: Context) -> str:
        if ctx.attempt == 1:
            ctx.save({"page": 7})
            raise RetryLater(30, "the site is down")
        return f"attempt {ctx.attempt}, page {ctx.saved['page']}"

    first = run_handler(handle)
    assert (first.status, first.kind, first.retry_seconds) == ("in_progress", "retry_later", 30)
    assert first.answer_text == "the site is down"
    second = run_handler(handle, attempt=2, saved=first.saved)
    assert (second.answer_text, second.saved) == ("attempt 2, page 7", {"page": 7})


def test_the_query_and_its_project(run_handler: RunHandler) -> None:
    """Fields as given, the others as a claim has them; the project's secrets are masked, then forgotten."""
    seen: list[Query] = []

    async def handle(query: Query, ctx: Context) -> str:
        seen.append(query)
        project = await ctx.project()
        assert project is not None
        ctx.log(f"using {project.jira_token}")
        return f"{project.context} {project.jira_token}"

    project = Project(id=5, context="a shop", jira_token=TOKEN)
    result = run_handler(handle, "x", id=77, user_name="ann", project_settings=project)
    assert (result.answer_text, result.logs) == (f"a shop {MASK}", [f"using {MASK}"])
    (query,) = seen
    assert (query.id, query.project, query.user_name, query.status) == (77, 5, "ann", "in_progress")
    assert query.query_started is not None
    assert masks.hide(TOKEN) == TOKEN


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"user_nam": "ann"}, TypeError, r"^run_handler has no option user_nam; did you mean user_name\?$"),
        ({"xyz": 1}, TypeError, "^run_handler has no option xyz$"),
        ({"query_text": "x", "handler": 1}, TypeError, "multiple values"),
        ({"capture": "all"}, ValueError, "^capture is 'all', expected 'off', 'logging', 'print'$"),
    ],
)
def test_no_such_option(
    options: dict[str, Any], error: type[Exception], said: str, run_handler: RunHandler
) -> None:
    """Said in the author's words, with the nearest name."""
    with pytest.raises(error, match=said):
        run_handler(shouts, **options)


def speaks(query: Query, ctx: PlainContext) -> str:
    logging.getLogger("agent").info("logged")
    print("printed")
    return "ok"


@pytest.mark.parametrize("handler", [speaks, "process:tests.test_run_handler:speaks"])
def test_capture(handler: Any, run_handler: RunHandler) -> None:
    """As by WORKER_CAPTURE, here and in a process of the pool."""
    assert run_handler(handler).logs == []
    assert run_handler(handler, capture="logging").logs == ["logged"]
    assert run_handler(handler, capture="print").logs == ["logged", "printed"]


def test_no_project(run_handler: RunHandler) -> None:
    """As at a WebBuddy that has no such call."""

    def handle(query: Query, ctx: PlainContext) -> str:
        return str(ctx.project())

    assert run_handler(handle).answer_text == "None"


def test_virtual_time(run_handler: RunHandler) -> None:
    """A thousand seconds, an extension, and what swallows its cancellation for a while; in no time."""

    async def extends(query: Query, ctx: Context) -> str:
        before = ctx.deadline
        await trio.sleep(250)
        after = ctx.extend(1000)
        await trio.sleep(900)
        return str(round((after - before).total_seconds()))

    began = time.monotonic()
    assert run_handler(is_slow, virtual_time=True).kind == "timeout"
    assert run_handler(extends, virtual_time=True).answer_text == "1000"
    assert run_handler(extends, virtual_time=True, max_processing_time=400).kind == "timeout"
    assert run_handler(swallows, virtual_time=True).kind == "left_behind"
    assert time.monotonic() - began < 100  # of 1300 s and more


@pytest.mark.parametrize(
    "handler", [sleeps, opened_plain, "process:tests.test_run_handler:sleeps", "command:cat"]
)
def test_virtual_time_does_not_wait_for_threads(handler: Any, run_handler: RunHandler) -> None:
    """Their time limit would be over at once: said before."""
    with pytest.raises(ValueError, match="virtual time does not wait for those"):
        run_handler(handler, virtual_time=True)


async def test_in_an_async_test(run_handler: RunHandler, autojump_clock: MockClock) -> None:
    """`here`, in the test's own time; the other form says so."""
    with pytest.raises(RuntimeError, match=r"await run_handler\.here"):
        run_handler(shouts)
    assert (await run_handler.here(shouts, "page")).answer_text == "PAGE"
    assert (await run_handler.here(is_slow)).kind == "timeout"
    assert trio.current_time() == 300


async def test_cancelled(run_handler: RunHandler) -> None:
    """The handler is cancelled, and gone."""
    cleaned_up = False

    async def handle(query: Query, ctx: Context) -> None:
        nonlocal cleaned_up
        try:
            await trio.sleep_forever()
        finally:
            cleaned_up = True

    with trio.move_on_after(0.05) as scope:
        await run_handler.here(handle)
    assert scope.cancelled_caught
    assert cleaned_up


def test_no_handler(run_handler: RunHandler) -> None:
    """In the worker's words, and no group around them."""

    @asynccontextmanager
    async def broken() -> AsyncIterator[Any]:
        raise OSError("no model")
        yield

    with pytest.raises(HandlerError, match="expected two arguments"):
        run_handler(lambda query: "x")
    with pytest.raises(HandlerError, match="did you mean shouts"):
        run_handler("tests.test_run_handler:shout")
    with pytest.raises(HandlerError, match="opening it raised OSError: no model"):
        run_handler(broken)


# --- Handlers that block -------------------------------------------------------------------------


def line_of(text: str) -> str:
    """Where a line of this file is, as it is named."""
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    (number,) = [number for number, line in enumerate(lines, 1) if line.strip().endswith(f"# {text}")]
    return f"{__file__}:{number} in "


async def waits(query: Query, ctx: Context) -> str:
    await trio.lowlevel.checkpoint()
    block(3600)  # it waits
    return "never"


async def computes(query: Query, ctx: Context) -> str:
    return str(any(False for _ in iter(int, 1)))  # it computes


async def tries_again_for_ever(query: Query, ctx: Context) -> str:
    while True:
        try:
            threading.Event().wait()  # it tries again
        except Exception:  # noqa: BLE001, S110
            pass


async def lets_a_child_wait(query: Query, ctx: Context) -> str:
    async def child() -> None:
        block(3600)  # the child waits

    async with trio.open_nursery() as nursery:
        nursery.start_soon(child)
        await trio.sleep_forever()
    return "never"


BLOCKING = [
    (waits, "waited", "it waits"),
    (computes, "computed", "it computes"),
    (tries_again_for_ever, "waited", "it tries again"),
    (lets_a_child_wait, "waited", "the child waits"),
]


@pytest.mark.parametrize(("handler", "how", "line"), BLOCKING)
def test_a_handler_that_blocks(handler: Any, how: str, line: str, run_handler: RunHandler) -> None:
    """The test fails in the middle of it, with the file and the line, though it would never end."""
    with pytest.raises(Failed, match=f"the handler blocks the event loop: it has {how} for") as failed:
        run_handler(handler)
    assert line_of(line) in str(failed.value)


async def test_blocking_in_virtual_time(run_handler: RunHandler, autojump_clock: MockClock) -> None:
    """What blocks takes real time."""
    with pytest.raises(Failed) as failed:
        await run_handler.here(tries_again_for_ever)
    assert line_of("it tries again") in str(failed.value)
    assert "inside" in str(failed.value)
    assert "threading.py" in str(failed.value)


async def test_the_tests_own_tasks_may_block(run_handler: RunHandler) -> None:
    """Only the handler is looked at."""
    working = trio.Event()

    async def handle(query: Query, ctx: Context) -> str:
        working.set()
        await blocked.wait()
        return "done"

    async def block_beside() -> None:
        await working.wait()
        block(2 * WAITS)
        blocked.set()

    blocked = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(block_beside)
        assert (await run_handler.here(handle)).answer_text == "done"


def test_a_debugger_is_no_block(run_handler: RunHandler) -> None:
    """Who has stopped in the handler to look at it is not interrupted, and the test goes on."""
    debugger: dict[str, Any] = {"__name__": "pdb", "time": time, "seconds": 2 * WAITS}
    exec("def interaction():\n    time.sleep(seconds)\n", debugger)  # noqa: S102

    async def handle(query: Query, ctx: Context) -> str:
        debugger["interaction"]()
        return "done"

    assert run_handler(handle).answer_text == "done"


def test_in_another_thread() -> None:
    """Where no signal comes, a block is found when it ends."""

    async def handle(query: Query, ctx: Context) -> str:
        block(2 * WAITS)
        return "done"

    problems: list[str] = []

    def run() -> None:
        try:
            trio.run(try_handler, handle, "")
        except LoopBlocked as blocked:
            problems.append(str(blocked))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert "it has waited for" in problems[0]
    assert f"{__file__}:{handle.__code__.co_firstlineno}, or what it calls" in problems[0]


@pytest.fixture
def busy() -> Iterator[None]:
    """One processor for this process and eight that never rest."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(8)]
    yield
    for other in others:
        other.kill()
        other.wait()
    os.sched_setaffinity(0, before)


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells how long a thread waits for a processor"
)
def test_a_busy_machine_is_no_block(busy: None, run_handler: RunHandler) -> None:
    """A step that takes long since others are at work, too: far longer than it may wait."""

    async def handle(query: Query, ctx: Context) -> str:
        began = time.monotonic(), time.thread_time()
        # At work for less than it may be, whatever the machine does, and at its end a long time has passed.
        while time.monotonic() - began[0] < 4 * WAITS and time.thread_time() - began[1] < COMPUTES / 2:
            pass
        return f"{time.monotonic() - began[0]:.2f}"

    result = run_handler(handle)
    assert result.status == "done"
    assert float(result.answer_text) > COMPUTES / 2


# --- The whole worker ----------------------------------------------------------------------------


async def test_open_worker(open_worker: OpenWorker, webbuddy: WebBuddy, autojump_clock: MockClock) -> None:
    """For this test's WebBuddy, in virtual time."""
    webbuddy.access_lifetime = 60
    before = webbuddy.now()
    async with open_worker(shouts) as worker:
        await trio.sleep(3600)
        query = await worker.ask("page")
    assert (query.answer_text, worker.webbuddy, query) == ("PAGE", webbuddy, webbuddy.queries[1])
    assert webbuddy.now() - before >= 3600


async def test_open_worker_with_a_path(open_worker: OpenWorker) -> None:
    """What WORKER_HANDLER may be."""
    async with open_worker("process:tests.test_run_handler:speaks", num_workers=1, capture="print") as worker:
        query = await worker.ask("x")
    assert query.answer_text == "ok"
    assert "printed" in " ".join(query.logs)
