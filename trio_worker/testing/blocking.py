"""Finds a handler that blocks the event loop, in a test: for certain, and also on a machine that is busy.

The service's watchdog goes by the wall clock; by that, a test on a busy machine would fail for nothing. Here
counts what a single step of a task, from one await to the next, does with its thread:

- it waits in a call: neither at work nor queued for a processor, which Linux tells of each thread;
- it computes: by the thread's own processor time, which does not pass while others are at work.

The step itself is measured, by an instrument of Trio, so nothing depends on when somebody looks. And while a
step goes on for long, a thread interrupts it by a signal, again and again: the signal's handler runs in
the loop's thread, inside the call that blocks. There it measures, knows the line, and ends the call by an
exception, as pytest-timeout does; else a handler that waits for ever would hang the test.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import attrs
import trio

from trio_worker.handlers.loading import Handler
from trio_worker.watchdog import own_frame, place, stack

__all__ = ["COMPUTES", "WAITS", "BlockWatch", "LoopBlocked", "watch_for_blocks"]

WAITS = 0.3
"""Seconds that one step may wait. Less is not certain to be its fault: it reads a file from a slow disk, or
another thread has the interpreter's lock."""

COMPUTES = 1.0
"""Seconds of processor time that one step may take. Less than that is the import of a large library."""

ANYTHING = 2.0
"""Seconds that one step may wait where the system does not tell of the queue for the processor."""

LOOK = 0.1  # seconds between two looks whether a step goes on

# Ignored by whoever does not expect it, and nobody does: it tells of urgent data on a socket.
INTERRUPTION = signal.SIGURG

DEBUGGERS = ("bdb", "pdb", "pydevd", "_pydevd")  # names of modules, or their beginnings


class LoopBlocked(AssertionError):
    """A handler blocks the event loop. The text says for how long, and in which line."""


class Interrupted(BaseException):
    """Ends a call that blocks. Not an `Exception`: handlers try again after those."""


@attrs.frozen
class Times:
    """What a thread's clocks show, in seconds.

    Attributes:
        wall: The time that passes.
        computed: How long it was at work.
        queued: How long it was ready and had no processor; 0 where that is not told.
    """

    wall: float
    computed: float
    queued: float

    def __sub__(self, earlier: Times) -> Times:
        """Give what has passed since."""
        return Times(self.wall - earlier.wall, self.computed - earlier.computed, self.queued - earlier.queued)

    @property
    def waited(self) -> float:
        """How long it waited for something else than a processor."""
        return self.wall - self.computed - self.queued


class ThreadClock:
    """The clocks of the thread in which this was made. Read it there only."""

    def __init__(self) -> None:
        self._file = _open_schedstat()
        # The kernel counts when it takes the processor away: of a thread that has just begun, nothing yet.
        time.sleep(1e-6)
        self.tells_queued = self._file is not None and self._queued() is not None

    def read(self) -> Times:
        """Read them."""
        return Times(time.perf_counter(), time.thread_time(), self._queued() or 0.0)

    def close(self) -> None:
        """Close the file that some of them are in."""
        if self._file is not None:
            os.close(self._file)

    def _queued(self) -> float | None:
        if self._file is None:
            return None
        computed, queued, _ = os.pread(self._file, 100, 0).split()
        # A kernel that does not count has zeros there, also for a thread that is obviously at work.
        return int(queued) / 1e9 if int(computed) else None


def _open_schedstat() -> int | None:
    try:
        return os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None  # not Linux


