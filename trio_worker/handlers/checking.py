"""What ``trio-worker check`` may ask of a handler beside whether it can be imported."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal, Protocol, TypeVar

__all__ = ["Check", "Say", "check_of", "checked_by"]

F = TypeVar("F", bound=Callable[..., Any])


class Say(Protocol):
    """Prints a line of ``trio-worker check``."""

    def __call__(
        self, mark: Literal["fine", "problem", "note", "skipped"], what: str, sentence: str, /
    ) -> None:
        """Print it.

        Args:
            mark: How it is; with a problem the command ends with 1.
            what: Of what, in a word or two.
            sentence: What was found and, where it is not fine, what to do.
        """
        ...


Check = Callable[[Say], Awaitable[None]]
"""Looks whether what a handler needs is there, within some seconds, and leaves nothing changed.

It runs without the handler being opened. It raises `SettingsError` for what is wrong with the environment,
and the command then ends with 2.
"""

# On the function itself, by a name that can't mean anything else. Looked for by its name in the module
# instead, any function `check` of the user's would be called, which perhaps drops a table.
_CHECK = "__trio_worker_check__"


def checked_by(check: Check) -> Callable[[F], F]:
    """Have ``trio-worker check`` call this for a handler, or for what opens one.

    ::

        from trio_worker import Say, checked_by

        async def check(say: Say) -> None:
            say("fine", "model", "is loaded")

        @checked_by(check)
        @asynccontextmanager
        async def agent(): ...
    """

    def mark(function: F) -> F:
        setattr(function, _CHECK, check)
        return function

    return mark


def check_of(function: object) -> Check | None:
    """Give the check of a handler, or of what opens one; None where it has none."""
    found: Check | None = getattr(function, _CHECK, None)
    return found
