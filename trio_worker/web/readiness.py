"""``GET /readyz``: whether the worker can do its job just now, and if not, why."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from quart import Response

from trio_worker.neighbours import Neighbours

__all__ = ["READY_PATH", "STARTING", "Readiness", "readyz"]

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

    def answer(self) -> dict[str, Any]:
        """Say all of it; as JSON has it."""
        return {"reasons": self.reasons, "notes": self.notes}


def readyz(readiness: Readiness, neighbours: Neighbours) -> Callable[[], Awaitable[Response]]:
    """Make the endpoint: 200, or 503 with the reasons; with the notes, if there are any.

    It answers for all processes behind our address: they share their wake-ups, so one that is ready does for
    a push what another can't. Those that are not are in the notes then.
    """

    async def handle() -> Response:
        answers = await neighbours.ask("readiness")
        answers[neighbours.number] = readiness.answer()
        answers = dict(sorted(answers.items()))
        reasons = {number: answer["reasons"] for number, answer in answers.items()}
        notes = {number: answer["notes"] for number, answer in answers.items()}
        if all(reasons.values()):
            together = _together(reasons)
        else:
            together, notes = {}, {number: reasons[number] | notes[number] for number in answers}
        answer = {"ready": not together, "reasons": together}
        if noted := _together(notes):
            answer["notes"] = noted
        body = json.dumps(answer, ensure_ascii=False)
        return Response(body, 503 if together else 200, content_type="application/json")

    return handle


def _together(of_each: Mapping[int, Mapping[str, str]]) -> dict[str, str]:
    """Put the sentences of all processes under their names: once where all say the same."""
    together: dict[str, str] = {}
    for name in dict.fromkeys(name for said in of_each.values() for name in said):
        said = {number: sentences[name] for number, sentences in of_each.items() if name in sentences}
        if len(said) == len(of_each) and len(set(said.values())) == 1:
            together[name] = next(iter(said.values()))
        else:
            together[name] = "; ".join(f"process {number}: {sentence}" for number, sentence in said.items())
    return together
