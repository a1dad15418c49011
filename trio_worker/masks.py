"""Secrets that this process knows, kept out of all that anybody reads.

One registry for the process, and not an argument of everything that writes: a secret is one whoever
writes it, and what has to be passed along can be forgotten.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable

__all__ = ["MASK", "SHORTEST", "Masks", "masks"]

MASK = "[MASKED]"

SHORTEST = len(MASK)
"""Characters below which a secret is not masked: it would be found in ordinary words."""


MOST_PASSING = 4_000
"""Secrets that come and go of which the last are known: two thousand projects, or years of tokens."""

_WIDTH = 8  # bytes, at which a text is looked through
_FINDABLE = 2 * _WIDTH - 1  # bytes, in which there are so many in a row that begin at a multiple of that


class Masks:
    """Replaces secrets by `MASK`. `hide` may be called from any thread, the rest on one thread only."""

    def __init__(self) -> None:
        self._secrets: dict[str, tuple[str, ...]] = {}
        self._passing: dict[str, None] = {}  # the longest known first
        self._shapes: dict[str, int] = {}  # how many secrets look like it
        # Of what is short, all; of the rest, by eight bytes of its end (many a token begins as others do).
        self._short: dict[str, None] = {}
        self._by_bytes: dict[int, tuple[str, ...]] = {}

    def know(self, name: str, *secrets: str | None) -> list[str]:
        """Learn secrets. Those known under the same name before become passing ones.

        Args:
            name: Of what they are: a password that is replaced has the name of the one before.
            *secrets: None and what is empty are left out.

        Returns:
            Those that are too short to be masked.
        """
        long_enough, too_short = _sorted(secrets)
        before = self._secrets.get(name, ())
        if before != long_enough:
            self._secrets[name] = long_enough
            for secret in long_enough:
                self._add(secret)
            # Not forgotten yet: a handler that was given them may still be at work.
            self._pass(before)
            for secret in before:
                self._drop(secret)
        return too_short

    def know_passing(self, *secrets: str) -> None:
        """Learn secrets that come and go, as those of projects do: the last `MOST_PASSING` are known."""
        self._pass(_sorted(secrets)[0])

    def forget(self, name: str) -> None:
        """Forget what is known under a name, at once."""
        for secret in self._secrets.pop(name, ()):
            self._drop(secret)

    def hide(self, text: str) -> str:
        """Give the text without the secrets in it."""
        for secret in self._found_in(text):
            text = text.replace(secret, MASK)
        return text

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

    def before_the_end(self, text: str) -> int:
        """Say where a text that goes on may be cut: where no secret is cut in two, be it begun only.

        It is as far behind as that allows; 0 for a text that is no longer than a secret.
        """
        cut = whole = max(0, len(text) - self._cut)
        found = self._found_in(text)
        while across := [at for secret in found if (at := _across(text, secret, cut)) >= 0]:
            cut = min(across)
        if cut or not whole:
            return cut
        # Nothing but secrets that overlap, as "aaaaaaaa" does with itself: behind one, wherever that is.
        return max(at + len(secret) for secret in found if (at := _across(text, secret, whole)) >= 0)

    @property
    def longest(self) -> int:
        """Characters of the longest secret that is known."""
        return max(map(len, list(self._shapes)), default=0)

    @property
    def _cut(self) -> int:
        return max(0, self.longest - 1)

    def _found_in(self, text: str) -> list[str]:
        """List what stands in a text: the longest first, for of two that begin alike the whole one is to go.

        In the time of one pass through the text, however many are known; a regular expression, or one look
        for each, would take seconds for a large answer where there are a thousand projects.
        """
        near = list(self._short)
        if self._by_bytes and len(text) >= _WIDTH:
            data = text.encode("utf-8", "surrogatepass")
            numbers = memoryview(data)[: len(data) // _WIDTH * _WIDTH].cast("Q")
            for number in set(filter(self._by_bytes.__contains__, numbers)):
                near += self._by_bytes.get(number, ())
        if not near:
            return []
        return sorted({shape for shape in near if shape in text}, key=lambda shape: (-len(shape), shape))

    def _pass(self, secrets: Iterable[str]) -> None:
        for secret in secrets:
            if secret in self._passing:
                del self._passing[secret]
            else:
                self._add(secret)
            self._passing[secret] = None
        while len(self._passing) > MOST_PASSING:
            oldest = next(iter(self._passing))
            del self._passing[oldest]
            self._drop(oldest)

    def _add(self, secret: str) -> None:
        for shape in _shapes(secret):
            self._shapes[shape] = self._shapes.get(shape, 0) + 1
            if self._shapes[shape] > 1:
                continue
            if not (numbers := _numbers(shape)):
                self._short[shape] = None
            for number in numbers:
                self._by_bytes[number] = (*self._by_bytes.get(number, ()), shape)

    def _drop(self, secret: str) -> None:
        for shape in _shapes(secret):
            self._shapes[shape] -= 1
            if self._shapes[shape]:
                continue
            del self._shapes[shape]
            self._short.pop(shape, None)
            for number in _numbers(shape):
                others = tuple(other for other in self._by_bytes[number] if other != shape)
                if others:
                    self._by_bytes[number] = others
                else:
                    del self._by_bytes[number]


def _sorted(secrets: Iterable[str | None]) -> tuple[tuple[str, ...], list[str]]:
    """Give those that are long enough, and those that are not."""
    given = [line for secret in secrets if secret for line in _lines(secret)]
    return (
        tuple(secret for secret in given if len(secret) >= SHORTEST),
        [secret for secret in given if len(secret) < SHORTEST],
    )


def _across(text: str, secret: str, cut: int) -> int:
    """Say where a secret begins that a cut would divide; -1: none."""
    return text.find(secret, max(0, cut - len(secret) + 1), cut + len(secret) - 1)


def _numbers(shape: str) -> set[int]:
    """Of the last bytes each eight in a row, as numbers: at whichever place it stands, one is looked at."""
    data = shape.encode("utf-8", "surrogatepass")[-_FINDABLE:]
    if len(data) < _FINDABLE:
        return set()
    return {int.from_bytes(data[at : at + _WIDTH], sys.byteorder) for at in range(_WIDTH)}


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
