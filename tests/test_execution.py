"""Every way in which a handler can end, and what becomes of its query."""

from __future__ import annotations

import json
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from structlog.typing import EventDict
from trio.testing import MockClock

from trio_worker import Context, Query, QueryFailed
from trio_worker.execution import MOST_ANSWER
from trio_worker.testing import StoredQuery, open_worker

SECRET = "hunter2-of-the-handler"

End = Callable[[], object]  # what a handler does last

ERROR = "The agent ended with an error ({}). The operator of test-worker finds the details under query 1."
NO_ANSWER = "The agent ended without an answer."
EMPTY = "The agent returned an empty answer."
WRONG = "The agent returned {} instead of a text."
GAVE_UP = "The agent gave up without saying why."


def raises(error: BaseException) -> End:
    def end() -> object:
        raise error

    return end


def gives(answer: object) -> End:
    return lambda: answer


class OwnFailure(QueryFailed):
    """A subclass as people write them: with an `__init__` of its own."""

    def __init__(self, code: int) -> None:
        Exception.__init__(self, f"code {code}")


class TwoArguments(QueryFailed):
    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"{what} in {where}")


class Unprintable(QueryFailed):
    def __init__(self) -> None:
        pass

    def __str__(self) -> str:
        raise RuntimeError("no text")


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Text(str):
    """A subclass of `str`, as markup libraries have them."""

    __slots__ = ()


class Chameleon:
    """What a proxy object of some framework does outside its context."""

    @property
    def __class__(self) -> type:  # type: ignore[override]
        raise RuntimeError("no context")

    @__class__.setter
    def __class__(self, value: type) -> None:
        raise RuntimeError


def nested(*errors: BaseException) -> BaseExceptionGroup[Any]:
    return BaseExceptionGroup("from a nursery", [BaseExceptionGroup("inner", list(errors))])


# (name, what the handler does last, the query's status, its answer)
ENDS: list[tuple[str, End, str, str]] = [
    ("a text", gives("the answer"), "done", "the answer"),
    ("a text in Russian", gives("Всё хорошо\nда"), "done", "Всё хорошо\nда"),
    ("a subclass of str", gives(Text("the answer")), "done", "the answer"),
    ("white space around", gives("\n the answer \n"), "done", "the answer"),
    ("NUL", gives("the\0 answer"), "done", "the answer"),
    ("half a character", gives("the \ud83d answer"), "done", "the \ufffd answer"),
    ("an empty text", gives(""), "failed", EMPTY),
    ("a blank text", gives(" \n\t "), "failed", EMPTY),
    ("only NUL", gives("\0"), "failed", EMPTY),
    ("None", gives(None), "failed", NO_ANSWER),
    ("an int", gives(42), "failed", WRONG.format("int")),
    ("bytes", gives(b"answer"), "failed", WRONG.format("bytes")),
    ("a dict", gives({"answer": 1}), "failed", WRONG.format("dict")),
    ("an object whose class can't be asked", gives(Chameleon()), "failed", ERROR.format("RuntimeError")),
    ("an exception", raises(ValueError(SECRET)), "failed", ERROR.format("ValueError")),
    ("an exception without text", raises(UnprintableError()), "failed", ERROR.format("UnprintableError")),
    ("a KeyError", raises(KeyError(SECRET)), "failed", ERROR.format("KeyError")),
    ("a MemoryError", raises(MemoryError()), "failed", ERROR.format("MemoryError")),
    ("an AssertionError", raises(AssertionError(SECRET)), "failed", ERROR.format("AssertionError")),
    ("a RecursionError", raises(RecursionError(SECRET)), "failed", ERROR.format("RecursionError")),
    ("StopIteration", raises(StopIteration(SECRET)), "failed", ERROR.format("RuntimeError")),
    ("SystemExit", raises(SystemExit(3)), "failed", ERROR.format("SystemExit")),
    ("KeyboardInterrupt", raises(KeyboardInterrupt()), "failed", ERROR.format("KeyboardInterrupt")),
    ("GeneratorExit", raises(GeneratorExit()), "failed", ERROR.format("GeneratorExit")),
    (
        "an exception group",
        raises(ExceptionGroup(SECRET, [ValueError(SECRET), TypeError()])),
        "failed",
        ERROR.format("ExceptionGroup"),
    ),
    (
        "a group with SystemExit",
        raises(BaseExceptionGroup("", [SystemExit(1), ValueError()])),
        "failed",
        ERROR.format("BaseExceptionGroup"),
    ),
    ("its own TooSlowError", raises(trio.TooSlowError()), "failed", ERROR.format("TooSlowError")),
    ("QueryFailed", raises(QueryFailed("No such page.")), "failed", "No such page."),
    ("QueryFailed in Russian", raises(QueryFailed("Нет\nстраницы")), "failed", "Нет\nстраницы"),
    ("QueryFailed, empty", raises(QueryFailed("")), "failed", GAVE_UP),
    ("QueryFailed, blank", raises(QueryFailed(" \n")), "failed", GAVE_UP),
    ("QueryFailed, NUL", raises(QueryFailed("No\0 such page\ud83d")), "failed", "No such page\ufffd"),
    ("QueryFailed, not a text", raises(QueryFailed(404)), "failed", "404"),  # type: ignore[arg-type]
    ("QueryFailed, None", raises(QueryFailed(None)), "failed", "None"),  # type: ignore[arg-type]
    ("QueryFailed, a subclass", raises(TwoArguments("no page", "site")), "failed", "no page in site"),
    ("QueryFailed, own __init__", raises(OwnFailure(7)), "failed", "code 7"),
    ("QueryFailed, unprintable", raises(Unprintable()), "failed", ERROR.format("RuntimeError")),
    ("QueryFailed in groups", raises(nested(QueryFailed("No such page."))), "failed", "No such page."),
    (
        "QueryFailed beside another",
        raises(nested(QueryFailed("No such page."), ValueError())),
        "failed",
        ERROR.format("ExceptionGroup"),
    ),
]
NAMES = [name for name, *_ in ENDS]


