"""Handlers in processes of their own: what they may do there, and how each of their ends is told."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import traceback
import tracemalloc
from collections.abc import MutableMapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.pools import TOO_LONG, Agent, NoteBook, group, open_agent, pool_processes, until
from trio_worker.errors import HandlerCrashed, HandlerError, QueryFailed, RetryLater, Unavailable
from trio_worker.handlers.frames import MOST_ANSWER, MOST_LOGGED, MOST_TEXT, FrameError
from trio_worker.handlers.pool import RemoteError, open_pool
from trio_worker.masks import masks
from trio_worker.phrases import ENGLISH
from trio_worker.project import Project

# --- ctx ---------------------------------------------------------------------------------------------


async def test_everything_of_ctx_works_there(tmp_path: Path) -> None:
    """Told, kept, asked for: each reaches the worker's own context."""
    code = """
from trio_worker import PlainContext, Query
def handle(query: Query, ctx: PlainContext) -> str:
    ctx.log("first"); ctx.log(5)
    before = ctx.deadline
    after = ctx.extend(60)
    assert (after - before).total_seconds() == 60 and ctx.deadline == after and after.tzinfo
    ctx.save({"page": 2, "ж": [1.5, None]})
    assert ctx.saved == {"page": 2, "ж": [1.5, None]}
    project = ctx.project()
    return f"{query.id} {query.query_text} {ctx.attempt} {project.name} {project.jira_token}"
"""
    async with open_agent(tmp_path, code) as agent:
        agent.book.answer = lambda: Project(id=3, name="shop", jira_token="t0ken")
        assert await agent.ask("Ж\ud83d", attempt=4) == "7 Ж\ud83d 4 shop t0ken"
        assert agent.book.lines == ["first", "5"]
        assert [json.loads(data) for data in agent.book.saves] == [{"page": 2, "ж": [1.5, None]}]
        assert agent.book.at == datetime(2030, 1, 1, 0, 1, tzinfo=UTC)


async def test_what_was_saved_is_there_in_the_next_attempt(tmp_path: Path) -> None:
    """As JSON gives it; a project that WebBuddy does not show is None."""
    async with open_agent(tmp_path, "def handle(q, ctx): return repr((ctx.saved, ctx.project()))") as agent:
        assert await agent.ask(saved='{"page":2}') == "({'page': 2}, None)"
        assert await agent.ask() == "(None, None)"


async def test_ctx_may_be_used_from_any_thread(tmp_path: Path) -> None:
    """Lines do not run into each other, and each question gets its own answer."""
    code = """
from concurrent.futures import ThreadPoolExecutor
def work(n, ctx):
    for i in range(50): ctx.log(f"{n} " + "x" * 60000)
    name = ctx.project().name
    return ctx.extend(1) and name
def handle(query, ctx):
    with ThreadPoolExecutor(8) as threads:
        return " ".join(threads.map(lambda n: work(n, ctx), range(8)))
"""
    async with open_agent(tmp_path, code) as agent:
        agent.book.stall = 0.2  # the pipe is full: they wait in the middle of their messages
        agent.book.answer = lambda: Project(id=3, name="shop")
        assert await agent.ask() == " ".join(["shop"] * 8)
        assert sorted(agent.book.lines) == sorted(f"{n} " + "x" * 60000 for n in range(8) for _ in range(50))
        assert agent.book.at == datetime(2030, 1, 1, 0, 0, 8, tzinfo=UTC)


async def test_errors_of_the_worker_are_raised_there(tmp_path: Path) -> None:
    """Ours as what they are, with their status; what is wrong with an argument as a ValueError."""
    code = """
from trio_worker.errors import Unavailable
def attempt(function, *arguments):
    try: return function(*arguments)
    except Exception as error: return f"{type(error).__name__}: {error} {getattr(error, 'status', '')}"
def handle(query, ctx):
    found = [attempt(ctx.project), attempt(ctx.save, float("nan")), attempt(ctx.save, "x" * 70000)]
    return "\\n".join([*found, *(attempt(ctx.extend, n) for n in (-1, float("nan"), "5", True))])
"""

    def answer() -> Project:
        raise Unavailable("no answer", status=503)

    async with open_agent(tmp_path, code) as agent:
        agent.book.answer = answer
        project, nan, much, *extends = (await agent.ask()).split("\n")
        assert project == "Unavailable: no answer 503"
        assert nan.startswith("ValueError")
        assert much.startswith("ValueError: ctx.save: 70002 bytes")
        assert [text.split(": ")[0] for text in extends] == ["ValueError"] * 4
        agent.book.answer = lambda: {}["no such key"]
        assert (await agent.ask()).startswith("RuntimeError: KeyError: 'no such key'")


