"""Texts as WebBuddy takes them."""

from __future__ import annotations

import json
import random
import tracemalloc

import pytest

from trio_worker.plain_text import clean, fit

NOTE = " [{count} more]"


def size(text: str) -> int:
    return len(json.dumps(text, ensure_ascii=False).encode()) - 2


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("plain", "plain"),
        ("  two\nlines \n", "two\nlines"),
        ("a\0b\0", "ab"),
        ("\0 \0", ""),
        ("half \ud83d a smile", "half \ufffd a smile"),
        ("\udc00\ud800", "\ufffd\ufffd"),
        ("a whole smile \U0001f600", "a whole smile \U0001f600"),
        ("Кириллица\tи\x1b[0m", "Кириллица\tи\x1b[0m"),
        ("", ""),
    ],
)
def test_clean(text: str, cleaned: str) -> None:
    """No NUL, no half of a character, no space at the ends; nothing else is touched."""
    assert clean(text) == cleaned
    cleaned.encode()


@pytest.mark.parametrize("length", [0, 1, 99, 100])
def test_a_text_that_fits_is_left_alone(length: int) -> None:
    """Up to the very last byte."""
    assert fit("x" * length, most=100, note=NOTE) == "x" * length


@pytest.mark.parametrize("character", ["x", "ж", "\U0001f600", "\n", '"', "\x01", "\\"])
def test_a_long_text_is_cut_to_what_fits(character: str) -> None:
    """Whatever a character's size in JSON: text and note fit, and hardly any room is wasted."""
    most = 1000
    cut = fit(character * 5000, most=most, note=NOTE)
    kept = cut.count(character)
    assert cut == character * kept + NOTE.format(count=5000 - kept)
    assert most - 10 - size(character) < size(cut) <= most


def test_a_cut_is_the_longest_that_fits() -> None:
    """Mixed characters, many sizes of room: never too long, and one more character would be."""
    rng = random.Random(7)  # noqa: S311
    text = "".join(rng.choice('xж\U0001f600\n"\x01') for _ in range(400))
    for most in range(30, size(text)):
        cut = fit(text, most=most, note=NOTE)
        kept = len(text) - int(cut.rpartition("[")[2].split()[0])
        assert cut.startswith(text[:kept])
        assert most - len("{count}") - 6 <= size(cut) <= most


def test_no_room_leaves_the_note() -> None:
    """A limit below the note's own size is nobody's; still no text is sent half."""
    assert fit("x" * 100, most=3, note=NOTE) == " [100 more]"


def test_a_huge_text_is_not_measured() -> None:
    """Of 20 MB only as much is looked at as could fit: the event loop waits meanwhile."""
    huge = "x" * 20_000_000
    tracemalloc.start()
    try:
        cut = fit(huge, most=1_000, note=NOTE)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    note = NOTE.format(count=20_000_000 - cut.count("x"))
    assert cut == "x" * (len(cut) - len(note)) + note
    assert 990 <= size(cut) <= 1_000
    assert peak < 1_000_000  # its JSON alone would have 20 MB
