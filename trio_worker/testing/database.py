"""How calls to the embedded WebBuddy share its database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import attrs
import trio

if TYPE_CHECKING:
    from trio_worker.testing.webbuddy import WebBuddy

__all__ = ["Database", "DatabaseLockedError"]

BUSY_TIMEOUT = 5.0  # seconds; Python's sqlite3 and Django leave it at that


class DatabaseLockedError(Exception):
    """SQLite refused the lock; Django makes a 500 of it."""


@attrs.define
class Database:
    """Nothing on PostgreSQL; on SQLite, one write at a time and claims that do not wait.

    A claim reads before it writes, in one transaction. When somebody else has begun to write in
    the meantime, SQLite sees that the two would wait for each other and refuses the claim at
    once. Any other write is a single statement, and waits its turn.
    """

    webbuddy: WebBuddy
    _write_lock: trio.Lock = attrs.field(factory=trio.Lock, init=False)

    async def select(self) -> None:
        """Take the time of the SELECT that a claim begins with."""
        if self.webbuddy.sqlite:
            await trio.sleep(self.webbuddy.write_seconds)

    @asynccontextmanager
    async def upgrade(self) -> AsyncIterator[None]:
        """Hold the database for the UPDATE of a claim.

        Raises:
            DatabaseLockedError: At once, when another write is under way.
        """
        if not self.webbuddy.sqlite:
            yield
            return
        try:
            self._write_lock.acquire_nowait()
        except trio.WouldBlock:
            raise DatabaseLockedError from None
        async with self._held():
            yield

    @asynccontextmanager
    async def write(self) -> AsyncIterator[None]:
        """Hold the database for any other write.

        Raises:
            DatabaseLockedError: When it did not come free in 5 seconds.
        """
        if not self.webbuddy.sqlite:
            yield
            return
        with trio.move_on_after(BUSY_TIMEOUT) as waiting:
            await self._write_lock.acquire()
        if waiting.cancelled_caught:
            raise DatabaseLockedError
        async with self._held():
            yield

    @asynccontextmanager
    async def _held(self) -> AsyncIterator[None]:
        try:
            yield
            await trio.sleep(self.webbuddy.write_seconds)  # the journal and its fsync
        finally:
            self._write_lock.release()