def check_no_secret(query: StoredQuery) -> None:
    """Neither the traceback nor the exception's own text is for WebBuddy's users."""
    seen = "\n".join([query.answer_text, *query.logs])
    assert SECRET not in seen
    assert "Traceback" not in seen
    assert "test_execution" not in seen


class OnlyTheFirst:
    """A handler that ends in the given way, and well the next time."""

    def __init__(self, end: End) -> None:
        self.end = end

    async def __call__(self, query: Query, ctx: Context) -> object:
        await trio.lowlevel.checkpoint()
        return self.end() if query.id == 1 else "well"

    def plain(self, query: Query, ctx: Context) -> object:
        return self.end() if query.id == 1 else "well"


async def see_it_end(handler: Any, status: str, answer: str) -> None:
    async with open_worker(handler, num_workers=1) as worker:
        query = await worker.ask("first")
        assert (query.status, query.answer_text) == (status, answer)
        assert query.statuses == ["queued", "in_progress", status]
        check_no_secret(query)
        if status == "failed":
            assert "Failed after" in query.logs[-1]
            assert query.logs[-1].endswith(answer)
        second = await worker.ask("second")
        assert (second.status, second.answer_text) == ("done", "well")
        assert not worker.ended.is_set()
    assert worker.ended.is_set()
    assert not worker.abandoned.is_set()


@pytest.mark.parametrize(("name", "end", "status", "answer"), ENDS, ids=NAMES)
async def test_an_async_handler_ends(
    name: str, end: End, status: str, answer: str, autojump_clock: MockClock
) -> None:
    """Each way to end has its outcome, and the consumer takes the next query."""
    await see_it_end(OnlyTheFirst(end), status, answer)


@pytest.mark.parametrize(("name", "end", "status", "answer"), ENDS, ids=NAMES)
async def test_a_plain_handler_ends(name: str, end: End, status: str, answer: str) -> None:
    """The same table in a thread. (Real clock.)"""
    with trio.fail_after(30):
        await see_it_end(OnlyTheFirst(end).plain, status, answer)


async def test_the_operator_gets_the_traceback(autojump_clock: MockClock, events: list[EventDict]) -> None:
    """What WebBuddy's users are spared is in the log, under the query's number."""
    async with open_worker(OnlyTheFirst(raises(ValueError(SECRET)))) as worker:
        await worker.ask("bad")
    (event,) = [event for event in events if event["event"] == "the handler raised"]
    assert event["query"] == 1
    assert isinstance(event["exc_info"], ValueError)
    assert str(event["exc_info"]) == SECRET
    assert event["exc_info"].__traceback__ is not None


