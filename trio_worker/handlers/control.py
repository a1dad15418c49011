"""What a program wants of its context, in lines that it writes into a pipe: ``WEBBUDDY_QUERY_CONTROL``.

::

    {"save": …}      keep that for the next attempt: `ctx.save`
    {"extend": 60}   60 more seconds, please: `ctx.extend`
    {"token_usage": {"model_name": …, "request": …, "answer": …}}
                     what a call of a language model has used: `ctx.token_usage`

Nothing is answered. The variable holds a path, which any language can open; a shell writes
``echo '{"extend": 60}' >"$WEBBUDDY_QUERY_CONTROL"``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from trio_worker.context import MOST_SAVED, Context
from trio_worker.token_usage import TokenUsage

__all__ = ["CONTROL", "MOST_LINE", "Control", "Wishes", "open_control"]

CONTROL = "WEBBUDDY_QUERY_CONTROL"
"""The variable that names the pipe."""

MOST_LINE = 4 * MOST_SAVED
"""Bytes of one line: room for as much as can be saved, with JSON's escapes for every letter."""

_CHUNK = 8_192  # bytes; short lines are some thousand to a pipe, and each costs the event loop microseconds
_PIPE = 65_536


class Wishes:
    """Fulfils them, line by line. What can't be understood is one line in the query's log.

    Args:
        ctx: Fulfils them.
    """

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._rest = b""
        self._count = 0
        self._has_complained = False

    def add(self, data: bytes) -> None:
        """Take what comes next."""
        *lines, rest = (self._rest + data).split(b"\n")
        # Of one that is too long already, enough is kept to see that at its end.
        self._rest = rest[: MOST_LINE + 1]
        for line in lines:
            self._take(line)

    def end(self) -> None:
        """What has come since the last line break is a line, too."""
        self.add(b"\n")

    def _take(self, line: bytes) -> None:
        self._count += 1
        if not line.strip():
            return
        try:
            self._fulfil(line)
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            if not self._has_complained:  # once: there may be a million of them
                self._has_complained = True
                self._ctx.log(f"{CONTROL}, line {self._count}, can't be followed: {error}")

    def _fulfil(self, line: bytes) -> None:
        if len(line) > MOST_LINE:
            raise ValueError(f"it has more than {MOST_LINE} bytes")
        match json.loads(line.decode()):
            case {"save": data, **others} if not others:
                self._ctx.save(data)
            case {"extend": seconds, **others} if not others:
                self._ctx.extend(seconds)
            case {"token_usage": dict(usage), **others} if not others:
                self._ctx.note_token_usage(TokenUsage(**usage))
            case _:
                raise ValueError('expected {"save": …}, {"extend": seconds} or {"token_usage": {…}}')


class Control:
    """The pipe itself. Made by `open_control`.

    Attributes:
        theirs: The end that the program inherits. It is open here, too: so there never is an end of the
            file, and whoever else still holds the pipe is of no account.
    """

    def __init__(self, ours: int, theirs: int, wishes: Wishes) -> None:
        self.theirs = theirs
        self._ours = ours
        self._wishes = wishes

    @property
    def path(self) -> str:
        """By which the program opens it."""
        return f"/dev/fd/{self.theirs}"

    async def listen(self) -> None:
        """Take what the program writes, until this is cancelled. Nothing is lost then."""
        while True:
            await trio.lowlevel.wait_readable(self._ours)
            self._read(_CHUNK)

    def last_words(self) -> None:
        """Take what is in the pipe now: the program has ended."""
        self._read(_PIPE)
        self._wishes.end()

    def _read(self, size: int) -> None:
        try:
            self._wishes.add(os.read(self._ours, size))
        except BlockingIOError:
            pass  # there is nothing


@contextmanager
def open_control(ctx: Context) -> Iterator[Control]:
    """Open a pipe through which one program may save, extend and say what a model has used."""
    ours, theirs = os.pipe()
    os.set_blocking(ours, False)
    try:
        yield Control(ours, theirs, Wishes(ctx))
    finally:
        os.close(ours)
        os.close(theirs)
