"""A bus between workers of one program, in virtual time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import trio

from trio_worker.bus import MOST_HINTS, Hint

__all__ = ["MemoryBus"]


class MemoryBus:
    """Each hint goes to the worker that has waited longest, as Redis does it.

    Attributes:
        offered: How many hints it was given.
        trouble: Set it to make the bus fail: hints are dropped, and nobody is given one.
    """

    def __init__(self) -> None:
        self.offered = 0
        self.trouble: str | None = None
        self._hints: deque[Hint] = deque(maxlen=MOST_HINTS)
        self._takers: deque[trio.Event] = deque()

    def offer(self, hint: Hint) -> None:
        """Store a hint; the oldest goes where there is no room."""
        if self.trouble is None:
            self.offered += 1
            self._hints.append(hint)
            self._wake_one()

    async def take(self, wanted: Callable[[], bool]) -> Hint | None:
        """Wait for a hint; None: none is wanted any more. Cancelled, none is lost."""
        await trio.lowlevel.checkpoint()
        while not self._hints:
            turn = trio.Event()
            self._takers.append(turn)
            try:
                await turn.wait()
            except trio.Cancelled:
                if turn.is_set():
                    self._wake_one()
                else:
                    self._takers.remove(turn)
                raise
            if not wanted():
                if self._hints:
                    self._wake_one()
                return None
        return self._hints.popleft()

    async def clear(self) -> bool:
        """Drop all hints; whether there were any."""
        await trio.lowlevel.checkpoint()
        had_some = bool(self._hints)
        self._hints.clear()
        return had_some

    def _wake_one(self) -> None:
        if self._takers:
            self._takers.popleft().set()
