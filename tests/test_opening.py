"""A handler with resources that are opened once a process, and closed after the last query."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from structlog.typing import EventDict
from trio.testing import MockClock

from trio_worker import Context, Query
from trio_worker.errors import HandlerError
from trio_worker.handlers.loading import load_handler, source_of
from trio_worker.handlers.opening import open_handler
from trio_worker.stop import Stop
from trio_worker.testing import WebBuddy, open_worker, trio_time

HandlerFunction = Callable[[Query, Context], Awaitable[str]]


class Model:
    """Something that takes time to open and to close."""

    def __init__(self, opening: float = 5, closing: float = 1) -> None:
        self.opening = opening
        self.closing = closing
        self.happened: list[str] = []

    @asynccontextmanager
    async def open(self) -> AsyncIterator[HandlerFunction]:
        self.happened.append("opening")
        await trio.sleep(self.opening)
        try:
            yield self.handle
        finally:
            self.happened.append("closing")
            await trio.sleep(self.closing)  # noqa: ASYNC102 - the shield is around us
            self.happened.append("closed")

    async def handle(self, query: Query, ctx: Context) -> str:
        self.happened.append(f"query {query.id}")
        await trio.sleep(10)
        return "answer"


def new_stop() -> Stop:
    return Stop(grace=25, reserve=5, closes=True)


def opener(model: Model) -> Any:
    @asynccontextmanager
    async def open_handler() -> AsyncIterator[HandlerFunction]:
        async with model.open() as handle:
            yield handle

    return open_handler


async def test_opened_once_and_closed_after_the_last_query(autojump_clock: MockClock) -> None:
    """Nothing is claimed before it is open; a query that is at work at the stop still has it."""
    model = Model()
    async with open_worker(opener(model), num_workers=3) as worker:
        queries = [worker.webbuddy.add_query(str(number)) for number in range(3)]
        await worker.webbuddy.until(lambda: len(model.happened) == 4)
        assert worker.webbuddy.now() - queries[0].created >= 5
        worker.stop.ask()
    assert model.happened[0] == "opening"
    assert sorted(model.happened[1:4]) == ["query 1", "query 2", "query 3"]
    assert model.happened[4:] == ["closing", "closed"]
    assert [query.status for query in queries] == ["done"] * 3


async def test_a_stop_while_it_opens(autojump_clock: MockClock) -> None:
    """It is given up, and nothing was claimed."""
    model = Model(opening=3600)
    async with open_worker(opener(model)) as worker:
        query = worker.webbuddy.add_query("x")
        await trio.sleep(10)
        worker.stop.ask()
        with trio.fail_after(1):
            await worker.ended.wait()
    assert (query.status, model.happened) == ("queued", ["opening"])


async def test_a_stop_while_it_opens_in_a_thread() -> None:
    """What can't be cancelled is waited for, and closed; then that is the end."""
    happened: list[str] = []
    began, go_on = trio.Event(), threading.Event()

    @asynccontextmanager
    async def open_handler() -> AsyncIterator[HandlerFunction]:
        began.set()
        await trio.to_thread.run_sync(go_on.wait)
        try:
            yield Model().handle
        finally:
            happened.append("closed")

    with trio.fail_after(30):
        async with open_worker(open_handler, webbuddy=WebBuddy()) as worker:
            await began.wait()
            worker.stop.ask()
            go_on.set()
            await worker.ended.wait()
    assert happened == ["closed"]


async def test_a_crash_of_the_service_closes_it_too(autojump_clock: MockClock) -> None:
    """Everything around is being cancelled, and it still is closed as it wants to be."""
    model = Model()

    async def crash() -> None:
        async with open_handler(source_of(opener(model), "x:y"), directory=Path.cwd(), stop=new_stop()):
            raise RuntimeError("crash")

    with pytest.RaisesGroup(RuntimeError):
        await crash()
    assert model.happened == ["opening", "closing", "closed"]
    with trio.CancelScope() as scope:
        async with open_handler(source_of(opener(model), "x:y"), directory=Path.cwd(), stop=new_stop()):
            scope.cancel()
            await trio.sleep_forever()
    assert model.happened[-2:] == ["closing", "closed"]
    model.closing = 3600
    began = trio.current_time()
    with pytest.RaisesGroup(RuntimeError):
        await crash()  # nobody has asked for a stop, and it ends all the same
    assert trio.current_time() - began == pytest.approx(model.opening + 1.6, abs=0.05)


