"""The log of one query: lines in, entries out.

WebBuddy shows only the first 50 entries of a query, so at most 40 are sent, by one schedule:

- the first 20 as soon as they can go;
- then each waits half as long again as the one before (1 s, 1.5 s, 2.25 s, …), and takes with it
  all lines that have come meanwhile: a handler that logs for an hour is still seen to be alive;
- the last is kept for the end, so the last line always arrives.

Lines travel together that come within a quarter of a second, since WebBuddy's page asks every 3 s
anyway, and those that come while a request is under way.
"""

from __future__ import annotations

import threading
from collections import deque

import attrs
import trio

from trio_worker.phrases import Phrases
from trio_worker.plain_text import clean

__all__ = ["QueryLog"]

MOST_ENTRIES = 40
PROMPT_ENTRIES = 20
GATHER = 0.25  # seconds
GROWTH = 1.5

MOST_LINE = 4_000  # characters of one line
MOST_HALF = 16_000  # characters of the first, and of the last, lines of one entry, with their times
SEPARATOR = " · "  # not a newline: WebBuddy's page collapses those


class QueryLog:
    """Takes the lines of one query and gives them out as entries.

    `write` may be called from any thread. The rest belongs to the thread of the event loop. One
    task at a time reads, with `next_entry` and `sent`.

    Args:
        phrases: The language of the note about lines left out.
        began: `trio.current_time` at which the query was claimed; lines that travel together carry
            the seconds since then, because WebBuddy's page shows no time.
    """

    def __init__(self, phrases: Phrases, *, began: float) -> None:
        self._phrases = phrases
        self._began = began
        # From a thread there is no `trio.current_time`; the clock itself may be asked from anywhere.
        self._clock = trio.lowlevel.current_clock()
        self._token = trio.lowlevel.current_trio_token()
        self._thread = threading.get_ident()
        self._lock = threading.Lock()
        self._lines = _Lines()
        self._written = trio.Event()
        self._closed = trio.Event()
        self._closed_at: float | None = None
        self._entry: str | None = None  # given out and not yet known to have arrived
        self._entry_lines = 0
        self._count = 0
        self._not_before = began
        self._open = True

    @property
    def closed_at(self) -> float | None:
        """`trio.current_time` of the end of the query, or None while it runs."""
        return self._closed_at

    def write(self, text: str) -> None:
        """Add a line. Never waits, never fails; does nothing after the end.

        Callable from any thread. Blank lines are left out: WebBuddy refuses them.
        """
        line = clean(text)
        if not line:
            return
        with self._lock:
            if not self._open:
                return
            self._lines.add(f"+{self._clock.current_time() - self._began:.1f}s", line)
        self._wake()

    def close(self, last: str) -> None:
        """End the log with a last line. What is written later is ignored.

        Args:
            last: How the query ended.
        """
        self.write(last)
        with self._lock:
            self._open = False
        self._closed_at = trio.current_time()
        self._written.set()
        self._closed.set()

    async def next_entry(self) -> str | None:
        """Wait for the next entry, by the schedule.

        The same entry is returned again until `sent` is called, so nothing is lost by cancelling.

        Returns:
            Its text, or None when the log is closed and everything was given out.
        """
        if self._entry is None:
            await self._due()
            self._entry = self._take()
        return self._entry

    @property
    def unsent_lines(self) -> int:
        """How many lines have not arrived, or are not known to have."""
        return self._entry_lines + self._lines.count

    def sent(self) -> None:
        """The entry given out last has arrived, or never will."""
        self._entry = None
        self._entry_lines = 0
        self._count += 1
        late = self._count - PROMPT_ENTRIES
        self._not_before = trio.current_time() + (GATHER if late < 0 else GROWTH**late)

    async def _due(self) -> None:
        while not self._lines and not self._closed.is_set():
            # A fresh event each time: the call that a thread left for the loop may come after its
            # line has gone out already.
            self._written = trio.Event()
            await self._written.wait()
        if self._count == MOST_ENTRIES - 1:
            await self._closed.wait()
        with trio.move_on_at(max(self._not_before, trio.current_time() + GATHER)):
            await self._closed.wait()

    def _take(self) -> str | None:
        with self._lock:
            lines, self._lines = self._lines, _Lines()
        self._entry_lines = lines.count
        return lines.joined(self._phrases) if lines else None

    def _wake(self) -> None:
        if threading.get_ident() == self._thread:
            self._written.set()
            return
        try:
            self._token.run_sync_soon(self._set_written, idempotent=True)
        except trio.RunFinishedError:
            pass  # a thread that was left behind has outlived the event loop

    def _set_written(self) -> None:
        self._written.set()


@attrs.define
class _Lines:
    """Lines that will travel together: their beginning and their end, in bounded memory."""

    first: list[tuple[str, str]] = attrs.field(factory=list)
    last: deque[tuple[str, str]] = attrs.field(factory=deque)
    first_size: int = 0
    last_size: int = 0
    left_out: int = 0

    def __bool__(self) -> bool:
        return bool(self.first)

    @property
    def count(self) -> int:
        """How many lines were added."""
        return len(self.first) + len(self.last) + self.left_out

    def add(self, time: str, line: str) -> None:
        """Append a line; when there are too many, the middle ones go."""
        if len(line) > MOST_LINE:
            line = line[:MOST_LINE] + "…"
        if not self.last and self.first_size + _size(time, line) <= MOST_HALF:
            self.first.append((time, line))
            self.first_size += _size(time, line)
            return
        self.last.append((time, line))
        self.last_size += _size(time, line)
        while self.last_size > MOST_HALF:
            self.last_size -= _size(*self.last.popleft())
            self.left_out += 1

    def joined(self, phrases: Phrases) -> str:
        """Make one entry of them. A single line goes as it is, others carry their times."""
        if len(self.first) == 1 and not self.last:
            return self.first[0][1]
        parts = [f"{time} {line}" for time, line in self.first]
        if self.left_out:
            parts.append(phrases.left_out.format(count=self.left_out))
        parts += [f"{time} {line}" for time, line in self.last]
        return SEPARATOR.join(parts)


def _size(time: str, line: str) -> int:
    return len(time) + 1 + len(line) + len(SEPARATOR)