async def test_a_query_that_has_ended_takes_nothing_more(tmp_path: Path) -> None:
    """A thread that outlives its query says nothing to the next one, and waits for no answer any longer."""
    code = """
import threading
threads = []; kept = []; found = []
def handle(query, ctx):
    if query.query_text == "first":
        kept.append(ctx)
        threads.append(threading.Thread(target=lambda: found.append(ctx.project())))
        threads[0].start()
        ctx.log("waits")
        return "done"
    old = kept[0]
    old.log("a ghost"); old.save(1); late = old.extend(5)
    threads[0].join(10)
    return repr((found, old.project(), late == old.deadline, threads[0].is_alive()))
"""
    async with open_agent(tmp_path, code) as agent:
        first = agent.book
        first.hold()
        assert await agent.ask("first") == "done"
        second = agent.book = NoteBook()
        assert await agent.ask("second") == "([None], None, True, False)"
        assert first.lines == ["waits"]
        assert (second.lines, second.saves) == ([], [])
        assert second.at == first.at == NoteBook().at


async def test_a_fork_of_the_process_says_nothing(tmp_path: Path) -> None:
    """What multiprocessing starts there does not write into our pipe, and obeys SIGTERM."""
    code = """
import multiprocessing, os
def work(ctx):
    ctx.log("a ghost"); ctx.save(1)
    if ctx.project() is None: os.kill(os.getpid(), 15)
def handle(query, ctx):
    process = multiprocessing.get_context("fork").Process(target=work, args=(ctx,))
    process.start(); process.join(10)
    ctx.log("mine")
    return str(process.exitcode)
"""
    async with open_agent(tmp_path, code) as agent:
        agent.book.answer = lambda: Project(id=3)
        assert await agent.ask() == "-15"
        assert agent.book.lines == ["mine"]


