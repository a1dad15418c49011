"""The event loop's own thread: the way to it from whichever thread the user's code is in."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar, TypeVarTuple

import trio

__all__ = ["LoopThread"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class LoopThread:
    """The thread in which this was made, which is that of the event loop."""

    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._ident = threading.get_ident()

    def call(self, function: Callable[[*Ts], object], *arguments: *Ts, idempotent: bool = False) -> None:
        """Call a function there: at once when we are there, else soon. Never waits.

        From a thread that was left behind and has outlived the event loop it does nothing.

        Args:
            function: A synchronous one. What it raises there is a crash.
            *arguments: What it is called with.
            idempotent: Whether one call is enough for several that are still to come.
        """
        if threading.get_ident() == self._ident:
            function(*arguments)
            return
        try:
            self._token.run_sync_soon(function, *arguments, idempotent=idempotent)
        except trio.RunFinishedError:
            pass

    def wait_for(self, function: Callable[[], Awaitable[T]]) -> T | None:
        """Await a function there, and wait for it. In any other thread, whoever has started that.

        The function is cancelled with the event loop only; a deadline is its own matter.

        Args:
            function: An async one, to be called with nothing.

        Returns:
            What it returns; None when the event loop has ended meanwhile, or long ago.

        Raises:
            RuntimeError: We are in the event loop's own thread, which can't wait for itself.
        """
        try:
            return trio.from_thread.run(function, trio_token=self._token)
        except (trio.RunFinishedError, trio.Cancelled):  # noqa: ASYNC103 - nothing of Trio's runs in this thread
            return None  # noqa: ASYNC104
