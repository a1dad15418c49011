"""The log of one query: lines in, entries out.

WebBuddy shows only the first 50 entries of a query, so at most 40 are sent, over all attempts at the
query, by one schedule:

- the first 20 as soon as they can go;
- then each waits half as long again as the one before (1 s, 1.5 s, 2.25 s, …), and takes with it
  all lines that have come meanwhile: a handler that logs for an hour is still seen to be alive;
- the last is kept for the end, so the last line always arrives.

Lines travel together that come within a quarter of a second, since WebBuddy's page asks every 3 s
anyway, and those that come while a request is under way.

What has not gone out is also written to a journal, through a `LineSink`: so a restart loses none of it.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import attrs
import trio

from trio_worker.log_lines import MOST_ENTRY, SEPARATOR, Batch, Line, LogLines
from trio_worker.loop_thread import LoopThread
from trio_worker.masks import masks
from trio_worker.phrases import Phrases
from trio_worker.plain_text import clean

__all__ = ["GATHER", "SEPARATOR", "Fresh", "Line", "LineSink", "Past", "QueryLog"]

MOST_ENTRIES = 40
PROMPT_ENTRIES = 20
GATHER = 0.25
"""Seconds for which a line waits for others, to travel together."""

GROWTH = 1.5

MOST_ARRIVED = 32
"""Lines that others may leave to the thread that is putting theirs in. Of a flood they wait for it:"""
PATIENCE = 0.001  # seconds; in vain only where a `__del__` logs that many lines


@attrs.frozen
class Fresh:
    """What is to be written down.

    Attributes:
        lines: New lines, in order.
        left_out: The first and the last number of a range that was left out and may be deleted; not all
            of it was ever written down. None: nothing.
    """

    lines: Sequence[Line]
    left_out: tuple[int, int] | None


@attrs.frozen
class Past:
    """What a journal knew of a log when the process before this one died.

    Attributes:
        entries: How many entries had gone out.
        earlier: How many had gone out in earlier claims of the query; they count for the cap alone.
        last_number: The highest number that was ever used for a line.
        lines: Those that had not gone out, in order: number, time and text of each.
    """

    entries: int = 0
    last_number: int = 0
    lines: Sequence[tuple[int, str, str]] = ()
    earlier: int = 0


_NO_PAST = Past()


class LineSink(Protocol):
    """Where a log is written down. Called on the thread of the event loop only."""

    def lines_wait(self, collect: Callable[[], Fresh]) -> None:
        """There is something to be written down.

        Not called again before ``collect`` was.

        Args:
            collect: Gives it. To be called once, later, on the thread of the event loop.
        """

    def sent(self, entries: int, up_to: int) -> None:
        """Entries have gone out.

        Args:
            entries: How many in all.
            up_to: All lines up to this number have gone out with them, or were left out.
        """


class QueryLog:
    """Takes the lines of one query and gives them out as entries.

    `write` may be called from any thread. The rest belongs to the thread of the event loop. One
    task at a time reads, with `next_entry` and `sent`.

    Unsent lines are kept up to 256 000 characters; of more, the first and the last half.

    Args:
        phrases: The language of the note about lines left out.
        began: `trio.current_time` at which the query was claimed; lines that travel together carry
            the seconds since then, because WebBuddy's page shows no time.
        sink: Where the lines are written down; None: nowhere.
        past: What was written down by a process that has died.
    """

    def __init__(
        self, phrases: Phrases, *, began: float, sink: LineSink | None = None, past: Past = _NO_PAST
    ) -> None:
        self._began = began
        # From a thread there is no `trio.current_time`; the clock itself may be asked from anywhere.
        self._clock = trio.lowlevel.current_clock()
        self._loop_thread = LoopThread()
        self._lock = threading.Lock()  # of `_lines`
        self._arrived: deque[tuple[str, str]] = deque()  # and not yet among them: time and text
        self._lines = LogLines(phrases, past.last_number, [Line(*line) for line in past.lines])
        self._restored = past.last_number
        self._sent = self._lines.gone  # the number up to which all has gone out
        self._sink = sink
        self._collected = past.last_number  # the number up to which the sink has all
        self._collecting = False
        self._written = trio.Event()
        self._since = trio.current_time()  # of the first line behind the last wait for one
        self._closed = trio.Event()
        self._closed_at: float | None = None
        self._given: Batch | None = None  # given out and not yet known to have arrived
        self._count = past.entries + past.earlier
        self._earlier = past.earlier
        self._not_before = began if self._is_first else trio.current_time() + self._pause()
        self._open = True

    @property
    def closed_at(self) -> float | None:
        """`trio.current_time` of the end of the query, or None while it runs."""
        return self._closed_at

    def write(self, text: str) -> None:
        """Add a line. Never waits, never fails; does nothing after the end.

        Callable from any thread. Blank lines are left out: WebBuddy refuses them.
        """
        line = masks.hide(clean(text))
        if not line:
            return
        self._arrived.append((self._now(), line))
        self._take_in()

    def _now(self) -> str:
        return f"+{max(0.0, self._clock.current_time() - self._began):.1f}s"

    def _take_in(self) -> None:
        """Put what has arrived among the lines. Who can't have the lock leaves that to who has it.

        Never by waiting for it: a `__del__` that logs comes here whenever the garbage collector runs. It may
        be this thread that has the lock, or one that waits for a lock which this one has, `logging`'s or
        Trio's. Whoever has had it looks again afterwards, so that no line is left.
        """
        while self._arrived:
            patience = PATIENCE if len(self._arrived) > MOST_ARRIVED else 0
            if not self._lock.acquire(timeout=patience):
                return
            try:
                self._add_arrived()
            finally:
                self._lock.release()
            self._loop_thread.call(self._note_lines, idempotent=True)

    def _add_arrived(self) -> None:
        while self._arrived:
            time, text = self._arrived.popleft()
            if self._open:
                self._lines.add(time, text)

    @contextmanager
    def _reading(self) -> Iterator[LogLines]:
        """Have the lines to oneself. On the event loop's thread, which no `__del__` comes to wait for."""
        try:
            with self._lock:
                yield self._lines
        finally:
            self._take_in()

    def close(self, last: str) -> None:
        """End the log with a last line. What is written later is ignored. Again, it does nothing.

        Args:
            last: How the query ended; may be blank.
        """
        if self._closed_at is not None:
            return
        line = masks.hide(clean(last))
        with self._reading() as lines:
            self._add_arrived()
            self._open = False
            if line:
                lines.add(self._now(), line)
        self._closed_at = trio.current_time()
        self._closed.set()
        self._note_lines()  # a thread's too, that the loop has not heard of yet

    async def next_entry(self) -> str | None:
        """Wait for the next entry, by the schedule.

        The same entry is returned again until `sent` is called, so nothing is lost by cancelling.

        Returns:
            Its text, or None when the log is closed and everything was given out.
        """
        if self._given is None:
            await self._due()
            with self._reading() as lines:
                self._given = lines.take(math.inf if self._is_last else MOST_ENTRY)
        return self._given.text if self._given is not None else None

    @property
    def unsent_lines(self) -> int:
        """How many lines have not arrived, or are not known to have; those left out are counted."""
        return self._lines.newest - self._sent

    def sent(self) -> tuple[int, int]:
        """The entry given out last has arrived, or never will.

        Returns:
            How many lines it had, and how many were left out among them and behind them.

        Raises:
            RuntimeError: None is given out.
        """
        if self._given is None:
            raise RuntimeError("no entry is given out")
        given, self._given = self._given, None
        left_out = given.up_to - self._sent - len(given.lines)
        self._went_out(given.up_to)
        return len(given.lines), left_out

    def skip_arrived(self, texts: Sequence[str]) -> int:
        """After a restart: take for sent what had arrived, though that was not yet written down.

        To be called before the first `next_entry`.

        Args:
            texts: All entries that WebBuddy shows for the query since its claim, in order. Those of
                others are passed over.

        Returns:
            How many lines are not sent again.
        """
        before = self._sent
        # Those known to be sent come before all others: a handler that says "still at it" each minute
        # must not have its last words taken for its first.
        for text in texts[self._count - self._earlier :]:
            with self._reading() as lines:
                count = lines.match(text, self._restored)
                lines.drop(count)
            if count:
                self._went_out(self._lines.gone)
        return self._sent - before

    # --- When -----------------------------------------------------------------------------------------

    @property
    def _is_first(self) -> bool:
        return self._count == self._earlier

    @property
    def _is_last(self) -> bool:
        # The first of each claim leaves at once, beyond the cap if need be: of a query that says nothing
        # after its claim others think that the answer to the claim was lost, and put it back.
        return self._count >= MOST_ENTRIES - 1 and not self._is_first

    def _pause(self) -> float:
        late = self._count - PROMPT_ENTRIES
        return GATHER if late < 0 else GROWTH**late

    async def _due(self) -> None:
        while not self._lines and not self._closed.is_set():
            # A fresh event each time: the call that a thread left for the loop may come after its
            # line has gone out already.
            self._written = trio.Event()
            await self._written.wait()
        if self._closed.is_set():
            return
        if self._is_last:
            await self._closed.wait()
        with trio.move_on_at(max(self._not_before, self._since + GATHER)):
            await self._closed.wait()

    def _went_out(self, up_to: int) -> None:
        self._sent = up_to
        self._count += 1
        self._not_before = trio.current_time() + self._pause()
        if self._sink is not None:
            self._sink.sent(self._count - self._earlier, up_to)

    # --- The news, to the reader and to the sink ------------------------------------------------------

    def _note_lines(self) -> None:
        if not self._written.is_set():
            self._since = trio.current_time()
            self._written.set()
        if self._sink is None or self._collecting:
            return
        if self._lines.newest > self._collected or self._lines.left_out:
            self._collecting = True
            self._sink.lines_wait(self._collect)

    def _collect(self) -> Fresh:
        self._collecting = False
        with self._reading() as lines:
            given = self._given.lines if self._given is not None else ()
            fresh = [line for line in given if line.number > self._collected]
            fresh += lines.since(self._collected)
            left_out = lines.left_out.popleft() if lines.left_out else None
            self._collected = lines.newest
        if self._lines.left_out:
            self._note_lines()  # one range at a time; more than one comes of a disk that was slow
        return Fresh(fresh, left_out)
