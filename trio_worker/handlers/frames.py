"""Messages on a pipe between two processes: JSON objects, each behind its length in four bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["MOST_ANSWER", "MOST_FRAME", "MOST_LOGGED", "MOST_TEXT", "FrameError", "Unpacker", "pack"]

MOST_FRAME = 16 * 1024 * 1024
"""Bytes of JSON that one message may have."""

# What a process of the pool cuts, lest a message become too large. Only the worker knows the secrets: it
# takes a text of such a length for cut, and does without the place where half of one may stand.

MOST_ANSWER = 2_700_000
"""Characters of an answer, or of a reason: of more, the first. WebBuddy takes fewer, and a frame more."""

MOST_LOGGED = 65_536
"""Characters of one call of `ctx.log`: of more, the first. The worker keeps fewer of a line."""

MOST_TEXT = 100_000
"""Characters of an exception's text or traceback: of more, the last."""

_HEADER = 4  # bytes


class FrameError(ValueError):
    """A message is too large, or what came is none."""


def pack(message: Mapping[str, Any]) -> bytes:
    """Make the bytes of a message.

    Text may have half characters in it (lone surrogates); they arrive as they are.

    Args:
        message: What JSON can say; also NaN and the infinities.

    Raises:
        FrameError: It has more than `MOST_FRAME` bytes.
        TypeError: JSON can't say it; so does ValueError, of what contains itself.
    """
    body = json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    if len(body) > MOST_FRAME:
        raise FrameError(f"{len(body)} bytes of JSON, expected {MOST_FRAME} at most")
    return len(body).to_bytes(_HEADER, "big") + body


class Unpacker:
    """Puts messages together from what is read, in whatever pieces it comes.

    Never holds more than one message and what was fed last.
    """

    def __init__(self) -> None:
        self._read = bytearray()

    def feed(self, data: bytes | bytearray) -> Iterator[dict[str, Any]]:
        """Give the messages that are complete with these bytes.

        Raises:
            FrameError: That is no message; nothing that comes later can be read either.
        """
        self._read += data
        while len(self._read) >= _HEADER:
            size = int.from_bytes(self._read[:_HEADER], "big")
            if size > MOST_FRAME:
                raise FrameError(f"a message of {size} bytes, expected {MOST_FRAME} at most")
            end = _HEADER + size
            if len(self._read) < end:
                return
            body = bytes(self._read[_HEADER:end])
            del self._read[:end]
            yield _message(body)


def _message(body: bytes) -> dict[str, Any]:
    try:
        message = json.loads(body.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise FrameError(f"not JSON: {error}") from None
    if not isinstance(message, dict):
        raise FrameError(f"a JSON {type(message).__name__}, expected an object")
    return message
