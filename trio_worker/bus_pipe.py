"""The bus of one machine: a named pipe in the state folder, of the processes that share it.

::

    localhost-8000-worker-1f2e3d4c/
    └── wakeups.pipe    16 bytes for each hint

Whoever has a consumer free waits until it can be read; the kernel gives each hint to one reader, keeps what
nobody reads, up to two pages of it, and forgets it with the last process. GNU make shares out jobs like that:
https://www.gnu.org/software/make/manual/html_node/POSIX-Jobserver.html. Not a datagram socket for each:
who sends would have to know who is free, and to try the next where that is wrong.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import stat
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import attrs
import structlog
import trio

from trio_worker.bus import MOST_HINTS, Bus, Hint, NoBus
from trio_worker.errors import JournalError
from trio_worker.runners import Runner
from trio_worker.state_folder import StateFolder

__all__ = ["open_pipe_bus"]

log = structlog.get_logger(__name__)

PIPE = "wakeups.pipe"
HINT = struct.Struct("<qQ")
LARGEST = 131_072
"""Bytes in the pipe at most: two pages of 64 KiB, or what macOS makes of it."""


@asynccontextmanager
async def open_pipe_bus(folder: StateFolder, *, runner: Runner) -> AsyncIterator[Bus]:
    """Open the pipe of a state folder, and make it where there is none.

    Where that can't be done (a disk without pipes), this process shares with nobody, and says so in its log.

    Args:
        folder: Whose processes share it: those of one account at one WebBuddy.
        runner: Where the disk is waited for.
    """
    try:
        descriptor = await runner(partial(_open, folder))
    except (OSError, JournalError) as error:
        log.warning("this process shares no wake-ups with others on this machine", reason=str(error))
        yield NoBus()
        return
    bus = _PipeBus(descriptor)
    try:
        yield bus
    finally:
        bus.is_open = False
        trio.lowlevel.notify_closing(descriptor)
        os.close(descriptor)


def _open(folder: StateFolder) -> int:
    folder.make()
    path = folder.path / PIPE
    try:
        os.mkfifo(path, 0o600)
    except FileExistsError:
        pass  # of another process, or of one that was here before
    # For reading and writing: one end alone would wait for the other, or end when all others are gone.
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _bound(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _bound(descriptor: int) -> None:
    """Let the kernel keep no more hints than are of use. macOS has its own bound, up to 16 times as high.

    Two pages: Linux has room again only when *all* of a page was read, so that one alone would be full after
    a page of hints since it was last empty, of which none may wait any more. Of two, one is never in the way.
    """
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        raise OSError(f"{PIPE} in the state folder is no pipe; it can be removed")
    resize = getattr(fcntl, "F_SETPIPE_SZ", None)
    if resize is not None:
        fcntl.fcntl(descriptor, resize, 2 * max(MOST_HINTS * HINT.size, mmap.PAGESIZE))


@attrs.define
class _PipeBus:
    """Hints of 16 bytes, written and read in one piece: the kernel does not mix those."""

    _descriptor: int
    is_open: bool = True

    @property
    def trouble(self) -> None:
        return None

    def offer(self, hint: Hint) -> None:
        if not self.is_open:  # a push that is answered after the end: the number is somebody else's by now
            return
        try:
            os.write(self._descriptor, HINT.pack(hint.query, hint.sender))
        except BlockingIOError:
            pass  # it is full: whoever reads finds more than enough

    async def take(self, wanted: Callable[[], bool]) -> Hint | None:
        while True:
            await trio.lowlevel.wait_readable(self._descriptor)
            if not wanted():  # all who wait see it: it stays for them
                return None
            try:
                return _hint(os.read(self._descriptor, HINT.size))
            except BlockingIOError:
                pass  # another process was faster

    async def clear(self) -> bool:
        await trio.lowlevel.checkpoint()
        try:
            return bool(os.read(self._descriptor, LARGEST))
        except BlockingIOError:
            return False


def _hint(data: bytes) -> Hint:
    """Read a hint; of what somebody else has written into the pipe, only that something may wait."""
    return Hint(*HINT.unpack(data)) if len(data) == HINT.size else Hint(0, 0)
