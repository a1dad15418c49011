"""asyncio's libraries in a handler: they run in a loop of their own, and are cancelled with the query."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from trio_worker import Context, Query
from trio_worker.handlers.asyncio_loop import AsyncioLoop, open_asyncio
from trio_worker.testing import WebBuddy, open_worker

LIMIT = 30  # seconds, on the slowest machine


@pytest.fixture
async def loop() -> AsyncIterator[AsyncioLoop]:
    async with open_asyncio() as loop:
        yield loop


async def test_an_answer(loop: AsyncioLoop) -> None:
    """asyncio's own primitives work there, and arguments and answers go through."""

    async def add(a: int, b: int) -> int:
        await asyncio.sleep(0)
        queue: asyncio.Queue[int] = asyncio.Queue()
        queue.put_nowait(a + b)
        return await queue.get()

    with trio.fail_after(LIMIT):
        assert await loop.run(add, 1, 2) == 3


async def test_an_exception(loop: AsyncioLoop) -> None:
    """It is raised here as it is there."""

    async def fail() -> None:
        raise LookupError("no such page")

    with trio.fail_after(LIMIT), pytest.raises(LookupError, match="no such page"):
        await loop.run(fail)


async def test_many_at_once(loop: AsyncioLoop) -> None:
    """A hundred that wait for one another."""
    barrier = asyncio.Barrier(100)

    async def meet() -> None:
        await barrier.wait()

    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(loop.run, meet)


async def test_cancelling(loop: AsyncioLoop) -> None:
    """The function sees it, may clean up, and is waited for."""
    seen: list[str] = []
    begun = threading.Event()

    async def wait() -> None:
        begun.set()
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.01)  # noqa: ASYNC102 - asyncio's, which cancels once only
            seen.append("cleaned up")

    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(loop.run, wait)
            await trio.to_thread.run_sync(begun.wait)
            nursery.cancel_scope.cancel()
    assert seen == ["cleaned up"]


async def test_one_that_cancels_itself_is_no_cancellation_of_ours(loop: AsyncioLoop) -> None:
    """A `CancelledError` of its own must not pass for Trio's."""

    async def stop() -> None:
        raise asyncio.CancelledError

    with trio.fail_after(LIMIT), pytest.raises(RuntimeError, match="not by its caller"):
        await loop.run(stop)


async def test_context_variables_go_along(loop: AsyncioLoop) -> None:
    """So the query's id stands on what is logged there."""
    variable = contextvars.ContextVar[str]("variable")
    variable.set("query 5")

    async def read() -> str:
        return variable.get()

    with trio.fail_after(LIMIT):
        assert await loop.run(read) == "query 5"


async def test_what_still_runs_at_the_end_is_cancelled() -> None:
    """The thread ends; nobody waits for ever."""
    seen: list[str] = []
    begun = threading.Event()

    async def forget() -> None:
        asyncio.get_running_loop().forgotten = asyncio.create_task(wait())  # type: ignore[attr-defined]
        await asyncio.sleep(0)

    async def wait() -> None:
        begun.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    with trio.fail_after(LIMIT):
        async with open_asyncio() as loop:
            await loop.run(forget)
            await trio.to_thread.run_sync(begun.wait)
    assert seen == ["cancelled"]


async def test_a_handler_on_it_is_stopped_at_its_time_limit() -> None:
    """As the README shows it."""
    seen: list[str] = []

    async def answer(text: str) -> str:
        try:
            await asyncio.sleep(3600 if text == "long" else 0)
        except asyncio.CancelledError:
            seen.append(text)
            raise
        return f"answer to {text}"

    @asynccontextmanager
    async def agent() -> AsyncIterator[Callable[[Query, Context], Awaitable[str]]]:
        async with open_asyncio() as loop:

            async def handle(query: Query, ctx: Context) -> str:
                return await loop.run(answer, query.query_text)

            yield handle

    webbuddy = WebBuddy()
    with trio.fail_after(LIMIT):
        async with open_worker(agent, webbuddy=webbuddy, processing_timeout=1) as worker:
            short, long = await worker.ask("short"), await worker.ask("long")
    assert (short.answer_text, long.status, seen) == ("answer to short", "failed", ["long"])