class BlockWatch(trio.abc.Instrument):
    """Watches the steps of some tasks. Made by `watch_for_blocks`.

    Attributes:
        found: What was found first, in a sentence or two; None: nothing blocks.
    """

    def __init__(self, handler: Handler, root: trio.lowlevel.Task) -> None:
        self.found: str | None = None
        self._handler = handler
        self._root = root
        self._clock = ThreadClock()
        self._longest_wait = WAITS if self._clock.tells_queued else ANYTHING
        self._thread = threading.get_ident()
        self._over = threading.Event()
        self._step = 0
        self._task: trio.lowlevel.Task | None = None
        self._began: Times | None = None
        self._debugged = False

    # --- In the loop's thread -------------------------------------------------------------------------

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Begin to measure."""
        self._step += 1
        self._task = task
        self._began = self._clock.read()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Measure a step that nobody has interrupted: who would have done it had no processor for it."""
        if (how := self._how_it_blocks()) is not None:
            self._note(how, f"{self._handler.file}:{self._handler.line}, or what it calls")
        self._task = self._began = None

    def interrupted(self, _signal: int, frame: FrameType | None) -> None:
        """Measure a step that goes on, and end what blocks.

        Raises:
            Interrupted: In the middle of it.
        """
        if (how := self._how_it_blocks()) is None:
            return
        frames = stack(frame)
        if self._task is None or getattr(self._task.coro, "cr_frame", None) not in frames:
            return  # the step is over, and we are in Trio's own code
        if any(_module(frame).startswith(DEBUGGERS) for frame in frames):
            self._debugged = True  # somebody looks at it, and takes the time for that
            return
        own = own_frame(frames, self._handler) or frames[0]
        inside = "" if own is frames[0] else f", inside {place(frames[0])}"
        self._note(how, place(own) + inside)
        self._began = self._clock.read()
        raise Interrupted(how)

    def _how_it_blocks(self) -> str | None:
        if self._began is None or self._debugged:
            return None
        spent = self._clock.read() - self._began
        if spent.waited < self._longest_wait and spent.computed < COMPUTES:
            return None
        if not _is_below(self._task, self._root):
            return None  # a task of the test's own
        if spent.computed >= COMPUTES:
            return f"it has computed for {spent.computed:.1f} s without an await"
        return f"it has waited for {spent.waited:.1f} s without an await"

    def _note(self, how: str, where: str) -> None:
        self.found = self.found or (
            f"the handler blocks the event loop: {how}, at {where}.\n"
            "Meanwhile no time limit works, and all other queries stand still. Make it a plain def, or use"
            " trio.to_thread.run_sync (for what only computes: process:)."
        )

    # --- Beside it --------------------------------------------------------------------------------------

    def interrupt_long_steps(self) -> None:
        """Interrupt each step that is the same at two looks, until the end. In a thread of its own."""
        seen = 0
        while not self._over.wait(LOOK):
            if self._began is not None and self._step == seen:
                signal.pthread_kill(self._thread, INTERRUPTION)
            seen = self._step

    def stop_interrupting(self) -> None:
        """End that thread."""
        self._over.set()

    def close(self) -> None:
        """Nothing is measured any more."""
        self._clock.close()


@contextmanager
def watch_for_blocks(handler: Handler, root: trio.lowlevel.Task) -> Iterator[BlockWatch]:
    """Find out whether a task, or one below it, blocks the event loop while the body runs.

    In another thread than the program's first one a block is found when it ends, and only roughly placed: a
    signal goes to the first.

    Args:
        handler: What is blamed.
        root: The task; the body belongs to it or not.
    """
    watch = BlockWatch(handler, root)
    trio.lowlevel.add_instrument(watch)
    try:
        with _interrupted(watch):
            yield watch
    finally:
        trio.lowlevel.remove_instrument(watch)
        watch.close()


@contextmanager
def _interrupted(watch: BlockWatch) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(INTERRUPTION, watch.interrupted)
    thread = threading.Thread(
        target=watch.interrupt_long_steps, name="trio-worker interruptions", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        watch.stop_interrupting()
        thread.join()  # ends with its look; then no signal is on its way
        signal.signal(INTERRUPTION, before)


def _is_below(task: trio.lowlevel.Task | None, root: trio.lowlevel.Task) -> bool:
    while task is not None and task is not root:
        task = task.parent_nursery.parent_task if task.parent_nursery is not None else None
    return task is root


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))