@pytest.mark.parametrize("answer", [None, " \n", 5])
async def test_the_operator_reads_what_an_answer_is(
    answer: object, autojump_clock: MockClock, events: list[EventDict]
) -> None:
    """Whoever wrote the handler learns from the log what it should return."""
    async with open_worker(OnlyTheFirst(gives(answer))) as worker:
        await worker.ask("bad")
    (event,) = [event for event in events if "problem" in event]
    assert event["event"].endswith("return a str that is not blank")
    assert event["query"] == 1


async def test_the_sentences_are_in_the_users_language(autojump_clock: MockClock) -> None:
    """`WORKER_LANGUAGE=ru`."""
    async with open_worker(OnlyTheFirst(raises(ValueError())), language="ru") as worker:
        query = await worker.ask("плохо")
    assert query.answer_text == (
        "Агент завершился с ошибкой (ValueError). Подробности у оператора test-worker, запрос 1."
    )


# --- Ways to end that need Trio ----------------------------------------------------------------------


async def fail_in_a_nursery(query: Query, ctx: Context) -> str:
    async def child() -> None:
        await trio.sleep(1)
        raise QueryFailed("No such page.")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(child)
        await trio.sleep_forever()


async def own_deadline(query: Query, ctx: Context) -> str:
    with trio.fail_after(1):
        await trio.sleep_forever()
    return "never"


async def own_scope(query: Query, ctx: Context) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await trio.sleep_forever()


async def stray_cancelled(query: Query, ctx: Context) -> str:
    kept: list[trio.Cancelled] = []
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.sleep_forever()
        except trio.Cancelled as cancelled:
            kept.append(cancelled)
            raise
    raise kept[0]


async def unclosed_scope(query: Query, ctx: Context) -> str:
    trio.CancelScope().__enter__()
    return "the answer"


async def own_thread_fails(query: Query, ctx: Context) -> str:
    raise QueryFailed("No such page.") from ValueError(SECRET)


@pytest.mark.parametrize(
    ("handler", "status", "answer"),
    [
        (fail_in_a_nursery, "failed", "No such page."),
        (own_deadline, "failed", ERROR.format("TooSlowError")),
        (own_scope, "failed", NO_ANSWER),
        (stray_cancelled, "failed", ERROR.format("Cancelled")),
        (unclosed_scope, "failed", ERROR.format("RuntimeError")),
        (own_thread_fails, "failed", "No such page."),
    ],
)
async def test_ways_to_end_of_trio(
    handler: Callable[[Query, Context], Awaitable[object]],
    status: str,
    answer: str,
    autojump_clock: MockClock,
) -> None:
    """A nursery's group, a deadline or a cancelled scope of its own, a Cancelled raised where none is due."""

    async def once(query: Query, ctx: Context) -> object:
        return await handler(query, ctx) if query.id == 1 else "well"

    await see_it_end(once, status, answer)


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_forgotten_await(is_async: bool) -> None:
    """A coroutine is no answer; it is closed, so that no warning follows. (Real clock.)"""

    async def agent(query: Query) -> str:
        return "never"

    def handle(query: Query, ctx: Context) -> object:
        return agent(query) if query.id == 1 else "well"

    async def handle_async(query: Query, ctx: Context) -> object:
        return handle(query, ctx)

    with trio.fail_after(30):
        await see_it_end(handle_async if is_async else handle, "failed", WRONG.format("coroutine"))


# --- The time limit ----------------------------------------------------------------------------------

TIMEOUT = "The agent ran past its time limit of 10 s and was stopped."
LEFT_BEHIND = "The agent ran past its time limit of 10 s and could not be stopped."


async def test_the_time_limit(autojump_clock: MockClock, events: list[EventDict]) -> None:
    """A handler is cancelled at its time limit, and the query's author is told of that, not of an error."""
    ended_at: list[float] = []

    async def handle(query: Query, ctx: Context) -> str:
        try:
            await trio.sleep(60)
        finally:
            ended_at.append(trio.current_time())
        return "never"

    async with open_worker(handle, processing_timeout=10) as worker:
        query = await worker.ask("slow")
        assert query.started is not None
        assert ended_at[0] == pytest.approx(query.started - worker.webbuddy.now() + trio.current_time() + 10)
    assert (query.status, query.answer_text) == ("failed", TIMEOUT)
    assert [event["kind"] for event in events if event["event"] == "query failed"] == ["timeout"]


