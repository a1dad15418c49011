"""``GET /readyz``: whether the worker can do its job just now, and if not, why."""

from __future__ import annotations

import json
from collections.abc import Callable

from quart import Response

__all__ = ["READY_PATH", "STARTING", "Readiness"]

READY_PATH = "/readyz"

STARTING = "it has not started yet"


class Readiness:
    """Knows whom to ask what is wrong.

    Made before the service, which tells it whom to ask; until then the worker is not ready.
    """

    def __init__(self) -> None:
        self._questions: dict[str, Callable[[], str | None]] = {"service": lambda: STARTING}
        self._notes: dict[str, Callable[[], str | None]] = {}

    def ask(self, **questions: Callable[[], str | None]) -> None:
        """Ask these from now on, instead of those of the same names.

        Args:
            **questions: Each gives what is wrong, as a sentence, or None. Synchronous.
        """
        self._questions |= questions

    def note(self, **questions: Callable[[], str | None]) -> None:
        """Ask these as well, of what is not as it should be though the worker can do its job.

        Args:
            **questions: As of `ask`.
        """
        self._notes |= questions

    @property
    def notes(self) -> dict[str, str]:
        """What is not as it should be, by the name of its question, but for what is a reason already."""
        reasons = self.reasons
        answers = {name: question() for name, question in self._notes.items() if name not in reasons}
        return {name: answer for name, answer in answers.items() if answer is not None}

    @property
    def reasons(self) -> dict[str, str]:
        """What is wrong, by the name of its question. Empty: the worker is ready."""
        answers = {name: question() for name, question in self._questions.items()}
        return {name: answer for name, answer in answers.items() if answer is not None}

    def as_numbers(self) -> dict[str, int]:
        """Give 1 for each question whose answer is a reason, else 0."""
        reasons = self.reasons
        return {name: int(name in reasons) for name in self._questions}

    async def handle(self) -> Response:
        """Answer 200, or 503 with the reasons; with the notes, if there are any."""
        reasons = self.reasons
        notes = self.notes
        answer = {"ready": not reasons, "reasons": reasons} | ({"notes": notes} if notes else {})
        body = json.dumps(answer, ensure_ascii=False)
        return Response(body, 503 if reasons else 200, content_type="application/json")
