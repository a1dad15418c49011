"""What ``trio-worker check`` prints, and what it ends with."""

from __future__ import annotations

import sys
from typing import Literal

import attrs
import click

__all__ = ["FINE", "LOGIN_REFUSED", "PROBLEM", "WRONG_SETTINGS", "Mark", "Report", "sign"]

FINE, PROBLEM, WRONG_SETTINGS, LOGIN_REFUSED = 0, 1, 2, 3

Mark = Literal["fine", "problem", "note", "skipped"]

_SIGNS = {"fine": "✓", "problem": "✗", "note": "!", "skipped": "-"}
_PLAIN_SIGNS = {"fine": "ok", "problem": "NO", "note": "! ", "skipped": "- "}
_COLOURS = {"fine": "green", "problem": "red", "note": "yellow", "skipped": None}


def _signs() -> dict[str, str]:
    try:
        "".join(_SIGNS.values()).encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return _PLAIN_SIGNS
    return _SIGNS


def sign(mark: Mark) -> str:
    """Give the sign of a line, in its colour."""
    return click.style(_signs()[mark], fg=_COLOURS[mark])


@attrs.define
class Report:
    """Prints a line for each check, and remembers the worst.

    Attributes:
        codes: The exit codes that the problems call for.
    """

    codes: set[int] = attrs.field(factory=set)

    def say(self, mark: Mark, what: str, sentence: str) -> None:
        """Print one line."""
        click.echo(f"{sign(mark)} {what:<14} {sentence}")

    def fail(self, what: str, sentence: str, code: int = PROBLEM) -> None:
        """Print the line of a problem."""
        self.codes.add(code)
        self.say("problem", what, sentence)

    def exit_code(self) -> int:
        """What to end with."""
        for code in (WRONG_SETTINGS, LOGIN_REFUSED, PROBLEM):
            if code in self.codes:
                return code
        return FINE