async def test_its_own_too_slow_is_told_apart_from_ours(autojump_clock: MockClock) -> None:
    """A deadline of the handler's own that is later than ours never looks like ours."""

    async def handle(query: Query, ctx: Context) -> str:
        with trio.fail_after(5 if query.id == 1 else 15):
            await trio.sleep_forever()
        return "never"

    async with open_worker(handle, processing_timeout=10) as worker:
        assert (await worker.ask("its own")).answer_text == ERROR.format("TooSlowError")
        assert (await worker.ask("ours")).answer_text == TIMEOUT


@pytest.mark.parametrize("how", ["an answer", "an exception", "QueryFailed", "None"])
async def test_a_time_limit_that_was_swallowed(how: str, autojump_clock: MockClock) -> None:
    """Whatever a handler makes of its cancellation at the time limit: the query ran past it."""

    async def handle(query: Query, ctx: Context) -> object:
        try:
            await trio.sleep_forever()
        except BaseException:  # noqa: BLE001, ASYNC103 - what a bad handler does is the matter here
            if how == "an exception":
                raise ValueError(SECRET) from None  # noqa: ASYNC104
            if how == "QueryFailed":
                raise QueryFailed("Cancelled()") from None  # noqa: ASYNC104
            return "Cancelled()" if how == "an answer" else None  # noqa: ASYNC104

    async with open_worker(handle, processing_timeout=10) as worker:
        query = await worker.ask("swallowed")
    assert (query.status, query.answer_text) == ("failed", TIMEOUT)
    check_no_secret(query)


async def test_it_may_clean_up_for_five_seconds(autojump_clock: MockClock) -> None:
    """Cancelled at the limit, a handler has a little time under a shield; its log lines still arrive."""

    async def handle(query: Query, ctx: Context) -> str:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(4)
                ctx.log("cleaned up")
        return "never"

    async with open_worker(handle, processing_timeout=10) as worker:
        query = await worker.ask("tidy")
    assert (query.status, query.answer_text) == ("failed", TIMEOUT)
    assert any("cleaned up" in text for text in query.logs)


class Swallowing:
    """Swallows cancellation, until it is told to end; at the latest at the end of a ``with`` block."""

    def __init__(self) -> None:
        self.let_go = trio.Event()
        self.ctx: Context | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc_info: object) -> None:
        self.let_go.set()

    async def __call__(self, query: Query, ctx: Context) -> str:
        if query.query_text != "swallow":
            return "well"
        self.ctx = ctx
        while not self.let_go.is_set():
            try:
                with trio.CancelScope(shield=True):
                    await self.let_go.wait()
            except trio.Cancelled:  # noqa: ASYNC103 - as above
                pass
        return "too late"


@pytest.mark.parametrize("end", [gives("late"), raises(QueryFailed("late"))])
async def test_a_late_answer_after_a_block(end: End, autojump_clock: MockClock) -> None:
    """Nobody could cancel it: while it blocked the event loop, the deadline has passed unseen."""

    async def handle(query: Query, ctx: Context) -> object:
        autojump_clock.jump(11)  # as `time.sleep` does to the real clock
        return end()

    async with open_worker(handle, processing_timeout=10) as worker:
        query = await worker.ask("x")
    assert query.status == "failed"
    assert "10 s" in query.answer_text


async def test_a_handler_that_swallows_is_left_behind(
    autojump_clock: MockClock, events: list[EventDict]
) -> None:
    """At the deadline + 5 s its query has failed and its consumer takes the next; it is named in the log."""
    handler = Swallowing()
    async with open_worker(handler, num_workers=1, processing_timeout=10, polling_interval=1e5) as worker:
        with handler:
            query = worker.webbuddy.add_query("swallow")
            following = await worker.ask("next")
            assert following.started is not None
            assert query.started is not None
            assert following.started - query.started == pytest.approx(10 + 5, abs=0.5)
            await worker.webbuddy.until(lambda: query.status == "failed")
            assert query.answer_text == LEFT_BEHIND
            (event,) = [event for event in events if event["event"].startswith("handler left behind")]
            assert (event["query"], event["handler"]) == (query.id, "test:handler")
            # Its context is dead, and what it answers later is nobody's.
            assert handler.ctx is not None
            handler.ctx.log("a ghost")
            handler.let_go.set()
            await trio.sleep(60)
            assert query.answer_text == LEFT_BEHIND
            assert query.statuses == ["queued", "in_progress", "failed"]
            assert not any("ghost" in text for text in query.logs)
            assert any(event["event"] == "a handler that was left behind has ended" for event in events)
    assert not worker.abandoned.is_set()


