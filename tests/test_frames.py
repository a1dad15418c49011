"""Messages on a pipe."""

from __future__ import annotations

import math

import pytest

from trio_worker.handlers.frames import MOST_FRAME, FrameError, Unpacker, pack

MESSAGES = [
    {},
    {"text": "Ж" * 1000, "number": 5, "none": None},
    {"half": "\ud83d", "pair": "\ud83d\ude00", "nul": "\0"},
    {"infinite": math.inf},
    {"nested": [{"a": [1, 2]}]},
]


@pytest.mark.parametrize("size", [1, 3, 7, 100_000])
def test_messages_arrive_whatever_the_pieces(size: int) -> None:
    """Cut anywhere, they come out as they went in, and in order."""
    data = b"".join(map(pack, MESSAGES))
    unpacker = Unpacker()
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    assert [message for piece in pieces for message in unpacker.feed(piece)] == MESSAGES


def test_a_large_message_is_not_sent() -> None:
    """16 MiB and not a byte more."""
    room = MOST_FRAME - len('{"text":""}')
    (message,) = Unpacker().feed(pack({"text": "x" * room}))
    assert len(message["text"]) == room
    with pytest.raises(FrameError, match=f"{MOST_FRAME + 1} bytes of JSON, expected {MOST_FRAME} at most"):
        pack({"text": "x" * (room + 1)})


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\xff\xff\xff\xff", "a message of 4294967295 bytes"),  # before any of them is waited for
        (b"\0\0\0\4oops", "not JSON"),
        (b"\0\0\0\1\xff", "not JSON"),
        (b"\0\0\0\2[]", "a JSON list, expected an object"),
        (b"\0\3\x0d\x40" + b"[" * 200_000, "not JSON"),
    ],
)
def test_what_is_no_message_is_refused(data: bytes, problem: str) -> None:
    """A handler may write anything into any descriptor."""
    with pytest.raises(FrameError, match=problem):
        list(Unpacker().feed(data))
