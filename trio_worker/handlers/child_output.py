"""What a program writes: the beginning of its stdout as an answer, its stderr as lines of a log."""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Callable

from trio_worker.log_lines import MOST_LINE
from trio_worker.masks import masks

__all__ = ["MOST_TAIL", "Beginning", "Lines"]

MOST_TAIL = 2_000
"""Characters of the last lines that are kept for the reason of a failure."""


_BLOCK = 16_384  # bytes


def _decoder() -> codecs.IncrementalDecoder:
    return codecs.getincrementaldecoder("utf-8")("replace")


class Beginning:
    """Keeps the beginning of a text that comes in bytes; what is no UTF-8 is replaced by U+FFFD.

    Args:
        most: Bytes to keep.

    Attributes:
        size: Bytes that have come.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        # Decoded as it comes: 3 MiB of binary at once would hold the event loop for a tenth of a second.
        self._decoder = _decoder()
        # But not byte by byte: a text of one letter takes fifty bytes.
        self._block = bytearray()
        self._parts: list[str] = []
        self.size = 0

    def add(self, data: bytes | bytearray) -> None:
        """Take what comes next."""
        room = max(0, self._most - self.size)
        self.size += len(data)
        if room:
            self._block += data[:room]
        if len(self._block) >= _BLOCK:
            self._decode_block(final=False)

    def end(self) -> str:
        """Give the text."""
        self._decode_block(final=True)
        return "".join(self._parts)

    def _decode_block(self, *, final: bool) -> None:
        self._parts.append(self._decoder.decode(self._block, final))
        self._block.clear()


class Lines:
    """Makes lines of a text that comes in bytes, hands them on at once, and keeps the last.

    A carriage return ends a line as well: progress bars write nothing else. A line that is longer than
    the log takes becomes several. Blank ones are left out.

    Args:
        write: Takes each line.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._decoder = _decoder()
        self._begun = ""  # of a line, without secrets: less than a part of it
        self._rest = ""  # of it, as it came
        self._tail: deque[str] = deque()
        self._tail_size = 0

    @property
    def tail(self) -> str:
        """The last lines; of the first of them perhaps only the end."""
        text = "\n".join(self._tail)
        return text if len(text) <= MOST_TAIL else "…" + text[1 - MOST_TAIL :]

    @property
    def last(self) -> str:
        """The last line, or nothing."""
        return self._tail[-1] if self._tail else ""

    def add(self, data: bytes | bytearray) -> None:
        """Take what comes next."""
        self._add_text(self._decoder.decode(data))

    def end(self) -> None:
        """What has come since the last line break is a line, too."""
        self._add_text(self._decoder.decode(b"", True) + "\n")

    def _add_text(self, text: str) -> None:
        *lines, self._rest = (self._rest + text).replace("\r", "\n").split("\n")
        for line in lines:
            self._add_line(self._begun + masks.hide(line))
            self._begun = ""
        # Whole parts of a long line do not wait for its end, which may never come. But its last characters
        # do, as they are: what is a secret by now may be the beginning of a longer one.
        if len(self._rest) > MOST_LINE and len(self._rest) > MOST_LINE + masks.longest:
            cut = masks.before_the_end(self._rest)
            begun = self._begun + masks.hide(self._rest[:cut])
            self._rest = self._rest[cut:]
            whole = len(begun) // MOST_LINE * MOST_LINE
            self._add_line(begun[:whole])
            self._begun = begun[whole:]

    def _add_line(self, line: str) -> None:
        for start in range(0, len(line), MOST_LINE):
            part = line[start : start + MOST_LINE]
            if not part.isspace():
                self._write(part)
                self._keep(part)

    def _keep(self, line: str) -> None:
        self._tail.append(line)
        self._tail_size += len(line) + 1
        # As long as there is more than enough without the first, so that it shows when anything was cut.
        while self._tail_size - len(self._tail[0]) - 2 > MOST_TAIL:
            self._tail_size -= len(self._tail.popleft()) + 1
