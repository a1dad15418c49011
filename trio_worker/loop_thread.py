"""The event loop's own thread: the way to it from whichever thread the user's code is in."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVarTuple

import trio

__all__ = ["LoopThread"]

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
