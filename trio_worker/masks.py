"""Secrets that this process knows, kept out of all that anybody reads.

One registry for the process, and not an argument of everything that writes: a secret is one whoever
writes it, and what has to be passed along can be forgotten.
"""

from __future__ import annotations

import json
import re

__all__ = ["MASK", "SHORTEST", "Masks", "masks"]

MASK = "[MASKED]"

SHORTEST = len(MASK)
"""Characters below which a secret is not masked: it would be found in ordinary words."""


class Masks:
    """Replaces secrets by `MASK`. `hide` may be called from any thread."""

    def __init__(self) -> None:
        self._secrets: dict[str, tuple[str, ...]] = {}
        self._pattern: re.Pattern[str] | None = None
        self.longest = 0

    def know(self, name: str, *secrets: str | None) -> list[str]:
        """Learn secrets; those known under the same name before are forgotten.

        Args:
            name: Of what they are: a password that is replaced has the name of the one before.
            *secrets: None and what is empty are left out.

        Returns:
            Those that are too short to be masked.
        """
        given = [line for secret in secrets if secret for line in _lines(secret)]
        long_enough = tuple(secret for secret in given if len(secret) >= SHORTEST)
        if self._secrets.get(name) != long_enough:
            self._secrets[name] = long_enough
            self._compile()
        return [secret for secret in given if len(secret) < SHORTEST]

    def hide(self, text: str) -> str:
        """Give the text without the secrets in it."""
        return text if self._pattern is None else self._pattern.sub(MASK, text)

    def of(self, name: str) -> tuple[str, ...]:
        """Give what is known under a name, of those that are long enough."""
        return self._secrets.get(name, ())

    def hide_in_beginning(self, text: str) -> str:
        """The same for the beginning of a longer text: without its end, where half a secret may stand."""
        hidden = self.hide(text)
        return hidden[: max(0, len(hidden) - self._cut)]

    def hide_in_end(self, text: str) -> str:
        """The same for the end of a longer text: without its beginning."""
        return self.hide(text)[self._cut :]

    @property
    def _cut(self) -> int:
        return max(0, self.longest - 1)

    def _compile(self) -> None:
        written = {
            shape for secrets in self._secrets.values() for secret in secrets for shape in _shapes(secret)
        }
        self.longest = max(map(len, written), default=0)
        # The longest first: of two secrets that begin alike the whole one is to go.
        longest_first = sorted(written, key=lambda shape: (-len(shape), shape))
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if written else None


def _lines(secret: str) -> list[str]:
    """A key of several lines is shown, and cut, line by line; the line break at the end is the editor's."""
    return [line for line in map(str.strip, secret.splitlines()) if line] or [secret]


def _shapes(secret: str) -> set[str]:
    """The ways in which it may stand in a line: as it is, in JSON, and in a `repr`."""
    return {
        secret,
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        repr(secret)[1:-1],
    }


masks = Masks()
"""Of this process."""
