"""The stop: asked for once, with every deadline that follows from it."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import FrameType
from typing import Any

import structlog
import trio

from trio_worker.errors import WorkerError

__all__ = ["Stop", "last_resort", "only_cancelled"]

log = structlog.get_logger(__name__)

HURRY = 2.0  # seconds that "now" leaves for putting queries back
LAST_MOMENT = 0.1  # seconds after the end in which what has been cancelled there unwinds


class Stop:
    """When the service is to end, and by when each of its parts.

    ::

        ask()                  work_until        leave_until        end             closed
          │ no new query          │ handlers are    │ handlers that    │ what is not   │ nothing
          │ running ones go on    │ cancelled, put  │ swallow that are │ reported is   │ is waited
          │                       │ back, reported  │ left behind      │ left on disk  │ for

    ``drain()`` is ``ask()`` without an end: what runs may take as long as it likes. An ``ask()`` behind it
    begins the times above; whoever sees that all is done has to call it.

    A claim under way at ``ask()`` is seen through, at the longest until ``leave_until``. What the handler
    has opened is closed after the service, and has more time when that ends earlier.

    Args:
        grace: Seconds from the stop signal to the exit.
        reserve: The last seconds of them, for putting back, reporting and closing.
        closes: Whether the handler has something to close; if not, `closed` is `end`.

    Attributes:
        asked: Set when no new query is to be taken.
        limited: Set when the times above are known.
        hurried: Set when they are short.
        signal: The first one that `notice_signals` has noticed; None: none has come.
    """

    def __init__(self, *, grace: float, reserve: float, closes: bool = False) -> None:
        self.grace = grace
        self.reserve = reserve
        self.closes = closes
        self.asked = trio.Event()
        self.limited = trio.Event()
        self.hurried = trio.Event()
        self.work_until = math.inf
        self.leave_until = math.inf
        self.end = math.inf
        self.closed = math.inf
        self.forced_end = math.inf
        self.signal: int | None = None

    def notice_signals(self, *numbers: int, now_from: int | None) -> None:
        """Note when a signal comes, also while the event loop stands still and can't obey it.

        Brings `forced_end` forward, on `time.monotonic`: when the process has to be ended although a
        handler blocks the loop (see `trio_worker.watchdog`).

        Call it inside `trio.open_signal_receiver`: that one's handlers are called as before, and what
        was there before them is restored with its end.

        Args:
            numbers: The signals of the receiver.
            now_from: From which one on a signal means "now" and not "within the grace"; None: never.
        """
        count = 0
        for number in numbers:
            receive = signal.getsignal(number)

            def notice(number: int, frame: FrameType | None, receive: Any = receive) -> None:
                nonlocal count
                count += 1
                self.signal = self.signal or number
                self._force_within(self.grace if now_from is None or count < now_from else HURRY)
                receive(number, frame)

            signal.signal(number, notice)

    def drain(self) -> None:
        """Take nothing new, and let everything end, however long it takes. After `ask` it changes nothing."""
        self.asked.set()

    def ask(self) -> None:
        """Begin the stop, or give an end to a drain. Repeated calls change nothing."""
        if self.limited.is_set():
            return
        now = trio.current_time()
        self._plan(now + self.grace - self.reserve, self.reserve)
        self.limited.set()
        self.asked.set()

    def hurry(self) -> None:
        """Stop now: cancel what runs and put it back in about two seconds, at most in the reserve."""
        if self.hurried.is_set():
            return
        self._plan(trio.current_time(), min(HURRY, self.reserve))
        self.hurried.set()
        self.limited.set()
        self.asked.set()

    @contextmanager
    def after_a_crash(self) -> Iterator[None]:
        """Around the whole of a task: when that crashes, every other part has to end at once.

        Not around the nursery of the tasks: an exception leaves that only when the last of them is
        gone, and one that sees a claim through takes its time.
        """
        try:
            yield
        except BaseException as error:
            if only_cancelled(error):
                raise
            if not isinstance(error, WorkerError):
                # Here already: a handler that can't be stopped would keep the traceback in this
                # process until that is ended by force.
                log.critical("a part of the service has crashed: this is a bug", exc_info=error)
            self.hurry()
            raise

    def _plan(self, work_until: float, reserve: float) -> None:
        # Only ever sooner: a hurry near the end of the grace must not prolong it.
        self.work_until = min(self.work_until, work_until)
        self.leave_until = min(self.leave_until, work_until + reserve / 4)
        # A fifth of the reserve is for closing the server and the process itself, and one for the handler.
        self.end = min(self.end, work_until + reserve * (3 if self.closes else 4) / 5)
        self.closed = min(self.closed, work_until + reserve * 4 / 5)
        # Whoever has asked: what follows may block the loop, the closing of the handler too.
        self._force_within(work_until + reserve - trio.current_time())

    def _force_within(self, seconds: float) -> None:
        self.forced_end = min(self.forced_end, time.monotonic() + seconds)


def only_cancelled(error: BaseException) -> bool:
    """Whether an exception is nothing but a cancellation.

    Not always a bare `trio.Cancelled`: from a nursery, and `trio.open_tcp_stream` has one inside, it
    comes in a group, which ``except trio.Cancelled`` does not catch.
    """
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)[1] is None
    return isinstance(error, trio.Cancelled)


@asynccontextmanager
async def last_resort(stop: Stop, abandon: Callable[[], None]) -> AsyncIterator[None]:
    """Call ``abandon`` when the body is still there after the end of the stop.

    A task that swallows its cancellation keeps its nursery open for ever, and Trio, rightly, gives
    no way around that but the end of the process. Also armed when the body is cancelled or crashes.

    Args:
        stop: The stop.
        abandon: Ends the process. When it returns (in a test), the body is waited for all the same.
    """
    gone = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_watch, stop, gone, abandon)
        try:
            yield
        finally:
            gone.set()
            nursery.cancel_scope.cancel()


async def _watch(stop: Stop, gone: trio.Event, abandon: Callable[[], None]) -> None:
    try:
        await stop.limited.wait()
        with trio.move_on_at(stop.closed):
            await stop.hurried.wait()
        await trio.sleep_until(stop.closed + LAST_MOMENT)
    except trio.Cancelled:
        stop.hurry()
        with trio.move_on_at(stop.closed + LAST_MOMENT, shield=True):
            await gone.wait()
            raise
    abandon()
