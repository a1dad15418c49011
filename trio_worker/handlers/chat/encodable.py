"""Text that can be sent: UTF-8 knows no lone surrogates, and Python's strings do."""

from __future__ import annotations

import re

__all__ = ["encodable"]

_SURROGATE = re.compile("[\ud800-\udfff]")


def encodable(text: str) -> str:
    """Join the halves of a surrogate pair, and replace what has lost its other half by U+FFFD.

    A tool may bring such a text (a file's name, half a JSON escape), and a server that counts in UTF-16 may
    cut an emoji in two, one half to a piece.
    """
    if not _SURROGATE.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
