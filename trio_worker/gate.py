"""A gate: open or closed, and one may wait before it."""

from __future__ import annotations

import trio

__all__ = ["Gate"]


class Gate:
    """Begins open.

    Opening and closing are synchronous, and may be repeated.
    """

    def __init__(self) -> None:
        self._opened = trio.Event()
        self._opened.set()

    @property
    def is_open(self) -> bool:
        """Whether one may pass."""
        return self._opened.is_set()

    def open(self) -> None:
        """Let pass whoever waits."""
        self._opened.set()

    def close(self) -> None:
        """Hold back whoever comes."""
        if self._opened.is_set():
            self._opened = trio.Event()

    def keep(self, *, open: bool) -> None:
        """Open or close it."""
        self.open() if open else self.close()

    async def wait(self) -> None:
        """Wait until it is open. Not a checkpoint while it is."""
        while not self.is_open:
            await self._opened.wait()
