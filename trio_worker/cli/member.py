"""One of the processes of ``trio-worker run --processes N``, as it sees itself: what it hears and tells.

A socket leads to the parent. What comes from there is a word a line; what goes there is a line of JSON
each second, and at once when it begins to drain. Not signals, which systemd and terminals send as well, and
which kill a Python that has not begun to listen for them. SIGTERM alone comes as one beside its word, since
it also works while the handler's module is imported and while a handler blocks the event loop; so a process
sends it to itself when its parent is gone. The word is for those whose module has taken SIGTERM for itself.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import attrs
import structlog
import trio

from trio_worker.front import Front
from trio_worker.stop import Stop

__all__ = ["DRAIN", "EVERY", "LOOK_AROUND", "NOW", "STOP", "Member", "lines"]

log = structlog.get_logger(__name__)

DRAIN, STOP, NOW, LOOK_AROUND = "drain", "stop", "now", "look around"

EVERY = 1.0  # seconds between two reports
LONGEST_LINE = 65_536  # bytes


@attrs.frozen
class Member:
    """What a process has been given by its parent.

    Attributes:
        index: Which it is, from 0.
        processes: How many there are.
        listener: The descriptor of the socket on which all of them listen.
        control: That of the socket to the parent.
    """

    index: int
    processes: int
    listener: int
    control: int

    @classmethod
    def read(cls, text: str) -> Member:
        """Read what `__str__` has written. The descriptors are kept from what this process starts.

        Raises:
            ValueError: It was written by somebody else.
        """
        member = cls(*map(int, text.split(":")))
        for descriptor in (member.listener, member.control):
            os.set_inheritable(descriptor, False)
        return member

    def __str__(self) -> str:
        return f"{self.index}:{self.processes}:{self.listener}:{self.control}"

    def follow_the_parent(self) -> None:
        """Stop this process, from now on, when the parent is gone: killed, or it would have waited.

        From a thread, a daemon until the end of this process: the event loop does not run yet, or a handler
        blocks it. Not the kernel's PR_SET_PDEATHSIG: that is sent at the end of the parent's thread.
        """
        end = os.dup(self.control)
        threading.Thread(target=_follow, args=(end,), name="trio-worker parent", daemon=True).start()

    async def keep_in_touch(self, front: Front, stop: Stop) -> None:
        """Tell the parent how this process is, and obey it. Never returns, unless the parent is gone.

        Begun when this process listens: the first report says so.

        Args:
            front: Knows how it is; is told of a death beside it.
            stop: Asked for by the parent, or because it is gone.
        """
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(socket.socket(fileno=self.control)))
        async with stream, trio.open_nursery() as nursery:
            nursery.start_soon(_report, stream, front, stop)
            await _obey(stream, front, stop)
            nursery.cancel_scope.cancel()
        stop.ask()


def _follow(end: int) -> None:
    hung_up = select.poll()
    hung_up.register(end, 0)  # for that alone: what comes is the event loop's
    hung_up.poll()
    log.warning("the parent process is gone")
    os.kill(os.getpid(), signal.SIGTERM)


async def _report(stream: trio.SocketStream, front: Front, stop: Stop) -> None:
    while True:
        drains = stop.asked.is_set() and not stop.limited.is_set()
        said = {"unready": front.readiness.reasons, "late": front.liveness.reasons, "drains": drains}
        try:
            await stream.send_all(json.dumps(said).encode() + b"\n")
        except trio.BrokenResourceError:
            return  # whoever reads there notices it, too
        with trio.move_on_after(EVERY):
            if stop.asked.is_set():
                await trio.sleep_forever()
            await stop.asked.wait()


async def _obey(stream: trio.SocketStream, front: Front, stop: Stop) -> None:
    acts: Mapping[str, Callable[[], Any]] = {
        DRAIN: stop.drain,
        STOP: stop.ask,
        NOW: stop.hurry,
        LOOK_AROUND: front.neighbours.note_death,
    }
    async for word in lines(stream):
        if word in acts:
            acts[word]()


async def lines(stream: trio.SocketStream) -> AsyncIterator[str]:
    """Give what comes, line by line, until the other end is gone. Of an overlong one only a piece is kept."""
    rest = b""
    try:
        async for piece in stream:
            *whole, rest = (rest + piece).split(b"\n")
            for line in whole:
                yield line.decode("utf-8", "replace")
            rest = rest[:LONGEST_LINE]
    except trio.BrokenResourceError:
        pass  # killed with something unread
