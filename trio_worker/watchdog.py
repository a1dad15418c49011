"""Names the handler that blocks the event loop.

``time.sleep`` or ``requests.get`` in an async handler is the newcomer's first bug, and a quiet one:
claims, deadlines, logs and probes all stand still together, and nothing in the loop can say so.
"""

from __future__ import annotations

import itertools
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import attrs
import structlog
import trio

from trio_worker import execution
from trio_worker.handlers.loading import Handler
from trio_worker.tallies import SHORT, Spread

__all__ = ["own_frame", "place", "stack", "watchdog"]

log = structlog.get_logger(__name__)

PAUSE = 0.45  # seconds between two looks at the loop
WAKE_EACH = 10  # looks at a loop that waits: what has come for it may wait, too
TOLERANCE = 0.5  # seconds in which it has to answer; with the pause, a block is named within a second
STEP = 0.5  # seconds between two looks at a loop that stands still
REPEAT = 60.0  # seconds after which it is named once more


@contextmanager
def watchdog(
    handler: Handler,
    *,
    forced_end: Callable[[], float] = lambda: math.inf,
    abandon: Callable[[], None] = lambda: None,
    delays: Spread | None = None,
) -> Iterator[None]:
    """Watch the event loop from a thread while the body runs.

    While the loop stands still no time limit and no signal works. When the process was asked to stop,
    this thread ends it: the queries that run then stay ``in_progress``.

    A thread and not a Trio instrument alone: a loop that stands still can't report anything, and an
    instrument of each step costs something at every step of every task. A loop that waits for something to
    happen outside is asked each tenth time only: to wake it was half of what an idle worker did.

    Args:
        handler: The handler to name.
        forced_end: By when, on `time.monotonic`, the process has to be ended though the loop stands
            still; asked from the thread.
        abandon: Ends the process. Called in the thread, and again half a second later if it returns.
        delays: Takes how late the loop was each time that it was asked.
    """
    token = trio.lowlevel.current_trio_token()
    rest = _Rest()
    trio.lowlevel.add_instrument(rest)
    watch = _Watch(handler, token, threading.get_ident(), rest, forced_end, abandon, delays or Spread(SHORT))
    thread = threading.Thread(target=watch.run, name="trio-worker watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        watch.stop()
        thread.join(TOLERANCE)
        trio.lowlevel.remove_instrument(rest)


class _Rest(trio.abc.Instrument):
    """Knows whether the loop waits for something to happen outside. Called twice in each round of it.

    A wait whose time is over is none: the loop wants to go on, and gets no processor or not the interpreter's
    lock.
    """

    def __init__(self) -> None:
        self._until = -math.inf

    @property
    def is_on(self) -> bool:
        """Whether it waits now; in any thread."""
        return time.monotonic() < self._until

    def before_io_wait(self, timeout: float) -> None:
        if timeout > 0:
            self._until = time.monotonic() + timeout

    def after_io_wait(self, timeout: float) -> None:
        self._until = -math.inf


@attrs.define
class _Watch:
    handler: Handler
    token: trio.lowlevel.TrioToken
    loop_thread: int
    rest: _Rest
    forced_end: Callable[[], float]
    abandon: Callable[[], None]
    delays: Spread = attrs.field(factory=lambda: Spread(SHORT))
    stopping: threading.Event = attrs.field(factory=threading.Event)
    answered: threading.Event = attrs.field(factory=threading.Event)

    def stop(self) -> None:
        self.stopping.set()
        self.answered.set()

    def run(self) -> None:
        for look in itertools.count(1):
            if self.stopping.wait(PAUSE):
                return
            if self.rest.is_on and look % WAKE_EACH:
                self.delays.add(0.0)  # `answer`, which adds in the loop, has been waited for
                continue
            asked = time.monotonic()
            self.answered.clear()
            if self.stopping.is_set():
                return  # else `stop` may have come just before `clear`, and the loop waits for us
            try:
                self.token.run_sync_soon(self.answer, asked)
            except trio.RunFinishedError:
                return
            if not self.answered.wait(TOLERANCE):
                self.wait_for_it()
                seconds = round(time.monotonic() - asked, 1)
                log.warning("the event loop runs again", blocked_seconds=seconds)

    def answer(self, asked: float) -> None:
        """In the loop, as soon as it comes to that."""
        self.delays.add(time.monotonic() - asked)
        self.answered.set()

    def wait_for_it(self) -> None:
        """Name what blocks the loop, now and then again, until it runs or has to be given up."""
        name_next = time.monotonic()
        while True:
            if time.monotonic() >= name_next:
                self.name_it()
                name_next += REPEAT
            if time.monotonic() >= self.forced_end():
                self.abandon()
            if self.answered.wait(STEP):
                return

    def name_it(self) -> None:
        frames = stack(sys._current_frames().get(self.loop_thread))
        attempt = _attempt_in(frames)
        own = own_frame(frames, self.handler if attempt is None else attempt.execution.handler)
        if attempt is None and own is None:
            log.warning("the event loop stands still", at=place(frames[0]) if frames else "unknown")
            return
        log.error(
            "the handler blocks the whole worker: make it a plain def, or use trio.to_thread.run_sync",
            handler=self.handler.path,
            at=place(own or frames[0]),
            # Not known in a task of the handler's own nursery.
            query=attempt.query.id if attempt is not None else None,
            **({"inside": place(frames[0])} if own not in (None, frames[0]) else {}),
        )


def stack(frame: FrameType | None) -> list[FrameType]:
    """List a frame and those that have called it, innermost first."""
    frames = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames


def _attempt_in(frames: list[FrameType]) -> execution.Attempt | None:
    for frame in frames:
        if frame.f_code is execution.Attempt.run.__code__:
            attempt: execution.Attempt = frame.f_locals["self"]
            return attempt
    return None


def own_frame(frames: list[FrameType], handler: Handler) -> FrameType | None:
    """Find the innermost line of the handler's own file: what its author has to change."""
    return next((frame for frame in frames if frame.f_code.co_filename == handler.file), None)


def place(frame: FrameType) -> str:
    """Say where a frame is, as ``file:line in function``."""
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