async def test_one_left_behind_at_the_stop_forces_the_exit(autojump_clock: MockClock) -> None:
    """After the grace the process would be ended by force; all else is done by then."""
    handler = Swallowing()
    async with open_worker(handler, processing_timeout=10, shutdown_grace=12) as worker:
        with handler:
            query = await worker.ask("swallow")
            assert query.answer_text == LEFT_BEHIND
            began = trio.current_time()
            worker.stop.ask()
            await worker.abandoned.wait()
            assert trio.current_time() - began <= 12
            handler.let_go.set()


async def test_a_hundred_bad_handlers_at_once(autojump_clock: MockClock) -> None:
    """Queries of bad handlers end as they should while those of a good one are answered beside them."""
    ways = [end for _, end, *_ in ENDS]

    async def handle(query: Query, ctx: Context) -> object:
        await trio.sleep(1)
        if query.query_text == "good":
            return "good"
        return ways[query.id % len(ways)]()

    async with open_worker(handle, num_workers=20) as worker:
        for number in range(200):
            worker.webbuddy.add_query("good" if number % 2 else "bad")
        await worker.webbuddy.until(worker.webbuddy.all_ended)
        good = [query for query in worker.webbuddy.queries.values() if query.query_text == "good"]
        assert all((query.status, query.answer_text) == ("done", "good") for query in good)


# --- Threads (real clock) ----------------------------------------------------------------------------


async def test_a_plain_function_past_its_time_limit_is_left(events: list[EventDict]) -> None:
    """A thread can't be stopped: the query fails at the limit, the thread is counted and named."""
    release, ended = threading.Event(), threading.Event()

    def handle(query: Query, ctx: Context) -> str:
        if query.id > 1:
            return "well"
        release.wait(60)
        ctx.log("a ghost")
        ended.set()
        return "too late"

    with trio.fail_after(60):
        async with open_worker(handle, num_workers=1, processing_timeout=0.05) as worker:
            query = await worker.ask("stuck")
            assert query.status == "failed"
            assert "could not be stopped" in query.answer_text
            assert any(event["event"].startswith("a thread was left behind") for event in events)
            assert not ended.is_set()
            release.set()
            # A real thread, in real time: there is nothing to wait on but our own line.
            while "a thread that was left behind has ended" not in str(events):  # noqa: ASYNC110
                await trio.sleep(0.01)
            assert query.statuses == ["queued", "in_progress", "failed"]
        assert not any("ghost" in text for text in query.logs)
    assert not worker.abandoned.is_set()


async def test_plain_functions_do_not_wait_for_each_other() -> None:
    """More threads than Trio's default of 40 at once: each consumer has its own."""
    all_there = threading.Barrier(50)

    def handle(query: Query, ctx: Context) -> str:
        all_there.wait(60)
        return "together"

    with trio.fail_after(60):
        async with open_worker(handle, num_workers=50) as worker:
            for number in range(50):
                worker.webbuddy.add_query(f"query {number}")
            await worker.webbuddy.until(worker.webbuddy.all_ended)
            assert len(worker.webbuddy.with_status("done")) == 50


# --- Sizes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("character", ["x", "ж", "\n", '"', "\x01"])
@pytest.mark.parametrize("how", ["answer", "QueryFailed"])
async def test_a_huge_answer_is_cut_to_what_webbuddy_takes(
    character: str, how: str, autojump_clock: MockClock
) -> None:
    """10 MB, whatever its characters become in JSON: WebBuddy takes it at the first try, with a note."""
    text = "[" + character * 10_000_000 + "]"

    async def handle(query: Query, ctx: Context) -> str:
        if how == "QueryFailed":
            raise QueryFailed(text)
        return text

    async with open_worker(handle) as worker:
        query = await worker.ask("huge")
        assert query.status == ("done" if how == "answer" else "failed")
        assert worker.webbuddy.calls["patch", 400] == 0
    kept, note = query.answer_text.split("\n\n[The answer was longer than WebBuddy accepts; ")
    cut_off = int(note.removeprefix("the rest was cut off: ").removesuffix(" characters.]"))
    assert kept == text[: len(text) - cut_off].rstrip() or kept == text[: len(text) - cut_off]
    assert len(json.dumps(text[: len(text) - cut_off], ensure_ascii=False).encode()) > MOST_ANSWER - 200
