"""What is behind an error of httpx, for a sentence."""

from __future__ import annotations

from trio_worker.errors import worded

__all__ = ["cause_of"]


def cause_of(error: BaseException) -> str:
    """Give its kind, and the words of what it was made from."""
    kind, words = type(error).__name__, str(worded(error))
    return f"{kind}: {words}" if words else kind
