"""Where blocking work runs: in a thread of its own or, in virtual time, in place."""

from __future__ import annotations

import queue
import threading
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import outcome
import trio

__all__ = ["Job", "Runner", "inline", "open_thread"]

T = TypeVar("T")

END_SECONDS = 1.0  # for the last piece of work of a thread; one that hangs is left to the end of the process


class Job(Generic[T]):
    """A blocking call under way. Await it for what it returns or raises; after a cancellation, once more.

    Args:
        function: What to call.
    """

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self._done = trio.Event()
        self._result: outcome.Maybe[T] | None = None

    def __await__(self) -> Generator[Any, Any, T]:
        """Wait for its end. Always a checkpoint."""
        return self._wait().__await__()

    def run(self) -> None:
        """Make the call, whatever it raises. In any thread."""
        self._result = outcome.capture(self._function)

    def finish(self) -> None:
        """Let those who wait have the result. In Trio's thread."""
        self._done.set()

    async def _wait(self) -> T:
        await self._done.wait()
        assert self._result is not None  # noqa: S101 - it has run
        return self._result.unwrap()


class Runner(Protocol):
    """Begins a blocking call. Calls are made one at a time, in the order in which they were begun.

    Who no longer waits for a call does not stop it.
    """

    def __call__(self, function: Callable[[], T], /) -> Job[T]:
        """Begin it."""
        ...


def inline(function: Callable[[], T]) -> Job[T]:
    """Make the call at once, here.

    For virtual time: while a thread works, Trio's mock clock takes everybody for idle and jumps.
    """
    job = Job(function)
    job.run()
    job.finish()
    return job


@asynccontextmanager
async def open_thread(name: str) -> AsyncIterator[Runner]:
    """Start a thread that makes one call after the other, and end it with the block.

    Not `trio.to_thread`: a hop there costs about 150 µs of CPU, as much as all else that the journal does for
    a query; here nothing is looked up, limited or started anew.

    A thread that hangs (a disk that does not answer) is left behind after a second. It is a daemon, and
    ends with the process.
    """
    work: queue.SimpleQueue[tuple[Job[Any], Callable[[], None]] | None] = queue.SimpleQueue()
    threading.Thread(target=_work, args=(work,), name=name, daemon=True).start()
    token = trio.lowlevel.current_trio_token()

    def begin(function: Callable[[], T]) -> Job[T]:
        job = Job(function)
        work.put((job, partial(token.run_sync_soon, job.finish)))
        return job

    try:
        yield begin
    finally:
        last = begin(_nothing)
        work.put(None)
        with trio.move_on_after(END_SECONDS, shield=True):
            await last


def _nothing() -> None:
    pass


def _work(work: queue.SimpleQueue[tuple[Job[Any], Callable[[], None]] | None]) -> None:
    while (item := work.get()) is not None:
        job, tell = item
        job.run()
        try:
            tell()
        except trio.RunFinishedError:
            pass  # nobody waits any more
