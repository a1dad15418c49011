"""What a handler logs by `logging` and prints comes to its query's log and no other, where asked for."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import gc
import io
import logging
import re
import subprocess
import sys
import threading
import time
import tracemalloc
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, redirect_stdout
from functools import partial
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from trio_worker import Context, PlainContext, Query
from trio_worker.capture import MOST_BEGUN, Capture
from trio_worker.handlers.asyncio_loop import open_asyncio
from trio_worker.log_lines import HALF, MOST_LINE, SEPARATOR
from trio_worker.masks import MASK, masks
from trio_worker.phrases import ENGLISH
from trio_worker.query_log import MOST_ARRIVED, PATIENCE, Fresh, QueryLog
from trio_worker.testing import StoredQuery, open_worker

LIMIT = 30  # seconds, on the slowest machine
log = logging.getLogger("agent")


def said(query: StoredQuery) -> list[str]:
    """What a handler has said: the lines between ours."""
    lines = [line for entry in query.logs for line in entry.split(SEPARATOR)]
    texts = [re.sub(r"^\+[0-9.]+s ", "", line) for line in lines]
    return [text for text in texts if not text.startswith(("Claimed by", "Started,", "Done after", "Failed"))]


async def said_by(act: Callable[[], object], *, capture: str = "print", **settings: Any) -> list[str]:
    """Call a function in a handler; give what its query's log has of it."""

    async def handle(query: Query, ctx: Context) -> str:
        act()
        return "ok"

    with trio.fail_after(LIMIT):
        async with open_worker(handle, capture=capture, **settings) as worker:
            query = await worker.ask("x")
    assert query.status == "done"
    return said(query)


# --- From wherever the handler is ------------------------------------------------------------------------


def speak(name: str) -> None:
    log.info("%s logs", name)
    print(name, "prints")


def told(name: str) -> list[str]:
    return [f"{name} logs", f"{name} prints"]


