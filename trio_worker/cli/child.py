"""A process of ``trio-worker run --processes N``, as its parent sees it; its own side is `Member`."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import structlog
import trio

import trio_worker
from trio_worker.cli.member import DRAIN, NOW, STOP, Member, lines
from trio_worker.probes import NOT_LOGGED_IN
from trio_worker.stop import Stop
from trio_worker.systemd import NOT_STARTED

__all__ = ["PATIENCE", "STARTS_WITHIN", "Child", "start_child"]

log = structlog.get_logger(__name__)

PATIENCE = 60
"""Seconds for which a process may be silent, or its loops late: as with ``WatchdogSec=60``."""

STARTS_WITHIN = 600
"""Seconds within which a process has to listen: it imports the handler's module, which may load a model."""

LAST_WORDS = 1.0  # seconds for what a process has said before its end
DYING = 5  # seconds from SIGABRT to SIGKILL


@attrs.define(eq=False)
class Child:
    """One process, from its start to its end.

    Attributes:
        index: Which it is.
        process: The process.
        began_at: When it was started, on Trio's clock.
        listens: Set once it listens.
        began: Set once it has opened its handler and logged in, or knows that WebBuddy is away.
        drains: Set once it has said that it drains.
        unready: What keeps it from its job, as ``/readyz`` has it.
        late: Which of its loops are late, as ``/livez`` has it.
    """

    index: int
    process: trio.Process
    began_at: float
    _stream: trio.SocketStream
    listens: trio.Event = attrs.field(factory=trio.Event)
    began: trio.Event = attrs.field(factory=trio.Event)
    drains: trio.Event = attrs.field(factory=trio.Event)
    unready: dict[str, str] = attrs.field(factory=dict)
    late: dict[str, str] = attrs.field(factory=dict)
    _unwell: int = 0
    _is_settled: bool = False
    _is_to_drain: bool = False

    async def see_through(self, stop: Stop) -> int:
        """Hear what it says, and pass the stop on to it, until it has ended.

        Returns:
            Its exit code; negative: the signal that has killed it.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._pass_on, stop)
            async with trio.open_nursery() as hearing:
                hearing.start_soon(self.hear)
                code: int = await self.process.wait()
                # Its last words, perhaps that it drains; a process that it has left may keep the socket open.
                hearing.cancel_scope.deadline = trio.current_time() + LAST_WORDS
            nursery.cancel_scope.cancel()
        await self.aclose()
        return code

    async def hear(self) -> None:
        """Take in what it says of itself, until the end."""
        async for line in lines(self._stream):
            with suppress(ValueError):  # printed there by a handler, perhaps
                self._note(json.loads(line))

    def _note(self, said: Any) -> None:
        match said:
            case {"unready": dict(unready), "late": dict(late), "drains": bool(drains)}:
                self.unready, self.late = unready, late
            case _:
                return
        if drains:
            self.drains.set()
        if not self.listens.is_set():
            self._unwell = 0
            self.listens.set()
        if not self.unready.keys() & NOT_STARTED and self.unready.get("login") != NOT_LOGGED_IN:
            self.began.set()
            self._is_settled |= "recovery" not in self.unready
        if self._is_to_drain and not drains:
            self.drain()
        if not self.late:
            self._unwell = 0

    async def _pass_on(self, stop: Stop) -> None:
        await stop.asked.wait()
        if not stop.limited.is_set():
            self.drain()
            await stop.limited.wait()
        self.tell(STOP)
        self.process.send_signal(signal.SIGTERM)
        await stop.hurried.wait()
        self.tell(NOW)

    def drain(self) -> None:
        """Tell it to drain; one that takes the place of another takes up first what that one has left."""
        self._is_to_drain = True
        if self._is_settled:
            self.tell(DRAIN)

    async def aclose(self) -> None:
        """Close the socket to it."""
        await self._stream.aclose()

    def tell(self, word: str) -> None:
        """Tell it something. Never waits: one that hears nothing any more is ended by other means."""
        with suppress(OSError):
            os.write(self._stream.socket.fileno(), f"{word}\n".encode())

    @property
    def problem(self) -> str:
        """What keeps it from its job; empty: nothing does."""
        return "; ".join(self.unready.values()) if self.listens.is_set() else "it is being started"

    @property
    def is_overdue(self) -> bool:
        """Whether it should have been killed long ago, and is still there."""
        return self._unwell > self._patience + 2 * DYING

    def look_after(self) -> None:
        """Kill it when it has been silent or late for too long. To be called each second.

        Counted in calls and not by a clock: for a parent that was stopped for an hour all have been silent.
        """
        self._unwell += 1
        if self._unwell == self._patience:
            log.error("a process is ended, for only a restart helps", **self._about, reason=self._fault)
            self.process.send_signal(signal.SIGABRT)
        elif self._unwell >= self._patience + DYING:
            self.process.kill()
        elif self._unwell == PATIENCE:
            log.warning("a process still imports the handler's module, or hangs there", **self._about)

    @property
    def _patience(self) -> int:
        return PATIENCE if self.listens.is_set() else STARTS_WITHIN

    @property
    def _about(self) -> dict[str, int]:
        return {"process": self.index, "pid": self.process.pid, "seconds": self._unwell}

    @property
    def _fault(self) -> str:
        if not self.listens.is_set():
            return "the import of the handler's module has not ended"
        return "; ".join(f"{name}: {reason}" for name, reason in self.late.items()) or "it has said nothing"


async def start_child(index: int, processes: int, listener: socket.socket) -> Child:
    """Start one. `Child.see_through` has to be run at once.

    In a process group of its own: Ctrl-C is for the parent, which passes it on.

    Raises:
        OSError: There can be none.
    """
    # -P, as for the processes of handlers: the user's queue.py must not stand before the standard library's.
    safe = [] if Path(trio_worker.__file__).parents[1] == Path.cwd() else ["-P"]
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            member = Member(index, processes, listener.fileno(), theirs.fileno())
            process = await trio.lowlevel.open_process(
                [sys.executable, *safe, "-m", "trio_worker", "run", "--member", str(member)],
                stdin=subprocess.DEVNULL,
                pass_fds=(listener.fileno(), theirs.fileno()),
                process_group=0,
            )
    except BaseException:
        ours.close()
        raise
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    return Child(index, process, trio.current_time(), stream)