async def test_closing_that_takes_too_long(autojump_clock: MockClock, events: list[EventDict]) -> None:
    """The process does not wait for it beyond the grace, and says so."""
    model = Model(closing=3600)
    async with open_worker(opener(model), shutdown_grace=25) as worker:
        await worker.ask("x")
        began = trio.current_time()
        worker.stop.ask()
        await worker.ended.wait()
        assert trio.current_time() - began == pytest.approx(24, abs=0.05)
    assert not worker.abandoned.is_set()
    assert model.happened[-1] == "closing"
    assert any("was not closed in time" in event["event"] for event in events)


async def test_closing_has_its_share_of_the_grace(autojump_clock: MockClock) -> None:
    """Also when WebBuddy is down: what can't be reported waits on disk, and does not take it all."""
    model = Model(closing=0.9)
    async with open_worker(opener(model), shutdown_grace=25) as worker:
        query = worker.webbuddy.add_query("x")
        await worker.webbuddy.until(lambda: "query 1" in model.happened)
        worker.webbuddy.down = True
        began = trio.current_time()
        worker.stop.ask()
        await worker.ended.wait()
        assert trio.current_time() - began == pytest.approx(23.9, abs=0.05)
    assert (query.status, model.happened[-1]) == ("in_progress", "closed")
    assert not worker.abandoned.is_set()


async def test_closing_that_swallows_its_cancellation(autojump_clock: MockClock) -> None:
    """The process would have been ended by force, within the grace."""
    let_go = trio.Event()

    @asynccontextmanager
    async def open_handler() -> AsyncIterator[HandlerFunction]:
        yield Model().handle
        with trio.CancelScope(shield=True):
            await let_go.wait()

    async with open_worker(open_handler, shutdown_grace=25) as worker:
        await worker.ask("x")
        began = trio.current_time()
        worker.stop.ask()
        await worker.abandoned.wait()
        assert trio.current_time() - began == pytest.approx(24.1, abs=0.05)
        let_go.set()


async def test_closing_that_raises(autojump_clock: MockClock, events: list[EventDict]) -> None:
    """All queries have ended: it is logged, with its traceback, and that is all."""

    @asynccontextmanager
    async def open_handler() -> AsyncIterator[HandlerFunction]:
        yield Model().handle
        raise RuntimeError("can't close")

    async with open_worker(open_handler) as worker:
        assert (await worker.ask("x")).status == "done"
    (event,) = [event for event in events if event["log_level"] == "error"]
    assert str(event["exc_info"]) == "can't close"


async def test_a_task_of_its_own_that_crashes(autojump_clock: MockClock) -> None:
    """Loud: the service ends, and the query is put back."""

    async def crash() -> None:
        await trio.sleep(10)
        raise RuntimeError("the connection is gone")

    @asynccontextmanager
    async def open_handler() -> AsyncIterator[HandlerFunction]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(crash)
            yield handle
            nursery.cancel_scope.cancel()

    async def handle(query: Query, ctx: Context) -> str:
        await trio.sleep(3600)
        return "never"

    webbuddy = WebBuddy(now=trio_time())
    async with webbuddy.running():
        with pytest.RaisesGroup(
            pytest.RaisesExc(RuntimeError, match="connection is gone"), flatten_subgroups=True
        ):
            async with open_worker(open_handler, webbuddy=webbuddy) as worker:
                webbuddy.add_query("x")
                await worker.ended.wait()
    assert webbuddy.queries[1].status == "queued"