async def test_an_async_handler_and_its_tasks(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """In order with `ctx.log`. Records are the operator's as before; what is printed is not."""

    async def later() -> None:
        await trio.sleep(1)
        speak("a task")

    async def handle(query: Query, ctx: Context) -> str:
        ctx.log("first")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(later)
            speak("the handler")
        ctx.log("last")
        return "ok"

    async with open_worker(handle, capture="print") as worker:
        query = await worker.ask("x")
    assert said(query) == ["first", *told("the handler"), *told("a task"), "last"]
    assert [record.getMessage() for record in caplog.records if record.name == "agent"] == [
        "the handler logs",
        "a task logs",
    ]
    assert capsys.readouterr() == ("", "")


async def test_a_plain_handler_and_threads_of_trios() -> None:
    """A plain handler is in one; an async one may start some."""

    def plain(query: Query, ctx: PlainContext) -> str:
        speak("a plain handler")
        return "ok"

    async def handle(query: Query, ctx: Context) -> str:
        await trio.to_thread.run_sync(speak, "a thread")
        return "ok"

    with trio.fail_after(LIMIT):
        async with open_worker(plain, capture="print") as worker:
            assert said(await worker.ask("x")) == told("a plain handler")
        async with open_worker(handle, capture="print") as worker:
            assert said(await worker.ask("x")) == told("a thread")


async def test_asyncio() -> None:
    """The loop is opened once, and serves many queries; each has its own lines. Its tasks', too."""

    async def answer(text: str) -> str:
        speak(text)
        task = asyncio.create_task(later(text))
        await task
        await asyncio.to_thread(speak, f"a thread of {text}")
        return "ok"

    async def later(text: str) -> None:
        speak(f"a task of {text}")

    @asynccontextmanager
    async def agent() -> AsyncIterator[Callable[[Query, Context], Awaitable[str]]]:
        async with open_asyncio() as loop:

            async def handle(query: Query, ctx: Context) -> str:
                return await loop.run(answer, query.query_text)

            yield handle

    with trio.fail_after(LIMIT):
        async with open_worker(agent, capture="print") as worker:
            for name in ("one", "two"):
                query = await worker.ask(name)
                assert said(query) == told(name) + told(f"a task of {name}") + told(f"a thread of {name}")


async def test_handlers_side_by_side(autojump_clock: MockClock) -> None:
    """Each line goes to the query whose handler wrote it; a line that one has begun is not the other's."""

    async def handle(query: Query, ctx: Context) -> str:
        for number in range(5):
            print(query.query_text, end="")
            await trio.sleep(1)
            print("", number)
            log.info("%s logs %s", query.query_text, number)
        return "ok"

    async with open_worker(handle, capture="print") as worker:
        queries = [worker.webbuddy.add_query(name) for name in ("a", "b", "c")]
        await worker.webbuddy.until(worker.webbuddy.all_ended)
    for query in queries:
        name = query.query_text
        assert said(query) == [line for n in range(5) for line in (f"{name} {n}", f"{name} logs {n}")]


async def test_plain_handlers_side_by_side() -> None:
    """The same with threads."""
    meeting = threading.Barrier(2)

    def handle(query: Query, ctx: PlainContext) -> str:
        for number in range(20):
            meeting.wait(LIMIT)
            print(query.query_text, "prints", number)
        return "ok"

    with trio.fail_after(LIMIT):
        async with open_worker(handle, capture="print") as worker:
            queries = [worker.webbuddy.add_query(name) for name in ("a", "b")]
            await worker.webbuddy.until(worker.webbuddy.all_ended)
    for query in queries:
        assert said(query) == [f"{query.query_text} prints {n}" for n in range(20)]


async def test_threads_of_one_handler() -> None:
    """`print` writes each of its words by itself: those of two threads do not run into one line."""

    async def handle(query: Query, ctx: Context) -> str:
        meeting = threading.Barrier(2)

        def work(name: str) -> None:
            print(name, end=" ")
            meeting.wait(LIMIT)
            print("prints")

        async with trio.open_nursery() as nursery:
            for name in ("a", "b"):
                nursery.start_soon(trio.to_thread.run_sync, work, name)
        return "ok"

    with trio.fail_after(LIMIT):
        async with open_worker(handle, capture="print") as worker:
            assert sorted(said(await worker.ask("x"))) == ["a prints", "b prints"]


async def test_a_thread_of_the_handlers_own(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has no context: its lines are the operator's alone, and so is what else runs in the process."""

    def act() -> None:
        thread = threading.Thread(target=speak, args=("a thread",))
        thread.start()
        thread.join()

    assert await said_by(act) == []
    assert "a thread logs" in caplog.messages
    assert capsys.readouterr().out == "a thread prints\n"


# --- The switch ------------------------------------------------------------------------------------------


async def test_off(autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]) -> None:
    """The default. Nothing is touched."""
    root = logging.getLogger()
    seen: list[object] = []

    def act() -> None:
        seen.extend((sys.stdout, *root.handlers, root.level))
        speak("the handler")

    before = [sys.stdout, *root.handlers, root.level]
    assert await said_by(act, capture="off") == []
    assert seen == before
    assert capsys.readouterr().out == "the handler prints\n"


async def test_logging_alone(autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]) -> None:
    """`sys.stdout` is not touched."""
    real, seen = sys.stdout, list[object]()
    assert await said_by(lambda: (seen.append(sys.stdout), speak("it")), capture="logging") == ["it logs"]
    assert seen == [real]
    assert capsys.readouterr().out == "it prints\n"


async def test_all_is_as_it_was_afterwards(autojump_clock: MockClock) -> None:
    """The root logger's handlers and level, and `sys.stdout`."""
    root = logging.getLogger()
    before = sys.stdout, root.handlers[:], root.level
    assert await said_by(lambda: speak("it"), log_level="debug") == told("it")
    assert (sys.stdout, root.handlers, root.level) == before


