"""The lines of one query's log that WebBuddy does not have yet, in bounded memory.

::

            ◀── 128 000 characters ──▶   left out   ◀── 128 000 characters ──▶
    take ◀── the oldest, as they came ──┤ (counted) ├── the newest, as they came ◀── add

What was left out is not noted down: it is what the numbers skip. So it is right after a restart too,
when the lines come out of the journal.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

import attrs

from trio_worker.phrases import Phrases

__all__ = ["HALF", "MOST_ENTRY", "MOST_LINE", "SEPARATOR", "Batch", "Line", "LogLines"]

HALF = 128_000
"""Characters of the oldest, and of the newest, lines that are kept, with their times."""

MOST_ENTRY = 64_000
"""Characters of one entry, unless it is the last."""

MOST_LINE = 4_000  # characters of one line
SEPARATOR = " · "  # not a newline: WebBuddy's page collapses those


class Line(NamedTuple):
    """A line of a log.

    Attributes:
        number: Which it is, from 1 on, over all attempts at the query.
        time: When it came, as ``+0.8s`` after the claim.
        text: Its text, cleaned and not blank.
    """

    number: int
    time: str
    text: str


@attrs.frozen
class Batch:
    """Lines that travel together.

    Attributes:
        lines: The lines.
        up_to: The number up to which nothing older is left; those left out after the last line included.
        text: The entry they make.
    """

    lines: tuple[Line, ...]
    up_to: int
    text: str


class LogLines:
    """Lines that wait: the oldest and the newest; of those between them only how many.

    Args:
        phrases: The language of the note about lines left out.
        newest: The highest number that was ever used.
        lines: Those that a journal has kept, in order.

    Attributes:
        newest: As above.
        left_out: Which numbers were left out, first and last of each range, until the owner clears it.
    """

    def __init__(self, phrases: Phrases, newest: int, lines: Iterable[Line]) -> None:
        self._phrases = phrases
        self._oldest: deque[Line] = deque()
        self._latest: deque[Line] = deque()
        self._oldest_size = 0
        self._latest_size = 0
        self.newest = newest
        self.left_out: deque[tuple[int, int]] = deque()
        for line in lines:
            # With room for what was on its way when the process died: else a restart would leave it out.
            self._put(line, HALF + MOST_ENTRY)

    def __bool__(self) -> bool:
        return bool(self._oldest)

    @property
    def gone(self) -> int:
        """The number up to which nothing is here any more."""
        return self._oldest[0].number - 1 if self._oldest else self.newest

    def add(self, time: str, text: str) -> None:
        """Append a line; when there are too many, the middle ones go."""
        if len(text) > MOST_LINE:
            text = text[:MOST_LINE] + "…"
        self.newest += 1
        self._put(Line(self.newest, time, text), HALF)

    def since(self, number: int) -> list[Line]:
        """List the lines with higher numbers than this, in order."""
        found: list[Line] = []
        for line in chain(reversed(self._latest), reversed(self._oldest)):
            if line.number <= number:
                break
            found.append(line)
        return found[::-1]

    def take(self, most: float) -> Batch | None:
        """Take out what makes the next entry, or None when nothing is here.

        Args:
            most: How many characters it may have. It has one line at least.
        """
        parts: list[str] = []
        size = 0
        for line, skipped in self._with_skipped():
            part = self._part(line, skipped)
            size += len(part)
            if parts and size > most:
                break
            parts.append(part)
            size += len(SEPARATOR)
        if not parts:
            return None
        lines = self.drop(len(parts))
        alone = len(lines) == 1 and self.gone == lines[0].number
        return Batch(lines, self.gone, lines[0].text if alone else SEPARATOR.join(parts))

    def drop(self, count: int) -> tuple[Line, ...]:
        """Take out the oldest lines.

        Args:
            count: How many, at most as many as there are.
        """
        return tuple(self._pop() for _ in range(count))

    def match(self, text: str, known: int) -> int:
        """Count the oldest lines that make up an entry; 0: it is not made of them.

        Args:
            text: The entry.
            known: The number of the newest line that came out of the journal. An entry that has all
                those, and more, was sent just before the crash with lines that never got to the disk.
        """
        text, at, count = text + SEPARATOR, 0, 0
        for line, skipped in self._with_skipped():
            if line.number > known:
                break
            if count == 0 and not skipped and text == line.text + SEPARATOR:
                return 1
            part = self._part(line, skipped) + SEPARATOR
            if not text.startswith(part, at):
                return 0
            at += len(part)
            count += 1
            if at == len(text):
                break
        return count

    def _with_skipped(self) -> Iterator[tuple[Line, int]]:
        """Yield each line, and how many were left out after it."""
        held = chain(self._oldest, self._latest)
        line = next(held, None)
        while line is not None:
            following = next(held, None)
            yield line, 0 if following is None else following.number - line.number - 1
            line = following

    def _part(self, line: Line, skipped: int) -> str:
        # The note belongs to the line before it, not to the one after: more may be left out until that
        # one goes out.
        note = SEPARATOR + self._phrases.left_out.format(count=skipped) if skipped else ""
        return f"{line.time} {line.text}{note}"

    def _put(self, line: Line, room: int) -> None:
        size = _size(line)
        if not self._latest and self._oldest_size + size <= room:
            self._oldest.append(line)
            self._oldest_size += size
            return
        self._latest.append(line)
        self._latest_size += size
        while self._latest_size > HALF:
            self._leave_out(self._latest.popleft())

    def _leave_out(self, line: Line) -> None:
        self._latest_size -= _size(line)
        if self.left_out and self.left_out[-1][1] == line.number - 1:
            self.left_out[-1] = (self.left_out[-1][0], line.number)
        else:
            self.left_out.append((line.number, line.number))

    def _pop(self) -> Line:
        line = self._oldest.popleft()
        self._oldest_size -= _size(line)
        # What has become one of the oldest is safe from being left out.
        while self._latest and self._oldest_size + (size := _size(self._latest[0])) <= HALF:
            self._oldest.append(self._latest.popleft())
            self._oldest_size += size
            self._latest_size -= size
        return line


def _size(line: Line) -> int:
    return len(line.time) + 1 + len(line.text) + len(SEPARATOR)
