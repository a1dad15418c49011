"""Plain functions in threads, which can be left but not stopped."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol

import structlog
import trio

__all__ = ["PlainCall", "PlainThread", "in_a_thread"]

log = structlog.get_logger(__name__)

# Bounded by the consumers and by what was left behind, not by a number of ours: a limiter would let
# one thread that hangs keep the next query waiting inside its own time limit.
_threads = trio.CapacityLimiter(math.inf)

PlainCall = Callable[[Callable[[], tuple[Any]]], Awaitable[tuple[Any]]]


async def in_a_thread(call: Callable[[], tuple[Any]]) -> tuple[Any]:
    """Make a call in a thread of its own. Cancelled, the thread is left behind."""
    return await trio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=_threads)


class _LeftBehind(Protocol):
    """As `trio_worker.left_behind.LeftBehind`."""

    threads: int

    def add(self, *, threads: int) -> None: ...


class PlainThread:
    """One call of a plain function, counted from when it is left behind until it ends.

    Args:
        left_behind: Counts it.
        **about: Of the call, for the log.

    Attributes:
        left: Whether it was left behind.
    """

    def __init__(self, left_behind: _LeftBehind, **about: object) -> None:
        self._left_behind = left_behind
        self._about = about
        self._token = trio.lowlevel.current_trio_token()
        self._running = True
        self.left = False

    async def call(self, function: Callable[[], Any], by: PlainCall) -> Any:
        """Call the function. Cancelled, its thread is left behind.

        Args:
            function: It.
            by: Makes the call, in a thread, or in place where time is virtual.

        Raises:
            BaseException: What the function raises.
        """
        await trio.lowlevel.checkpoint_if_cancelled()  # or a thread would be counted that never began
        try:
            (answer,) = await by(partial(self._run, function))
        except trio.Cancelled:
            self._leave()
            raise
        return answer

    def _run(self, function: Callable[[], Any]) -> tuple[Any]:
        try:
            # In a tuple: for a coroutine, Trio would raise a TypeError of its own.
            return (function(),)
        finally:
            try:
                self._token.run_sync_soon(self._note_end)
            except trio.RunFinishedError:
                pass  # the worker has ended without it

    def _leave(self) -> None:
        if self._running:
            self.left = True
            self._left_behind.add(threads=1)
            log.error(
                "a thread was left behind: a plain function can't be stopped",
                **self._about,
                left_behind=self._left_behind.threads,
            )

    def _note_end(self) -> None:
        self._running = False
        if self.left:
            self._left_behind.add(threads=-1)
            still = self._left_behind.threads
            log.warning("a thread that was left behind has ended", **self._about, still=still)
