"""A bus between workers of one program, in virtual time."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

import trio

from trio_worker.bus import MOST_HINTS, Hint

__all__ = ["MemoryBus"]


class MemoryBus:
    """Each hint goes to the worker that has waited longest.

    Without arguments as the pipe, whose calls take no time here: a hint can be taken at once, and stays for
    others where none is wanted any more.

    Args:
        batch: Seconds until a hint is there. On its way to Redis it waits so long for others, at most.
        wait: Seconds of a wait, after which it is asked whether a hint is wanted; who waits is given one,
            busy or not, as Redis does it. None: it is asked when there is a hint.

    Attributes:
        offered: How many hints it was given.
        trouble: Set it to make the bus fail: hints are dropped, and nobody is given one.
    """

    def __init__(self, *, batch: float = 0.0, wait: float | None = None) -> None:
        self.offered = 0
        self.trouble: str | None = None
        self._batch = batch
        self._wait = wait
        self._hints: deque[tuple[float, Hint]] = deque(maxlen=MOST_HINTS)  # since when each can be taken
        self._takers: deque[trio.Event] = deque()

    def offer(self, hint: Hint) -> None:
        """Store a hint; the oldest goes where there is no room."""
        if self.trouble is None:
            self.offered += 1
            self._hints.append((trio.current_time() + self._batch, hint))
            self._wake_one()

    async def take(self, wanted: Callable[[], bool]) -> Hint | None:
        """Wait for a hint; None: none is wanted any more. Cancelled, none is lost."""
        if self._wait is None:
            return await self._next(wanted)
        while True:
            with trio.move_on_after(self._wait):
                return await self._next(lambda: True)
            if not wanted():
                return None

    async def _next(self, wanted: Callable[[], bool]) -> Hint | None:
        await trio.lowlevel.checkpoint()
        while not self._hints:
            turn = trio.Event()
            self._takers.append(turn)
            try:
                await turn.wait()
                # Two that are on their way at once may come in either order, as those of a batch do.
                await trio.sleep_until(self._due)
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
        try:
            await trio.sleep_until(self._due)
        except trio.Cancelled:
            self._wake_one()
            raise
        return self._hints.popleft()[1] if self._hints else await self._next(wanted)

    @property
    def _due(self) -> float:
        return self._hints[0][0] if self._hints else -math.inf

    async def clear(self) -> bool:
        """Drop all hints; whether there were any."""
        await trio.lowlevel.checkpoint()
        had_some = bool(self._hints)
        self._hints.clear()
        return had_some

    def _wake_one(self) -> None:
        if self._takers:
            self._takers.popleft().set()
