"""Libraries that need asyncio: an asyncio loop in a thread, called from an async handler.

::

    @asynccontextmanager
    async def agent():
        async with open_asyncio() as loop:

            async def handle(query, ctx):
                return await loop.run(answer, query.query_text)

            yield handle

    async def answer(text: str) -> str:
        ...  # asyncio's code: aiohttp, asyncpg, …

Why not trio-asyncio: it replaces asyncio's policy for the whole process, and does not run on every Python
that we do. Why not Trio as asyncio's guest: hypercorn owns the thread.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar, TypeVarTuple

import outcome
import trio

__all__ = ["AsyncioLoop", "open_asyncio"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

CLOSE_SECONDS = 2.0
"""For what is still running there when it is closed, and was cancelled."""


@asynccontextmanager
async def open_asyncio() -> AsyncIterator[AsyncioLoop]:
    """Start an asyncio loop in a thread of its own.

    At the end it is stopped, and waited for, for two seconds; then the thread, a daemon, is left behind.
    """
    ended = trio.Event()
    token = trio.lowlevel.current_trio_token()
    loop = AsyncioLoop()

    def live() -> None:
        try:
            asyncio.run(loop.live())
        finally:
            try:
                token.run_sync_soon(ended.set)
            except trio.RunFinishedError:
                pass

    threading.Thread(target=live, name="asyncio", daemon=True).start()
    try:
        yield loop
    finally:
        loop.close()
        with trio.move_on_after(CLOSE_SECONDS, shield=True):
            await ended.wait()


class AsyncioLoop:
    """An asyncio loop that runs in a thread. Made by `open_asyncio`."""

    def __init__(self) -> None:
        self._started = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over: asyncio.Event | None = None

    async def run(self, function: Callable[[*Ts], Coroutine[Any, Any, T]], *arguments: *Ts) -> T:
        """Await a function of asyncio's there, with this task's context variables.

        Cancelled, the function sees `asyncio.CancelledError`, and is waited for: it can clean up, and a
        handler that swallows it is the handler's own trouble, as always.

        Args:
            function: An async function.
            *arguments: What it is called with.

        Returns:
            What it returns, also if it does so after it was cancelled.
        """
        call = _Call(self._running_loop(), function(*arguments))
        answer: T = await call.wait()
        return answer

    async def live(self) -> None:
        """Be the loop, until `close`. In the thread."""
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        self._started.set()
        await self._over.wait()

    def close(self) -> None:
        """Have it end; what still runs there is cancelled."""
        loop = self._running_loop()
        assert self._over is not None  # noqa: S101 - it is set before the loop is known to run
        loop.call_soon_threadsafe(self._over.set)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        self._started.wait()  # a millisecond, once
        assert self._loop is not None  # noqa: S101
        return self._loop


class _Call:
    """One call, from the Trio task that waits for it to the asyncio task that does it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._loop = loop
        self._coroutine = coroutine
        self._context = contextvars.copy_context()
        self._waits = trio.lowlevel.current_task()
        self._token = trio.lowlevel.current_trio_token()
        self._task: asyncio.Task[Any] | None = None
        self._raise_cancel: Callable[[], Any] | None = None

    async def wait(self) -> Any:
        self._loop.call_soon_threadsafe(self._begin)
        try:
            return await trio.lowlevel.wait_task_rescheduled(self._cancel)
        except asyncio.CancelledError:
            if self._raise_cancel is not None:
                self._raise_cancel()
            raise RuntimeError("the asyncio function was cancelled, and not by its caller") from None  # noqa: ASYNC104

    def _cancel(self, raise_cancel: Callable[[], Any]) -> trio.lowlevel.Abort:
        self._raise_cancel = raise_cancel
        self._loop.call_soon_threadsafe(self._cancel_task)
        return trio.lowlevel.Abort.FAILED  # its end is waited for

    # In the thread.

    def _begin(self) -> None:
        self._task = self._loop.create_task(self._coroutine, context=self._context)
        self._task.add_done_callback(self._end)

    def _cancel_task(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _end(self, task: asyncio.Task[Any]) -> None:
        result = outcome.capture(task.result)
        try:
            self._token.run_sync_soon(trio.lowlevel.reschedule, self._waits, result)
        except trio.RunFinishedError:
            pass
