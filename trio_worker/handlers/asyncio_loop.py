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
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar, TypeVarTuple

import outcome
import structlog
import trio

from trio_worker.loop_thread import LoopThread

__all__ = ["AsyncioLoop", "open_asyncio"]

log = structlog.get_logger(__name__)

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

CLOSE_SECONDS = 2.0
"""For what is still running there when it is closed, and was cancelled."""

CLOSED = "the asyncio loop is closed: call it inside of its open_asyncio() block"


@asynccontextmanager
async def open_asyncio() -> AsyncIterator[AsyncioLoop]:
    """Start an asyncio loop in a thread of its own.

    At the end it is stopped, and waited for, for two seconds; then the thread, a daemon, is left behind.

    Raises:
        OSError: The loop can't be made: there are no descriptors left.
        RuntimeError: No thread can be started.
    """
    # Made here, so that what goes wrong is raised here. With a factory it is not made this thread's loop.
    runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
    loop = AsyncioLoop(runner)
    thread = threading.Thread(target=loop.live, name="asyncio", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        runner.close()
        raise
    try:
        yield loop
    finally:
        loop.close()
        with trio.move_on_after(CLOSE_SECONDS, shield=True):
            await loop.ended.wait()


class AsyncioLoop:
    """An asyncio loop that runs in a thread. Made by `open_asyncio`.

    Args:
        runner: Has the loop.

    Attributes:
        ended: Set when the thread has ended.
    """

    def __init__(self, runner: asyncio.Runner) -> None:
        self.ended = trio.Event()
        self._runner = runner
        self._loop = runner.get_loop()
        self._loop_thread = LoopThread()
        self._is_over = False
        self._calls: set[_Call] = set()

    async def run(self, function: Callable[[*Ts], Awaitable[T]], *arguments: *Ts) -> T:
        """Await a function of asyncio's there, with this task's context variables.

        Cancelled, the function sees `asyncio.CancelledError`, and is waited for: it can clean up, and a
        handler that swallows it is the handler's own trouble, as always.

        Args:
            function: An async function.
            *arguments: What it is called with.

        Returns:
            What it returns, also if it does so after it was cancelled.

        Raises:
            RuntimeError: The loop is closed, or has ended before the function has.
            BaseException: Whatever the function raises, also `SystemExit`.
        """
        call = _Call(self._loop, self._loop_thread, self._calls, function, arguments)
        answer: T = await call.wait()
        return answer

    def live(self) -> None:
        """Be the loop, until `close`. In the thread."""
        try:
            with self._runner:
                while not self._is_over:
                    self._run()
        except BaseException as error:  # noqa: ASYNC103 - no Trio in this thread, and nobody else is told
            log.error("the asyncio loop did not end as it should", exc_info=error)
        finally:
            self._is_over = True
            self._loop_thread.call(self._end)

    def close(self) -> None:
        """Have it end; what still runs there is cancelled."""
        self._is_over = True
        try:
            self._loop.call_soon_threadsafe(self._loop.stop)
        except RuntimeError:
            pass  # it has ended already

    def _run(self) -> None:
        try:
            self._loop.run_forever()  # it may be a handler that stops it
        except (SystemExit, KeyboardInterrupt) as error:
            # asyncio lets these through from any task, beside giving them to whoever awaits that. One query
            # must not take the loop from all others; what `run` was called for does not come here.
            log.error("a task of the asyncio loop has raised what ends programs; it goes on", exc_info=error)

    def _end(self) -> None:
        for call in list(self._calls):
            call.finish(outcome.Error(RuntimeError("the asyncio loop has ended before the function has")))
        self.ended.set()


class _Call:
    """One call, from the Trio task that waits for it to the asyncio task that does it."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        loop_thread: LoopThread,
        calls: set[_Call],
        function: Callable[..., Awaitable[Any]],
        arguments: tuple[object, ...],
    ) -> None:
        self._loop = loop
        self._loop_thread = loop_thread
        self._calls = calls
        self._function = function
        self._arguments = arguments
        self._context = contextvars.copy_context()
        self._waits = trio.lowlevel.current_task()
        self._task: asyncio.Task[outcome.Outcome[Any]] | None = None
        self._raise_cancel: Callable[[], Any] | None = None

    async def wait(self) -> Any:
        try:
            self._loop.call_soon_threadsafe(self._begin)
        except RuntimeError:
            raise RuntimeError(CLOSED) from None
        self._calls.add(self)
        try:
            return await trio.lowlevel.wait_task_rescheduled(self._cancel)
        except asyncio.CancelledError:
            if self._raise_cancel is not None:
                self._raise_cancel()
            raise RuntimeError("the asyncio function was cancelled, and not by its caller") from None  # noqa: ASYNC104

    def finish(self, result: outcome.Outcome[Any]) -> None:
        """Give the caller what came of it. The first time counts."""
        if self in self._calls:
            self._calls.discard(self)
            trio.lowlevel.reschedule(self._waits, result)

    def _cancel(self, raise_cancel: Callable[[], Any]) -> trio.lowlevel.Abort:
        self._raise_cancel = raise_cancel
        try:
            self._loop.call_soon_threadsafe(self._cancel_task)
        except RuntimeError:
            pass  # the loop has ended, and that comes to the caller next
        return trio.lowlevel.Abort.FAILED  # its end is waited for

    # In the thread.

    def _begin(self) -> None:
        self._task = self._loop.create_task(self._work(), context=self._context)
        self._task.add_done_callback(self._end)

    async def _work(self) -> outcome.Outcome[Any]:
        # As a value: asyncio's loop would end of a SystemExit that leaves its task.
        result: outcome.Outcome[Any] = await outcome.acapture(self._function, *self._arguments)
        return result

    def _cancel_task(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _end(self, task: asyncio.Task[outcome.Outcome[Any]]) -> None:
        # Cancelled before it has begun, it gives no value.
        result = outcome.Error(asyncio.CancelledError()) if task.cancelled() else task.result()
        self._loop_thread.call(self.finish, result)