async def test_what_it_prints_goes_to_our_stderr(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not into the pipe, and not to be read from our stdin either. At once, though it is no terminal."""
    code = """
import os, sys, signal
def handle(query, ctx):
    print("printed")
    if query.query_text: os.kill(os.getpid(), signal.SIGKILL)
    os.write(1, b"written\\n")
    return repr(sys.stdin.read())
"""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    (tmp_path / "typed").write_text("typed")
    ours, typed = os.dup(0), os.open(tmp_path / "typed", os.O_RDONLY)
    os.dup2(typed, 0)
    try:
        async with open_agent(tmp_path, code) as agent:
            assert await agent.ask() == "''"
            with pytest.raises(HandlerCrashed):
                await agent.ask("die")
    finally:
        os.dup2(ours, 0)
        os.close(ours)
        os.close(typed)
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "printed\nwritten\nprinted\n")


async def test_it_has_neither_our_secrets_nor_our_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The password is not in its environment; what it starts has no pipe of ours; nor has its neighbour."""
    code = """
import os, subprocess
def handle(query, ctx):
    own = [os.readlink(f"/proc/self/fd/{n}") for n in map(int, os.listdir("/proc/self/fd")) if n > 2
           and os.path.lexists(f"/proc/self/fd/{n}")]
    theirs = subprocess.run(["ls", "-l", "/proc/self/fd"], close_fds=False, capture_output=True, text=True)
    ctx.log("ready")
    ctx.project()
    return repr((sorted(own), theirs.stdout.count("socket:"), os.environ.get("WORKER_PASSWORD")))
"""
    monkeypatch.setenv("WORKER_PASSWORD", "s3cret")
    async with open_agent(tmp_path, code, most=2) as agent, trio.open_nursery() as nursery:
        agent.book.hold()
        found: list[Any] = []

        async def ask() -> None:
            found.append(eval(await agent.ask()))  # noqa: S307 - what the handler above has answered

        nursery.start_soon(ask)
        nursery.start_soon(ask)
        await agent.until_logged(2)
        agent.book.held.set()
        await until(lambda: len(found) == 2)
    for own, sockets_below, password in found:
        assert [name.split(":")[0] for name in own] == ["pipe", "socket"]
        assert (sockets_below, password) == (0, None)
    assert not {*found[0][0]} & {*found[1][0]}


async def test_it_starts_without_what_only_the_worker_needs() -> None:
    """Each of the two costs a tenth of a second, and memory in every process."""
    looked = "import sys, trio_worker.handlers.pool_child; print(*{'trio', 'httpx'} & {*sys.modules})"
    result = await trio.run_process([sys.executable, "-c", looked], capture_stdout=True)
    assert result.stdout == b"\n"


# --- How a query ends --------------------------------------------------------------------------------


async def test_an_answer_of_the_wrong_type_shows_its_type(tmp_path: Path) -> None:
    """So that the worker can say what it was, as it does for every handler."""
    code = """
async def late(): return "x"
class Thing: pass
things = {"int": 5, "dict": {"a": 1}, "bytes": b"x", "Thing": Thing(), "coroutine": None}
def handle(query, ctx):
    return late() if query.query_text == "coroutine" else things.get(query.query_text)
"""
    async with open_agent(tmp_path, code) as agent:
        for name in ("int", "dict", "bytes", "Thing", "coroutine"):
            answer = await agent.ask(name)
            assert type(answer).__name__ == name
            assert not isinstance(answer, str)
        assert await agent.ask("nothing") is None


async def test_what_it_raises_is_raised_here(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What it says to the author as it is, also from within a group; all else with its name and traceback."""
    code = """
import sys
from trio_worker import QueryFailed, RetryLater
class Nameless(QueryFailed):
    def __init__(self): Exception.__init__(self, "no reason attribute")
class Broken(Exception):
    def __str__(self): raise RuntimeError("in __str__")
def handle(query, ctx):
    exec(query.query_text)
"""
    async with open_agent(tmp_path, code) as agent:
        with pytest.raises(QueryFailed, match=r"^no such page\nЖ$"):
            await agent.ask("raise QueryFailed('no such page\\nЖ')")
        with pytest.raises(QueryFailed, match=r"^no reason attribute$"):
            await agent.ask("raise Nameless()")
        with pytest.raises(QueryFailed, match=r"^inner$"):
            await agent.ask("raise ExceptionGroup('group', [QueryFailed('inner')])")
        with pytest.raises(RetryLater) as later:
            await agent.ask("raise RetryLater(90, 'busy')")
        assert (later.value.seconds, later.value.reason) == (90, "busy")
        for statement, name, text in [
            ("1/0", "ZeroDivisionError", "division by zero"),
            ("sys.exit(3)", "SystemExit", "3"),
            ("raise KeyboardInterrupt", "KeyboardInterrupt", ""),
            ("raise RetryLater('soon')", "ValueError", "RetryLater: seconds is 'soon', expected 0 or more"),
            ("raise RetryLater(10**5000)", "OverflowError", "int too large to convert to float"),
            ("raise Broken", "RuntimeError", "in __str__"),
        ]:
            with pytest.raises(RemoteError) as raised:
                await agent.ask(statement)
            assert (type(raised.value).__name__, raised.value.args[0]) == (name, text)
            shown = "".join(traceback.format_exception(raised.value))
            assert "agent.py" in shown
            assert len(pool_processes()) == 1  # the same one, alive
    assert capfd.readouterr().err == ""


async def test_what_is_too_large_is_told(tmp_path: Path) -> None:
    """Bounded memory on both sides; the process lives on."""
    async with open_agent(tmp_path, "def handle(query, ctx): return 'x' * int(query.query_text)") as agent:
        (pid,) = pool_processes()
        assert await agent.ask("2600000") == "x" * 2_600_000
        assert agent.book.lines == []
        answer = await agent.ask("10000000")
        assert not answer.strip("x")
        assert 2_600_000 < len(answer) <= MOST_ANSWER
        assert agent.book.lines == [
            f"the answer has 10000000 characters, of which the first {MOST_ANSWER} were kept"
        ]
        tracemalloc.start()
        try:
            assert len(await agent.ask("100000000")) <= MOST_ANSWER
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 5 * MOST_ANSWER
        with pytest.raises(FrameError, match=r"^17\d* bytes of JSON, expected"):
            await agent.ask("0" * 17_000_000)
        assert await agent.ask("1") == "x"
        assert pool_processes() == [pid]


SECRET = "hunter2-the-secret"


def shown(agent: Agent, end: Any) -> str:
    return "\n".join([*agent.book.lines, getattr(end, "reason", str(end)), *getattr(end, "__notes__", [])])


@pytest.mark.parametrize(
    "statement",
    [
        f"ctx.log('x' + '{SECRET}' * {MOST_LOGGED})",
        f"return 'x' + '{SECRET}' * {MOST_ANSWER // 17}",
        f"raise QueryFailed('x' + '{SECRET}' * {MOST_ANSWER // 17})",
        f"raise RetryLater(1, '{SECRET}' * {MOST_TEXT} + 'x')",
        f"raise ValueError('{SECRET}' * {MOST_TEXT} + 'x')",
    ],
)
async def test_no_half_secret_where_a_process_cuts(tmp_path: Path, statement: str) -> None:
    """Only the worker knows the secrets; so it does without the place of the cut."""
    code = f"from trio_worker import QueryFailed, RetryLater\ndef handle(query, ctx):\n    {statement}"
    masks.know("test", SECRET)
    try:
        async with open_agent(tmp_path, code) as agent:
            try:
                end = await agent.ask()
            except (QueryFailed, RetryLater, RemoteError) as error:
                end = error
            text = masks.hide(shown(agent, end))
    finally:
        masks.forget("test")
    assert text.count("[MASKED]") > 3000
    assert not [start for start in range(len(SECRET) - 3) if SECRET[start : start + 4] in text]


@pytest.mark.parametrize(
    ("statement", "phrase", "how"),
    [
        ("os._exit(3)", "exit_status", "exit status 3"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "process_died", "SIGSEGV"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "process_killed", r"SIGKILL \(out of memory\?\)"),
        ("os.kill(os.getpid(), 40)", "process_died", "signal 40"),
        ("os.closerange(3, 99)", "exit_status", "exit status 1"),
        ("shut(); time.sleep(60)", "process_died", "it has closed its connection to the worker"),
        ("scribble(b'oops')", "process_died", "it has sent what can't be read: a message of 1869574259 .*"),
        ("scribble(pack({'run': 1}))", "process_died", "it has sent what can't be read: a message with run"),
        ("scribble(pack({'run': 1, 'save': 'oops'}))", "process_died", "it has sent what can't be read: .*"),
    ],
)
async def test_its_death_fails_its_query(
    tmp_path: Path, statement: str, phrase: str, how: str, events: list[MutableMapping[str, Any]]
) -> None:
    """In one sentence; what it had logged before is there; what it had started goes too; the next works."""
    code = """
import os, signal, socket, subprocess, time
from trio_worker.handlers.frames import pack
def shut():
    for n in range(3, 99):
        try: socket.socket(fileno=n).shutdown(socket.SHUT_WR)
        except OSError: pass
def scribble(data):
    for n in range(3, 99):
        try:
            if os.readlink(f"/proc/self/fd/{n}").startswith("socket"): os.write(n, data)
        except OSError: pass
    time.sleep(60)
def handle(query, ctx):
    if not query.query_text: return "fine"
    subprocess.Popen(["sleep", "1000"])
    for _ in range(200): ctx.log("before")
    exec(query.query_text)
"""
    # Who has lost its connection without having closed it has more time to end than a busy machine takes.
    end_within = 0.5 if "shut" in statement else 2 * TOO_LONG
    async with open_agent(tmp_path, code, end_within=end_within) as agent:
        (pid,) = pool_processes()
        with pytest.raises(HandlerCrashed) as crash:
            await agent.ask(statement)
        getattr(ENGLISH, phrase).format(**crash.value.values)
        assert crash.value.phrase == phrase
        assert agent.book.lines == ["before"] * 200
        await until(lambda: not group(pid))
        assert await agent.ask() == "fine"
        assert pid not in pool_processes()
    (event,) = [event for event in events if event["log_level"] != "debug"]
    assert event["event"] == "the handler's process died"
    assert re.fullmatch(how, event["how"])


async def test_what_it_said_before_its_death_is_read(tmp_path: Path) -> None:
    """All of it, also when the event loop sees the death first."""
    code = """
import os
def handle(query, ctx):
    for _ in range(50): ctx.log("x" * 2000)
    os._exit(1)
"""
    async with open_agent(tmp_path, code) as agent:
        agent.book.stall = 0.3
        with pytest.raises(HandlerCrashed):
            await agent.ask()
        assert len(agent.book.lines) == 50


async def test_what_it_said_before_its_death_is_read_in_any_time(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    """An answer, too, though each line takes a busy machine a second."""
    code = """
import os
def handle(query, ctx):
    ctx.log("first")
    for _ in range(4): ctx.log("x" * 42000)
    ctx._desk._line.send({"run": ctx._desk.run, "end": {"answer": "answer", "size": 6}})
    os._exit(1)
"""

    class Slow(NoteBook):
        def log(self, text: str) -> None:
            super().log(text)
            mock_clock.jump(1)

    mock_clock.rate = 1
    async with open_agent(tmp_path, code) as agent:
        for _ in range(4):  # what the loop comes to first is chance
            agent.book = Slow(stall=0.3)
            assert await agent.ask() == "answer"
            assert len(agent.book.lines) == 5


async def test_a_message_of_another_query_is_not_taken(tmp_path: Path) -> None:
    """A thread may send it in the very moment in which its query ends."""
    code = """
import os
from trio_worker.handlers.frames import pack
def handle(query, ctx):
    ctx._desk._line.send({"run": 99, "log": "a ghost"})
    ctx._desk._line.send({"run": 99, "end": {"answer": "a ghost"}})
    return "fine"
"""
    async with open_agent(tmp_path, code) as agent:
        assert await agent.ask() == "fine"
        assert agent.book.lines == []


async def test_an_answer_is_kept_though_its_process_dies(tmp_path: Path) -> None:
    """What it sent before its end counts, also when the event loop sees the death first."""
    code = """
import os
def handle(query, ctx):
    ctx.log("last words")
    ctx._desk._line.send({"run": ctx._desk.run, "end": {"answer": "answer", "size": 6}})
    os._exit(1)
"""
    async with open_agent(tmp_path, code) as agent:
        for _ in range(3):
            agent.book.stall = 0.3
            assert await agent.ask() == "answer"


# --- Stopping it -------------------------------------------------------------------------------------

STUBBORN = """
import re, signal, subprocess, time
def handle(query, ctx):
    if not query.query_text: return "fine"
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP): signal.signal(number, signal.SIG_IGN)
    subprocess.Popen(["sh", "-c", "trap '' TERM INT HUP; sleep 1000 & wait"])
    ctx.log("at work")
    exec(query.query_text)
"""
LOOPS = {
    "python": "while True:\n    try: time.sleep(1000)\n    except BaseException: pass",
    "holds the interpreter": "re.match('(a+)+$', 'a' * 60 + 'b')",
}


@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
async def test_what_ignores_everything_is_killed(tmp_path: Path, loop: str) -> None:
    """It has no time to end by itself: it is gone, and its children, and the next query is answered."""
    async with open_agent(tmp_path, STUBBORN, end_within=2 * TOO_LONG) as agent:
        (pid,) = pool_processes()
        with trio.fail_after(TOO_LONG):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(agent.ask, loop)
                await agent.until_logged()
                assert len(group(pid)) >= 2
                nursery.cancel_scope.cancel()
        assert pid not in pool_processes()
        await until(lambda: not group(pid))
        assert await agent.ask() == "fine"


async def test_what_it_has_started_in_other_groups_is_killed(tmp_path: Path) -> None:
    """`timeout` makes one for what it runs."""
    code = """
import subprocess
def handle(query, ctx):
    program = subprocess.Popen(["timeout", "1000", "sh", "-c", "echo; exec sleep 1000"], stdout=-1)
    program.stdout.readline()
    ctx.log(program.pid)
    program.wait()
"""
    async with open_agent(tmp_path, code) as agent:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(agent.ask)
            (program,) = await agent.until_logged()
            assert len(group(int(program))) == 2
            nursery.cancel_scope.cancel()
        await until(lambda: not group(int(program)))


async def test_a_killed_process_has_its_successor_at_once(tmp_path: Path) -> None:
    """Before the next query: that does not have to wait for the import."""
    async with open_agent(tmp_path, STUBBORN) as agent:
        (pid,) = pool_processes()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(agent.ask, LOOPS["python"])
            await agent.until_logged()
            nursery.cancel_scope.cancel()
        await until(lambda: pool_processes() and pid not in pool_processes())


async def test_sigterm_is_the_workers(tmp_path: Path) -> None:
    """Systemd sends it to all processes of a service: the query is seen through. What it starts obeys it."""
    code = """
import os, signal, subprocess
def handle(query, ctx):
    os.kill(os.getpid(), signal.SIGTERM)
    program = subprocess.Popen(["sleep", "1000"]); program.terminate()
    return str(program.wait(10))
"""
    async with open_agent(tmp_path, code) as agent:
        assert await agent.ask() == "-15"


async def test_the_pool_ends_whatever_its_processes_do(tmp_path: Path) -> None:
    """A thread that does not end has some time for it. `open_agent` looks what is left."""
    code = """
import threading, time
def handle(query, ctx):
    threading.Thread(target=time.sleep, args=(1000,)).start()
    return "fine"
"""
    with trio.fail_after(TOO_LONG):
        async with open_agent(tmp_path, code, end_within=0.5) as agent:
            assert await agent.ask() == "fine"
            (pid,) = pool_processes()
            began = trio.current_time()
        assert trio.current_time() - began >= 0.5
    assert not group(pid)


async def test_an_idle_pool_ends_by_itself(tmp_path: Path) -> None:
    """What is registered for its end is called, and then nobody waits any longer."""
    with trio.fail_after(TOO_LONG):
        async with open_agent(tmp_path, WHO, end_within=2 * TOO_LONG) as agent:
            answer = await agent.ask()
    assert (tmp_path / f"ended {answer}").exists()


async def test_a_call_at_work_does_not_keep_the_pool(tmp_path: Path) -> None:
    """When everything is cancelled at once, nothing is left, and nothing waits."""
    with trio.fail_after(TOO_LONG), trio.CancelScope() as scope:
        async with (
            open_agent(tmp_path, STUBBORN, most=3, end_within=2 * TOO_LONG) as agent,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(agent.ask, LOOPS["python"])
            nursery.start_soon(agent.ask, LOOPS["python"])
            nursery.start_soon(agent.ask, LOOPS["python"])
            await agent.until_logged(3)
            scope.cancel()


ORPHANS = """
import structlog, sys, trio
from pathlib import Path
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
from tests.pools import open_agent
async def main():
    async with open_agent(Path(sys.argv[1]), Path(sys.argv[1], "code").read_text()) as agent:
        async with trio.open_nursery() as nursery:
            if sys.argv[2]: nursery.start_soon(agent.ask, sys.argv[2])
            if sys.argv[2]: await agent.until_logged()
            sys.stdout.write("ready\\n"); sys.stdout.flush()
            await trio.sleep_forever()
trio.run(main)
"""


@pytest.mark.parametrize("loop", [*LOOPS.values(), ""], ids=[*LOOPS, "idle"])
async def test_it_does_not_outlive_the_worker(tmp_path: Path, loop: str) -> None:
    """Killed, the worker can end nobody; its processes end by themselves, with what they started."""
    (tmp_path / "code").write_text(STUBBORN)
    command = [sys.executable, "-c", ORPHANS, str(tmp_path), loop]
    root = Path(__file__).parent.parent
    worker = await trio.lowlevel.open_process(command, stdout=-1, cwd=root)
    assert worker.stdout is not None
    try:
        async with worker.stdout:
            with trio.fail_after(TOO_LONG):
                assert await worker.stdout.receive_some() == b"ready\n"
            (pid,) = pool_processes(worker.pid)
            assert group(pid)
    finally:
        worker.kill()
        with trio.move_on_after(TOO_LONG, shield=True):
            await worker.wait()
    await until(lambda: not group(pid))


# --- Which process, and when -------------------------------------------------------------------------

WHO = """
import atexit, os, pathlib
atexit.register(lambda: pathlib.Path(__file__).with_name(f"ended {os.getpid()}").touch())
def handle(query, ctx): return str(os.getpid())
"""


async def test_a_process_is_replaced_after_its_queries(tmp_path: Path) -> None:
    """Gently: it ends by itself, and what it has registered for its end is called."""
    async with open_agent(tmp_path, WHO, recycle_after=3, end_within=2 * TOO_LONG) as agent:
        answers = [await agent.ask() for _ in range(7)]
        assert [answers.count(pid) for pid in dict.fromkeys(answers)] == [3, 3, 1]
        assert (tmp_path / f"ended {answers[0]}").exists()


async def test_a_process_that_does_not_end_when_replaced_is_killed(tmp_path: Path) -> None:
    """After its time for that; the next query waits that long where there is no other process."""
    code = """
import os, threading, time
def handle(query, ctx):
    threading.Thread(target=time.sleep, args=(1000,)).start()
    return str(os.getpid())
"""
    async with open_agent(tmp_path, code, recycle_after=1, end_within=0.5) as agent:
        first = int(await agent.ask())
        assert int(await agent.ask()) != first
        assert not group(first)


async def test_a_death_between_two_queries_costs_nothing(
    tmp_path: Path, events: list[MutableMapping[str, Any]]
) -> None:
    """It is replaced; a line in the log is all."""
    async with open_agent(tmp_path, WHO) as agent:
        first = int(await agent.ask())
        os.kill(first, signal.SIGKILL)
        await until(lambda: any("between two queries" in event["event"] for event in events))
        await until(lambda: [pid for pid in pool_processes() if pid != first])
        assert int(await agent.ask()) in pool_processes()


async def test_a_process_that_never_worked_is_not_replaced_unasked(
    tmp_path: Path, events: list[MutableMapping[str, Any]]
) -> None:
    """A module that ends its process a second after the import must not start thousands."""
    async with open_agent(tmp_path, WHO) as agent:
        (first,) = pool_processes()
        os.kill(first, signal.SIGKILL)
        await until(lambda: any("between two queries" in event["event"] for event in events))
        assert not pool_processes()
        assert int(await agent.ask()) != first


async def test_a_query_that_was_not_looked_at_is_tried_elsewhere(
    tmp_path: Path, events: list[MutableMapping[str, Any]]
) -> None:
    """The process died with the query in its pipe: that is not the query's fault."""
    async with open_agent(tmp_path, WHO) as agent, trio.open_nursery() as nursery:
        (first,) = pool_processes()
        os.kill(first, signal.SIGSTOP)
        answers: list[str] = []

        async def ask() -> None:
            answers.append(await agent.ask())

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked(0.05)
        os.kill(first, signal.SIGKILL)
        await until(lambda: answers)
        assert int(answers[0]) != first
        assert any("died before a query" in event["event"] for event in events)


async def test_there_are_as_many_as_are_needed_and_no_more(tmp_path: Path) -> None:
    """One to begin with, up to `most` when queries come at once; the rest wait for their turn."""
    code = """
import os
def handle(query, ctx):
    ctx.log(os.getpid())
    ctx.project()
    return str(os.getpid())
"""
    async with open_agent(tmp_path, code, most=2) as agent:
        agent.book.hold()
        assert len(pool_processes()) == 1
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(agent.ask)
            await agent.until_logged(2)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert len(agent.book.lines) == len(pool_processes()) == 2
            agent.book.held.set()
        assert len(agent.book.lines) == 5
        assert len({*agent.book.lines}) == 2


# --- Bad input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "path", "problem"),
    [
        ("", "agnt:handle", "WORKER_HANDLER is 'process:agnt:handle': there is no module agnt.*mean agent"),
        ("def handel(q, c): 0", "agent:handle", "has no handle; did you mean handel"),
        ("handle = 5", "agent:handle", "that is not callable but an int"),
        ("def handle(q): 0", "agent:handle", r"that is handle\(q\); expected two arguments"),
        ("async def handle(q, c): 0", "agent:handle", "that is async; process: takes plain functions"),
        ("import no_such", "agent:handle", "agent .* imports no_such, which is not installed here"),
        ("1/0", "agent:handle", "importing agent raised ZeroDivisionError"),
        ("import sys; sys.exit(1)", "agent:handle", "importing agent raised SystemExit"),
        ("import os; os._exit(9)", "agent:handle", "died while it imported the handler: exit status 9"),
        ("import os; os.abort()", "agent:handle", "died while it imported the handler: SIGABRT"),
        ("while True: pass", "agent:handle", "has not imported the handler in 0.5 s"),
        (
            "import contextlib\n@contextlib.asynccontextmanager\nasync def handle():\n    yield",
            "agent:handle",
            "that opens a handler; process: takes plain functions",
        ),
    ],
)
async def test_a_handler_that_is_none_is_found_at_the_start(
    tmp_path: Path, code: str, path: str, problem: str
) -> None:
    """In the process's own words, which are the loader's; nothing is left of it."""
    (tmp_path / "agent.py").write_text(code)
    within = 0.5 if "while" in code else 30.0
    with pytest.raises(HandlerError, match=problem) as raised:
        async with open_pool(path, directory=tmp_path, most=2, start_within=within):
            pytest.fail("it has started")
    assert len(raised.value.problems) == 1
    assert not pool_processes()


