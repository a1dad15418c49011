"""What a handler is given beside its query."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Context"]


class Context:
    """A handler's way to WebBuddy while it works.

    Made by the worker, one for each run of a handler. Its methods may be called from any thread.

    Args:
        write: Takes one line for the query's log. Never waits, never raises.
        attempt: The number of this attempt.

    Attributes:
        attempt: 1 for the first run of the handler on this query, and one more for each after a crash or a
            `RetryLater`.
    """

    __slots__ = ("_write", "attempt")

    def __init__(self, write: Callable[[str], None], *, attempt: int = 1) -> None:
        self._write = write
        self.attempt = attempt

    def log(self, text: object) -> None:
        """Write a line that the query's author sees within a few seconds.

        Never waits and never fails: lines are shipped in the background, in order. WebBuddy shows
        50 entries of a query, so lines that come quickly, or late, travel several to an entry.
        Blank lines are left out. Once the query has ended it does nothing.

        Args:
            text: Plain text. Anything else is turned into text by `str`.
        """
        self._write(text if isinstance(text, str) else _shown(text))


def _shown(thing: object) -> str:
    try:
        return str(thing)
    except Exception as error:  # noqa: BLE001 - somebody's broken __str__ must not fail a query
        return f"<{type(thing).__name__} that can't be shown: {type(error).__name__}>"