@pytest.mark.parametrize("how", ["a scope", "a task whose crash is swallowed"])
async def test_what_closes_by_itself(how: str, autojump_clock: MockClock) -> None:
    """Queries must not run with what is closed: the service ends, and says why; the query is put back."""

    async def crash() -> None:
        await trio.sleep(10)
        raise ConnectionError

    @asynccontextmanager
    async def agent() -> AsyncIterator[HandlerFunction]:
        if how == "a scope":
            with trio.move_on_after(10):  # noqa: ASYNC100 - the body of the worker is in there
                yield handle
            return
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(crash)
                yield handle
        except* ConnectionError:
            pass

    async def handle(query: Query, ctx: Context) -> str:
        await trio.sleep(3600)
        return "never"

    webbuddy = WebBuddy(now=trio_time())
    async with webbuddy.running():
        with pytest.RaisesGroup(
            pytest.RaisesExc(HandlerError, match="closed by itself while the worker runs"),
            flatten_subgroups=True,
        ):
            async with open_worker(agent, webbuddy=webbuddy) as worker:
                webbuddy.add_query("x")
                with trio.fail_after(60):
                    await worker.ended.wait()
    assert webbuddy.queries[1].status == "queued"


async def test_what_is_said_of_the_opening(autojump_clock: MockClock, events: list[EventDict]) -> None:
    """That it goes on, each 30 s, and why the worker is not ready; and that it is over."""
    model = Model(opening=100)
    async with open_worker(opener(model)) as worker:
        await trio.sleep(50)
        assert worker.front.readiness.reasons["handler"] == "it is being opened"
        await trio.sleep(100)
        assert worker.front.readiness.reasons == {}
    said = [(event["log_level"], event["event"], event.get("seconds")) for event in events]
    assert [line for line in said if "open" in line[1]] == [
        ("info", "opening the handler", None),
        *[("warning", "the handler is still being opened", seconds) for seconds in (30, 60, 90)],
        ("info", "the handler is open", 100.0),
    ]


# --- What can't be opened ------------------------------------------------------------------------------


async def test_opening_that_raises(tmp_path: Path) -> None:
    """One sentence with its reason and its place, and not a bug of ours."""
    (tmp_path / "broken_agent.py").write_text(
        "from contextlib import asynccontextmanager\n\n"
        "@asynccontextmanager\n"
        "async def agent():\n"
        "    raise OSError('no such model')\n"
        "    yield\n"
    )
    handler = load_handler("broken_agent:agent", tmp_path)
    assert handler.opens
    with pytest.RaisesGroup(HandlerError, flatten_subgroups=True) as caught:
        async with open_handler(handler, directory=tmp_path, stop=new_stop()):
            pass
    (problem,) = caught.value.exceptions
    while isinstance(problem, BaseExceptionGroup):
        (problem,) = problem.exceptions
    assert str(problem) == (
        "WORKER_HANDLER is 'broken_agent:agent': opening it raised OSError: no such model"
        f" ({tmp_path / 'broken_agent.py'}:5)"
    )


async def test_what_it_gives_is_no_handler() -> None:
    """The same checks as for a function that is named itself."""

    @asynccontextmanager
    async def agent() -> AsyncIterator[int]:
        yield 5

    with pytest.RaisesGroup(pytest.RaisesExc(HandlerError, match="not callable"), flatten_subgroups=True):
        async with open_handler(source_of(agent, "x:agent"), directory=Path.cwd(), stop=new_stop()):
            pass


def test_arguments_are_a_mistake() -> None:
    """It is called with none."""

    @asynccontextmanager
    async def agent(url: str) -> AsyncIterator[int]:
        yield 5

    with pytest.raises(HandlerError, match="called with no arguments"):
        source_of(agent, "x:agent")


def test_a_forgotten_decorator_is_named() -> None:
    """An async generator alone is no context manager."""

    async def agent() -> AsyncIterator[int]:
        yield 5

    with pytest.raises(HandlerError, match="asynccontextmanager"):
        source_of(agent, "x:agent")