async def test_no_process_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system gives none: a sentence as well."""
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(HandlerError, match=r"can't be started: .*No such file"):
        async with open_pool("agent:handle", directory=tmp_path, most=1):
            pytest.fail("it has started")


async def test_no_process_later_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The query is put aside; the pool works again when the system does."""
    async with open_agent(tmp_path, WHO, recycle_after=1) as agent:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", "/no/such/python")
            await agent.ask()
            with pytest.raises(RetryLater, match="no process for the handler can be started"):
                await agent.ask()
        await agent.ask()


async def test_a_handler_that_is_broken_later_on_fails_its_query(
    tmp_path: Path, events: list[MutableMapping[str, Any]]
) -> None:
    """Half of a deployment: the operator reads what is wrong; once it is mended, all is well."""
    async with open_agent(tmp_path, WHO, recycle_after=1) as agent:
        (tmp_path / "agent.py").write_text("1/0")
        await agent.ask()
        with pytest.raises(HandlerCrashed, match="not_started"):
            await agent.ask()
        (event,) = [event for event in events if event["log_level"] == "error"]
        assert "importing agent raised ZeroDivisionError" in event["error"]
        (tmp_path / "agent.py").write_text(WHO)
        await agent.ask()


async def test_the_deadline_may_come_while_a_process_starts(tmp_path: Path) -> None:
    """It is killed like any other."""
    async with open_agent(tmp_path, WHO, recycle_after=1) as agent:
        (tmp_path / "agent.py").write_text("while True: pass")
        await agent.ask()
        with trio.move_on_after(1) as scope:
            await agent.ask()
        assert scope.cancelled_caught


async def test_the_users_files_do_not_stand_in_our_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queue.py in the working directory: the handler's own, not ours."""
    (tmp_path / "queue.py").write_text("mine = 'their own'")
    monkeypatch.chdir(tmp_path)
    async with open_agent(tmp_path, "def handle(query, ctx): return 'fine'") as agent:
        assert await agent.ask() == "fine"