@pytest.mark.parametrize(
    ("level", "own", "captured"),
    [
        ("info", logging.NOTSET, ["info"]),
        ("info", logging.DEBUG, ["info"]),
        ("debug", logging.NOTSET, ["debug", "info"]),
        ("debug", logging.INFO, ["info"]),
        ("info", logging.ERROR, []),
        ("error", logging.DEBUG, []),
    ],
)
async def test_levels(level: str, own: int, captured: list[str], autojump_clock: MockClock) -> None:
    """Those of `WORKER_LOG_LEVEL`, and of a logger with a level of its own: what passes both."""
    logger = logging.getLogger("agent.levels")
    logger.setLevel(own)

    def act() -> None:
        logger.debug("debug")
        logger.info("info")

    try:
        assert await said_by(act, log_level=level) == captured
    finally:
        logger.setLevel(logging.NOTSET)


async def test_whose_lines_are_not_the_handlers(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The worker's own, the chatter of what it is built on, Python's warnings, what is kept from the root."""
    quiet = logging.getLogger("agent.quiet")
    httpx = logging.getLogger("httpx")

    def act() -> None:
        logging.getLogger("trio_worker.handlers.pool").error("our own")
        httpx.info("GET http://webbuddy/?secret")
        httpx.warning("a warning")
        logging.getLogger("httpxtra").info("another's")
        logging.captureWarnings(True)
        warnings.warn("deprecated", FutureWarning, stacklevel=1)
        quiet.info("kept")

    quiet.propagate, before = False, httpx.level
    httpx.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            assert await said_by(act) == ["WARNING: a warning", "another's"]
    finally:
        quiet.propagate = True
        httpx.setLevel(before)
        logging.captureWarnings(False)
    assert {"trio_worker.handlers.pool", "py.warnings"} <= {record.name for record in caplog.records}


async def test_two_workers_in_one_process(autojump_clock: MockClock) -> None:
    """Each takes what its own handlers say, once."""

    async def handle(query: Query, ctx: Context) -> str:
        speak(query.query_text)
        return "ok"

    async with (
        open_worker(handle, capture="print") as one,
        open_worker(handle, capture="print") as two,
    ):
        assert said(await one.ask("one")) == told("one")
        assert said(await two.ask("two")) == told("two")


# --- What the query's author reads -----------------------------------------------------------------------


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no")


def raising(error: BaseException, *notes: str) -> Callable[[], None]:
    def act() -> None:
        try:
            for note in notes:
                error.add_note(note)
            raise error
        except type(error):
            log.exception("no page")

    return act


@pytest.mark.parametrize(
    ("act", "line"),
    [
        (lambda: log.info("as %s as %d", "it", 1), "as it as 1"),
        (lambda: log.info("more", extra={"page": 2}), "more"),
        (lambda: log.info({"page": 2}), "{'page': 2}"),
        (lambda: log.warning("slow"), "WARNING: slow"),
        (lambda: log.error("down"), "ERROR: down"),
        (raising(OSError("no route\nto host")), "ERROR: no page: OSError: no route to host"),
        (raising(KeyError()), "ERROR: no page: KeyError"),
        (raising(ValueError("x"), "a note", "and another"), "ERROR: no page: ValueError: x"),
        (raising(ExceptionGroup("of a nursery", [ValueError("x")])), "ERROR: no page: ValueError: x"),
        (lambda: log.error("none", exc_info=True), "ERROR: none"),
    ],
)
async def test_a_record(act: Callable[[], None], line: str, autojump_clock: MockClock) -> None:
    """What is said, how bad it is if it is bad, and an exception's last line."""
    assert await said_by(act) == [line]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [(("%d pages", "five"), "%d pages"), (("page %s", Unprintable()), "page %s")],
)
async def test_a_record_that_can_not_be_written(
    arguments: tuple[Any, ...],
    line: str,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is shown as far as that goes, and nothing is raised into the handler."""
    # pytest's own handler raises; the operator's, like others, says what is wrong on stderr.
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.StreamHandler(sys.stderr)])
    assert await said_by(lambda: log.info(*arguments)) == [line]
    assert "Logging error" in capsys.readouterr().err
    assert await said_by(lambda: log.info(Unprintable())) == []


async def test_secrets(autojump_clock: MockClock) -> None:
    """Masked, also where they are printed in pieces."""
    masks.know("test", "hunter2-the-secret")

    def act() -> None:
        log.info("with %s", "hunter2-the-secret")
        print("hunter2-", end="")
        print("the-secret")
        print("hunter2-the-", end="")
        sys.stdout.write("secret")

    try:
        assert await said_by(act) == [f"with {MASK}", MASK, MASK]
    finally:
        masks.forget("test")


# --- print -----------------------------------------------------------------------------------------------


async def test_whole_lines(autojump_clock: MockClock) -> None:
    """What has no end waits for it, or for the handler's. A progress bar's carriage return is one."""

    def act() -> None:
        print("one", "two", sep="-")
        print("three", end=" ", flush=True)
        log.info("between")
        print()
        print("\n \n")
        print("10 %\r20 %\r", end="")
        sys.stdout.writelines(["a\nb", "c\nd"])

    assert await said_by(act) == ["one-two", "between", "three", "10 %", "20 %", "a", "bc", "d"]


async def test_a_line_without_an_end(autojump_clock: MockClock) -> None:
    """Its beginning is kept, and no more than that."""
    held: list[int] = []

    def act() -> None:
        tracemalloc.start()
        try:
            for _ in range(200):
                print("x" * 10_000, end="")
            held.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
        print()
        print("next")

    assert await said_by(act) == ["x" * MOST_LINE + "…", "next"]
    assert held[0] < 4 * MOST_BEGUN


async def test_everything_else_of_stdout(
    autojump_clock: MockClock, capfd: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    """Another file, stderr, bytes, what others ask of it, and who redirects it."""
    real, found = sys.stdout, io.StringIO()

    def act() -> None:
        print("to a file", file=found)
        print("to stderr", file=sys.stderr)
        with redirect_stdout(found):
            print("redirected")
        with pytest.raises(TypeError):
            sys.stdout.write(b"bytes")  # type: ignore[arg-type]
        sys.stdout.buffer.write(b"in bytes\n")
        sys.stdout.flush()
        assert sys.stdout.isatty() is real.isatty()
        assert sys.stdout.fileno() == real.fileno()
        assert (sys.stdout.encoding, sys.stdout.closed) == (real.encoding, False)
        print("captured")

    assert await said_by(act) == ["captured"]
    assert found.getvalue() == "to a file\nredirected\n"
    assert capfd.readouterr() == ("in bytes\n", "to stderr\n")


async def test_stdout_as_a_context_manager(autojump_clock: MockClock, monkeypatch: Any) -> None:
    """``with open(…) if path else sys.stdout as out`` is written now and then: it closes it, as ever."""
    real = io.StringIO()
    monkeypatch.setattr(sys, "stdout", real)

    def act() -> None:
        with sys.stdout as out:
            print("captured", file=out)

    assert await said_by(act) == ["captured"]
    assert real.closed


async def test_a_process_without_stdout(autojump_clock: MockClock, monkeypatch: Any) -> None:
    """Then `sys.stdout` is None; it is so again afterwards, and what others print is nothing, as before."""
    monkeypatch.setattr(sys, "stdout", None)

    async def handle(query: Query, ctx: Context) -> str:
        print("captured")
        return "ok"

    async with open_worker(handle, capture="print") as worker:
        assert said(await worker.ask("x")) == ["captured"]
        print("the test's")
    assert sys.stdout is None


def test_nothing_is_complained_of_at_the_end_of_a_process_without_stdout() -> None:
    """What takes its place there is never closed, on purpose."""
    code = """
import sys
from trio_worker.capture import Capture
sys.stdout = None
with Capture("print").begin():
    print("nowhere")
"""
    ended = subprocess.run([sys.executable, "-W", "default", "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")


async def test_a_handler_of_loggings_on_stdout(autojump_clock: MockClock, capfd: Any) -> None:
    """A library may set one up when it is first used, in a handler. Each record is in the log once."""
    library = logging.getLogger("agent.library")
    handlers: list[logging.Handler] = []

    def act() -> None:
        handlers.append(logging.StreamHandler(sys.stdout))
        library.addHandler(handlers[0])
        library.warning("it logs")
        print("it prints")

    try:
        assert await said_by(act) == ["WARNING: it logs", "it prints"]
    finally:
        library.removeHandler(handlers[0])
    assert capfd.readouterr().out == "it logs\n"


async def test_what_is_no_text(autojump_clock: MockClock) -> None:
    """It is refused, as ever; a line that was begun is not lost."""

    def act() -> None:
        print("begun", end=" ")
        with pytest.raises(TypeError):
            sys.stdout.write(b"bytes")  # type: ignore[arg-type]
        print("ended")

    assert await said_by(act) == ["begun ended"]


async def test_a_copy_of_stdout(autojump_clock: MockClock) -> None:
    """Is one."""
    assert await said_by(lambda: print("copied", file=copy.copy(sys.stdout))) == ["copied"]


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")], ids="".join)
@pytest.mark.parametrize("real", ["none", "some"])
def test_captures_end_in_any_order(order: tuple[str, str], real: str, monkeypatch: Any) -> None:
    """Of several workers in one process. The last one leaves all as the first one found it."""
    stdout = io.StringIO() if real == "some" else None
    root = logging.getLogger()
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", logging.WARNING)
    captures = {"a": Capture("print", "debug"), "b": Capture("print", "info")}
    blocks = {name: capture.begin() for name, capture in captures.items()}
    lines: list[object] = []
    for name in ("a", "b"):
        blocks[name].__enter__()
    kept = sys.stdout
    blocks[order[0]].__exit__(None, None, None)
    with captures[order[1]].into(lines.append):
        speak("the other")
    assert lines == told("the other")
    assert root.level == logging.getLevelNamesMapping()[captures[order[1]].level.upper()]
    assert logging.lastResort in root.handlers
    blocks[order[1]].__exit__(None, None, None)
    assert (sys.stdout, root.handlers, root.level) == (stdout, [], logging.WARNING)
    print("a ghost prints", file=kept)
    assert stdout is None or stdout.getvalue() == "a ghost prints\n"


# --- After the end ---------------------------------------------------------------------------------------


async def test_what_outlives_its_query(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """A task that a handler has begun elsewhere: what it says later is the operator's alone."""
    begun = trio.Event()
    spoken = trio.Event()

    async def later() -> None:
        await begun.wait()
        speak("a ghost")
        spoken.set()

    @asynccontextmanager
    async def agent() -> AsyncIterator[Callable[[Query, Context], Awaitable[str]]]:
        async with trio.open_nursery() as nursery:

            async def handle(query: Query, ctx: Context) -> str:
                if query.query_text == "first":
                    nursery.start_soon(later)
                    return "ok"
                begun.set()
                await spoken.wait()
                return "ok"

            yield handle
            nursery.cancel_scope.cancel()

    async with open_worker(agent, capture="print") as worker:
        first, second = await worker.ask("first"), await worker.ask("second")
    assert (said(first), said(second)) == ([], [])
    assert "a ghost logs" in caplog.messages
    assert capsys.readouterr().out == "a ghost prints\n"


async def test_what_is_kept_of_a_query(autojump_clock: MockClock) -> None:
    """A connection or a task may live on with the context in which it was made: the query is not kept."""
    kept: list[contextvars.Context] = []

    async def handle(query: Query, ctx: Context) -> str:
        kept.append(contextvars.copy_context())
        return "ok"

    def contexts() -> int:
        gc.collect()
        return sum(type(thing) is Context for thing in gc.get_objects())

    before = contexts()
    async with open_worker(handle, capture="print") as worker:
        await worker.ask("x")
        await trio.sleep(1)
        assert (len(kept), contexts()) == (1, before)


async def test_a_handler_that_was_left_behind(autojump_clock: MockClock) -> None:
    """It may log on; that is dropped, as `ctx.log` is."""
    spoken: list[str] = []

    async def handle(query: Query, ctx: Context) -> str:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:  # noqa: ASYNC103 - that is the point
            pass
        with trio.CancelScope(shield=True):
            await trio.sleep(60)
        speak("a ghost")
        spoken.append("it did")
        return "ok"

    async with open_worker(handle, capture="print", processing_timeout=1) as worker:
        query = await worker.ask("x")
        await trio.sleep(100)
    assert (query.status, said(query), spoken) == ("failed", [], ["it did"])


async def test_a_thread_that_was_left_behind(
    capsys: pytest.CaptureFixture[str], mock_clock: MockClock
) -> None:
    """It goes on printing; to the real stdout, also when the worker has ended, and has put that back."""
    go_on, done = threading.Event(), threading.Event()
    loop = trio.lowlevel.current_trio_token()
    mock_clock.rate = 1

    def handle(query: Query, ctx: PlainContext) -> str:
        print("begun", end="")
        loop.run_sync_soon(mock_clock.jump, 1000)  # past its time limit, and not before
        stdout = sys.stdout
        go_on.wait(LIMIT)
        print("a ghost prints", file=stdout)
        done.set()
        return "ok"

    async with open_worker(handle, capture="print") as worker:
        query = await worker.ask("x")
    go_on.set()
    assert done.wait(LIMIT)
    assert (query.status, said(query)) == ("failed", ["begun"])
    assert capsys.readouterr().out == "a ghost prints\n"


# --- From the middle of things ---------------------------------------------------------------------------


class Interjecting(str):
    """The note of lines left out. It is written while the lines are read; a `__del__` may log just then."""

    say: Callable[[], None] = staticmethod(lambda: None)

    def format(self, *args: object, **kwargs: object) -> str:
        self.say()
        return "left out"


def in_a_thread(main: Callable[[], Awaitable[None]]) -> None:
    """Run something that may get stuck for ever, which no deadline would end."""
    clock = MockClock(autojump_threshold=0)
    thread = threading.Thread(target=trio.run, args=(main,), kwargs={"clock": clock}, daemon=True)
    thread.start()
    thread.join(LIMIT)
    assert not thread.is_alive(), "it waits for ever"


async def all_of(query_log: QueryLog) -> list[str]:
    """Give the lines that it has, without their times."""
    lines: list[str] = []
    while (entry := await query_log.next_entry()) is not None:
        lines += entry.split(SEPARATOR)
        query_log.sent()
    return [re.sub(r"^\+[0-9.]+s ", "", line) for line in lines]


def test_a_line_while_the_log_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a thread that has the lock of the operator's log, for which the reader waits in its own `__del__`.

    Neither waits for the other, and both lines come, after those that are there.
    """
    said_in_the_handler = threading.Event()
    lines: list[str] = []

    async def main() -> None:
        note = Interjecting()
        query_log = QueryLog(attrs.evolve(ENGLISH, left_out=note), began=trio.current_time())

        class Handler(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                query_log.write(record.getMessage())
                said_in_the_handler.set()

        def say() -> None:
            note.say = lambda: None
            other = threading.Thread(target=log.warning, args=("another thread's",), daemon=True)
            other.start()
            assert said_in_the_handler.wait(LIMIT)
            log.warning("its own")
            other.join()

        monkeypatch.setattr(logging.getLogger(), "handlers", [Handler()])
        note.say = say
        for _ in range(2 * HALF // MOST_LINE + 2):
            query_log.write("x" * MOST_LINE)
        with trio.fail_after(3600):  # without another line, or the end
            while "its own" not in (await query_log.next_entry() or ""):
                query_log.sent()
        query_log.close("the end")
        lines.extend(line for line in await all_of(query_log) if "x" not in line)

    in_a_thread(main)
    assert lines == ["another thread's", "its own", "the end"]


def test_a_flood_while_the_log_is_read() -> None:
    """Lines wait for the reader, be it in a `__del__` that takes its time; but not any number of them."""
    took: list[float] = []

    async def main() -> None:
        note = Interjecting()
        query_log = QueryLog(attrs.evolve(ENGLISH, left_out=note), began=trio.current_time())

        def flood() -> None:
            began = time.monotonic()
            for number in range(MOST_ARRIVED + 200):
                query_log.write(str(number))
            took.append(time.monotonic() - began)

        def say() -> None:
            note.say = lambda: None
            thread = threading.Thread(target=flood, daemon=True)
            thread.start()
            thread.join()

        note.say = say
        for _ in range(2 * HALF // MOST_LINE + 2):
            query_log.write("x" * MOST_LINE)
        while not took:
            await query_log.next_entry()
            query_log.sent()

    in_a_thread(main)
    assert took[0] > 190 * PATIENCE


@pytest.fixture
def phoenix() -> Iterator[type]:
    """Garbage that logs whenever it is collected, and is there again; collected all the time."""
    before = gc.get_threshold()

    class Phoenix:
        lives = 1000
        say: Callable[[str], None] = staticmethod(log.info)

        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            if Phoenix.lives:
                Phoenix.lives -= 1
                Phoenix.say("a __del__ logs")
                Phoenix()

    yield Phoenix
    Phoenix.lives = 0
    gc.set_threshold(*before)
    gc.collect()


async def test_a_collector_that_never_rests(autojump_clock: MockClock, phoenix: type) -> None:
    """Lines keep their order when `__del__`s log in the middle of them, wherever that is."""

    def act() -> None:
        phoenix()
        gc.set_threshold(1)
        for number in range(100):
            print("print", number)
        gc.set_threshold(0)

    lines = await said_by(act)
    assert "a __del__ logs" in lines
    assert [line for line in lines if line.startswith("print")] == [f"print {n}" for n in range(100)]


def test_a_collector_that_never_rests_while_the_log_is_read(phoenix: type) -> None:
    """For the disk, for WebBuddy, at the end. Nothing waits for itself, and no line is lost."""
    texts: list[str] = []
    deaths: list[int] = []

    class Disk:
        collect: Callable[[], Fresh]

        def lines_wait(self, collect: Callable[[], Fresh]) -> None:
            self.collect = collect

        def sent(self, entries: int, up_to: int) -> None:
            pass

    async def main() -> None:
        disk = Disk()
        query_log = QueryLog(ENGLISH, began=trio.current_time(), sink=disk)
        phoenix.say = query_log.write  # type: ignore[attr-defined]
        query_log.write("begin")
        phoenix()
        for act in (disk.collect, partial(query_log.skip_arrived, ["x"]), partial(query_log.write, "it")):
            gc.set_threshold(1)
            act()
            gc.set_threshold(0)
        gc.set_threshold(1)
        await query_log.next_entry()
        gc.set_threshold(0)
        deaths.append(1000 - phoenix.lives)  # type: ignore[attr-defined]
        gc.set_threshold(1)
        query_log.close("the end")
        gc.set_threshold(0)
        texts.extend(await all_of(query_log))

    in_a_thread(main)
    assert [text for text in texts if text != "a __del__ logs"] == ["begin", "it", "the end"]
    assert texts[-1] == "the end"
    assert texts.count("a __del__ logs") >= deaths[0] > 10
