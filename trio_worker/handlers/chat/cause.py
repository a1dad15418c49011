"""What is behind an error of httpx, for a sentence."""

from __future__ import annotations

__all__ = ["cause_of"]


def cause_of(error: BaseException) -> str:
    """Give its kind, and the words of what it was made from: httpcore wraps, and drops them on the way."""
    kind = type(error).__name__
    while not str(error) and (behind := error.__cause__ or error.__context__) is not None:
        error = behind
    return f"{kind}: {error}" if str(error) else kind
