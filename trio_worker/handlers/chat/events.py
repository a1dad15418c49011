"""Server-sent events, out of the bytes as they come.

As the HTML standard has it ("Interpreting an event stream"), with two differences: ``error:`` is data, too,
since so llama.cpp says in the middle of a stream what has gone wrong; and an event has a greatest size, since
a server that never ends a line would fill the memory of all queries. An event without data, such as one that
only has ``retry`` or ``id``, or keeps the connection alive, is none: there, and here also when it is blank.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator

import attrs

__all__ = ["MOST_OF_AN_EVENT", "Event", "EventReader", "EventTooLongError"]

MOST_OF_AN_EVENT = 1_048_576
"""Bytes of one event. A token takes some hundred; a call of a tool may come whole."""


class EventTooLongError(Exception):
    """An event does not end."""


@attrs.frozen
class Event:
    """One of them.

    Attributes:
        data: Not blank.
        is_error: Whether the server says that it is one.
    """

    data: str
    is_error: bool = False


@attrs.define
class EventReader:
    """Takes the bytes in whatever pieces, and keeps those of one event at most."""

    _line: list[bytes] = attrs.field(factory=list, init=False)
    _data: list[str] = attrs.field(factory=list, init=False)
    _in_line: int = attrs.field(default=0, init=False)
    _in_data: int = attrs.field(default=0, init=False)
    _is_error: bool = attrs.field(default=False, init=False)
    _is_first: bool = attrs.field(default=True, init=False)
    _is_half: bool = attrs.field(default=False, init=False)

    def feed(self, piece: bytes) -> Iterator[Event]:
        """Take some bytes, and give the events that end in them.

        Raises:
            EventTooLongError: One has more than `MOST_OF_AN_EVENT` bytes.
        """
        if self._is_half:  # the line before has ended with \r, of which \n is the other half
            piece = piece.removeprefix(b"\n")
        self._is_half = piece.endswith(b"\r")
        *lines, rest = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for line in lines:
            whole = b"".join([*self._line, line])
            self._line.clear()
            self._in_line = 0
            yield from self._take(whole)
        self._line.append(rest)
        self._in_line += len(rest)
        if self._in_line + self._in_data > MOST_OF_AN_EVENT:
            raise EventTooLongError(f"an event of more than {MOST_OF_AN_EVENT} bytes")

    def _take(self, line: bytes) -> Iterator[Event]:
        if self._is_first:
            line, self._is_first = line.removeprefix(codecs.BOM_UTF8), False
        name, _, value = line.partition(b":")
        if name in (b"data", b"error"):
            self._is_error = self._is_error or name == b"error"
            self._data.append(value.removeprefix(b" ").decode("utf-8", "replace"))
            self._in_data += len(line)
        elif name == b"event":
            self._is_error = value.strip() == b"error"
        elif not line:
            data, is_error = "\n".join(self._data), self._is_error
            self._data.clear()
            self._in_data, self._is_error = 0, False
            if data.strip():
                yield Event(data, is_error)
