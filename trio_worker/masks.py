"""Secrets that this process knows, kept out of all that anybody reads.

One registry for the process, and not an argument of everything that writes: a secret is one whoever
writes it, and what has to be passed along can be forgotten.
"""

from __future__ import annotations

import json
import re
import threading
from collections import deque
from collections.abc import Iterable

import attrs

__all__ = ["KEPT", "MASK", "SHORTEST", "Masks", "masks"]

MASK = "[MASKED]"

SHORTEST = len(MASK)
"""Characters below which a secret is not masked: it would be found in ordinary words."""

KEPT = 16
"""How many that were replaced are still masked, of each name: a handler may hold one for long."""


class Masks:
    """Replaces secrets by `MASK`. All of it may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # By name: each time's secrets, each with the ways in which it may be written.
        self._known: dict[str, deque[dict[str, set[str]]]] = {}
        self._found_by: _Index | None = None

    @property
    def longest(self) -> int:
        """Characters of the longest secret, as it may be written; 0 without any."""
        return self._index().longest

    def know(self, name: str, *secrets: str | None) -> list[str]:
        """Learn secrets. Those known under the same name before count as old ones, of which `KEPT` are kept.

        Args:
            name: Of what they are: a password that is replaced has the name of the one before.
            *secrets: None and what is empty are left out.

        Returns:
            Those that are too short to be masked.
        """
        given = [line for secret in secrets if secret for line in _lines(secret)]
        written = {line: _shapes(line) for line in given if len(line) >= SHORTEST}
        with self._lock:
            known = self._known.setdefault(name, deque(maxlen=1 + KEPT))
            if written and (not known or known[-1] != written):
                known.append(written)
                self._found_by = None
        return [line for line in given if len(line) < SHORTEST]

    def forget(self, name: str) -> None:
        """Let go of all that is known under a name: they are no secrets any more."""
        with self._lock:
            self._known.pop(name, None)
            self._found_by = None

    def hide(self, text: str) -> str:
        """Give the text without the secrets in it."""
        return self._index().hide(text)

    def of(self, name: str) -> tuple[str, ...]:
        """Give what is known under a name, old ones too, of those that are long enough."""
        with self._lock:
            return tuple(secret for written in self._known.get(name, ()) for secret in written)

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

    def _index(self) -> _Index:
        found_by = self._found_by
        if found_by is None:
            # When it is asked for: a start learns many at once.
            with self._lock:
                found_by = self._found_by = _Index.of(
                    shape
                    for known in self._known.values()
                    for written in known
                    for shapes in written.values()
                    for shape in shapes
                )
        return found_by


@attrs.frozen
class _Index:
    """Finds secrets by their first characters.

    One regular expression of all secrets takes 0.2 ms for a line when there are a thousand, and 85 ms to be
    made. This one says only where one may begin, from the characters that any has at each place.

    Attributes:
        maybe: Matches the first `SHORTEST` characters of each secret, and few others.
        by_head: The secrets, by those characters; the longest first: of two that begin alike the whole
            one is to go.
        longest: Characters of the longest one.
    """

    maybe: re.Pattern[str] | None
    by_head: dict[str, list[str]]
    longest: int

    @classmethod
    def of(cls, secrets: Iterable[str]) -> _Index:
        by_head: dict[str, list[str]] = {}
        for secret in sorted(set(secrets), key=len, reverse=True):
            by_head.setdefault(secret[:SHORTEST], []).append(secret)
        places = [sorted(set(place)) for place in zip(*by_head, strict=True)]
        classes = "".join(f"[{''.join(map(re.escape, place))}]" for place in places)
        longest = max((len(alike[0]) for alike in by_head.values()), default=0)
        return cls(re.compile(classes) if by_head else None, by_head, longest)

    def hide(self, text: str) -> str:
        if self.maybe is None:
            return text
        parts: list[str] = []
        done = 0
        match = self.maybe.search(text)
        while match is not None:
            at = match.start()
            secret = self._secret(text, match[0], at)
            if secret is None:
                match = self.maybe.search(text, at + 1)
                continue
            parts += text[done:at], MASK
            done = at + len(secret)
            match = self.maybe.search(text, done)
        return "".join([*parts, text[done:]]) if parts else text

    def _secret(self, text: str, head: str, at: int) -> str | None:
        alike = self.by_head.get(head, ())
        return next((secret for secret in alike if text.startswith(secret, at)), None)


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
