"""asyncio's libraries in a handler: they run in a loop of their own, and are cancelled with the query."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from structlog.typing import EventDict
from trio.testing import MockClock

from trio_worker import Context, Query
from trio_worker.handlers.asyncio_loop import AsyncioLoop, open_asyncio
from trio_worker.testing import open_worker

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


async def test_a_handler_on_it_is_stopped_at_its_time_limit(mock_clock: MockClock) -> None:
    """As the example shows it."""
    seen: list[str] = []
    trios = trio.lowlevel.current_trio_token()
    mock_clock.rate = 1

    async def answer(text: str) -> str:
        try:
            if text == "long":
                trios.run_sync_soon(mock_clock.jump, 1000)  # past its time limit, and not before
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

    async with open_worker(agent) as worker:
        short, long = await worker.ask("short"), await worker.ask("long")
    assert (short.answer_text, long.status, seen) == ("answer to short", "failed", ["long"])


# --- What ends a loop, and does not -------------------------------------------------------------------


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
async def test_what_ends_programs_ends_one_call(error: BaseException, loop: AsyncioLoop) -> None:
    """It is raised here, as any other; the loop is there for the next."""

    async def leave() -> None:
        raise error

    async def answer() -> str:
        return "well"

    with trio.fail_after(LIMIT):
        with pytest.raises(type(error)):
            await loop.run(leave)
        assert await loop.run(answer) == "well"


async def test_what_ends_programs_in_a_task_of_its_own(loop: AsyncioLoop, events: list[EventDict]) -> None:
    """Who awaits that task has it; others that are under way go on; and it is in the log."""
    begun = threading.Event()

    async def leave() -> None:
        sys.exit(3)

    async def start_one() -> None:
        task = asyncio.create_task(leave())
        await task

    async def wait() -> str:
        event = asyncio.Event()
        ended.append((asyncio.get_running_loop(), event))
        begun.set()
        await event.wait()
        return "well"

    async def call_wait() -> None:
        answers.append(await loop.run(wait))

    ended: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
    answers: list[str] = []
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call_wait)
            await trio.to_thread.run_sync(begun.wait)
            with pytest.raises(SystemExit):
                await loop.run(start_one)
            ((inner, event),) = ended
            inner.call_soon_threadsafe(event.set)
    assert answers == ["well"]
    assert "what ends programs" in str(events)


async def test_a_function_that_stops_the_loop(loop: AsyncioLoop) -> None:
    """It goes on: it is not the function's to stop."""

    async def stop() -> str:
        asyncio.get_running_loop().stop()
        await asyncio.sleep(0.01)
        return "well"

    with trio.fail_after(LIMIT):
        assert await loop.run(stop) == "well"


async def test_what_is_no_async_function(loop: AsyncioLoop) -> None:
    """The caller is told; before, it would have waited for ever."""

    def plain() -> Any:
        return 5

    with trio.fail_after(LIMIT), pytest.raises(TypeError):
        await loop.run(plain)


async def test_a_call_after_the_end() -> None:
    """A sentence, and no coroutine that is never awaited."""

    async def answer() -> str:
        return "well"

    with trio.fail_after(LIMIT):
        async with open_asyncio() as loop:
            pass
        with pytest.raises(RuntimeError, match="the asyncio loop is closed"):
            await loop.run(answer)


async def test_a_loop_that_ends_before_its_functions() -> None:
    """Another one raises SystemExit while all are being cancelled: nobody waits for ever."""
    begun = threading.Event()

    async def leave() -> None:
        asyncio.get_running_loop().forgotten = asyncio.create_task(raise_at_the_end())  # type: ignore[attr-defined]
        await asyncio.sleep(0)

    async def raise_at_the_end() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            sys.exit(3)

    async def clean_up_for_long() -> None:
        try:
            begun.set()
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(3600)  # noqa: ASYNC102 - asyncio's, which cancels once only

    async def call() -> None:
        with pytest.raises(RuntimeError, match="ended before the function has"):
            await loop.run(clean_up_for_long)

    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery, open_asyncio() as loop:
            await loop.run(leave)
            nursery.start_soon(call)
            await trio.to_thread.run_sync(begun.wait)


async def test_a_cancellation_that_comes_when_the_loop_is_closed() -> None:
    """The thread has ended, and its news is still under way."""
    begun = threading.Event()

    async def wait() -> None:
        begun.set()
        await asyncio.sleep(3600)

    with trio.fail_after(LIMIT), trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery, open_asyncio() as loop:
            (thread,) = [thread for thread in threading.enumerate() if thread.name == "asyncio"]
            nursery.start_soon(loop.run, wait)  # noqa: ASYNC111 - it outlives the loop, on purpose
            await trio.to_thread.run_sync(begun.wait)
            loop.close()
            thread.join(LIMIT)  # in the loop's own thread, on purpose
            scope.cancel()
    assert scope.cancelled_caught


NO_DESCRIPTORS = """
import resource, trio
from trio_worker.handlers.asyncio_loop import open_asyncio

async def main():
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
    async with open_asyncio() as loop:
        print("opened")

try:
    trio.run(main)
except OSError as error:
    print("OSError", error.strerror)
"""


async def test_a_loop_that_can_not_be_made() -> None:
    """It is said at once; nobody waits for its start."""
    with trio.fail_after(LIMIT):
        ended = await trio.run_process([sys.executable, "-c", NO_DESCRIPTORS], capture_stdout=True)
    assert ended.stdout == b"OSError Too many open files\n"
