"""Text as WebBuddy takes it: no NUL, no lone surrogate, not blank, not too long.

WebBuddy answers 400 to each of these, and it strips white space at both ends.
"""

from __future__ import annotations

import json
import re

__all__ = ["clean", "fit", "text_of"]

# A lone surrogate can't be encoded as UTF-8; NUL can't be stored by PostgreSQL and is refused by DRF.
_FORBIDDEN = re.compile("[\ud800-\udfff]")


def clean(text: str) -> str:
    """Drop NULs, replace lone surrogates by U+FFFD, strip both ends."""
    return _FORBIDDEN.sub("\ufffd", text.replace("\0", "")).strip()


def fit(text: str, *, most: int, note: str) -> str:
    """Cut a text whose JSON would be longer than WebBuddy takes.

    Args:
        text: The text, cleaned.
        most: How many bytes the text may have as JSON in UTF-8, its quotes left aside. A line
            break is two bytes there, a Cyrillic letter two, a control character six.
        note: What to write at the end of a text that was cut; ``{count}`` in it becomes the
            number of characters that are gone.

    Returns:
        The text itself when it fits, else its beginning and the note, which fit together.
    """
    # By the number of characters first, each of which is a byte at least: only a text that may fit is
    # worth measuring. That of a runaway handler may have 100 MB, and take the event loop a second.
    if len(text) * 6 <= most or (len(text) <= most and _size(text) <= most):
        return text
    room = most - _size(note) - len(str(len(text)))
    # The longest prefix that fits, found by halving: a prefix of bytes could end inside an escape.
    low, high = 0, min(len(text), max(room, 0))
    while low < high:
        middle = (low + high + 1) // 2
        if _size(text[:middle]) <= room:
            low = middle
        else:
            high = middle - 1
    return text[:low] + note.format(count=len(text) - low)


def text_of(thing: object) -> str:
    """Give `str(thing)`; somebody's broken ``__str__`` must not fail a query."""
    try:
        return str(thing)
    except Exception as error:  # noqa: BLE001 - as said
        return f"<{type(thing).__name__} that can't be shown: {type(error).__name__}>"


def _size(text: str) -> int:
    return len(json.dumps(text, ensure_ascii=False).encode()) - 2
