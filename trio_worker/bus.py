"""The bus between workers: what one of them is told and has no free consumer for, another takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import attrs
import trio

__all__ = ["MOST_HINTS", "Bus", "Hint", "NoBus"]

MOST_HINTS = 256
"""How many hints a bus has room for, at least: each query that is found leads to the next, so these do."""


@attrs.frozen
class Hint:
    """Somewhere a query may wait. To believe a wrong one costs a claim that finds nothing.

    Attributes:
        query: The number that a push has named; 0: whichever. Never for choosing one: WebBuddy hands out.
        sender: The worker that had no free consumer: a number of its own.
    """

    query: int
    sender: int


class Bus(Protocol):
    """A bounded store of hints, each of which is taken by one worker.

    It has room while fewer than `MOST_HINTS` wait, and is bounded: the pipe, by its pages, holds up to twice
    as many on most machines, the others no more than that.

    Handed to one, and not called out to all: of fifty idle workers one claims, and there is nothing to be
    agreed upon. Hints may be lost, come late, twice, or be made up by somebody: push and poll are there.
    """

    def offer(self, hint: Hint) -> None:
        """Store a hint. Never waits and never fails: where there is no room, or no bus, it is dropped."""

    async def take(self, wanted: Callable[[], bool]) -> Hint | None:
        """Wait for a hint, for as long as it takes; one task at a time. Cancelled, one hint may be lost.

        Args:
            wanted: Asked after the wait, or each part of it. Who wants none any more leaves them to others.

        Returns:
            The hint, which may have come when none was wanted any more; None: none is wanted, or was taken.
        """

    async def clear(self) -> bool:
        """Drop all hints that are there.

        Returns:
            Whether there were any; False, too, where the bus can't be asked.
        """

    @property
    def trouble(self) -> str | None:
        """Why hints do not get through, as a sentence; None while they do. Never with a secret in it."""


class NoBus:
    """Nobody to share anything with."""

    trouble = None

    def offer(self, hint: Hint) -> None:
        """Drop it."""

    async def take(self, wanted: Callable[[], bool]) -> Hint | None:
        """Wait for ever."""
        await trio.sleep_forever()

    async def clear(self) -> bool:
        """There is nothing."""
        await trio.lowlevel.checkpoint()
        return False
