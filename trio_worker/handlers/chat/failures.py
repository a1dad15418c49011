"""How a call of the model may end without an answer, by what to do next.

::

    ModelError
    ├── NotNow          ask again, after a pause
    ├── Misconfigured   the operator has to do something: put the query aside until then
    └── NoAnswer        this query gets none: say why
        └── Declined    ask in simpler words, if there are such
"""

from __future__ import annotations

from typing import Literal

from trio_worker.handlers.chat.reply import Reply

__all__ = ["Declined", "Misconfigured", "ModelError", "NoAnswer", "NotNow", "Why"]

Why = Literal[
    "broken_off",
    "cut_off",
    "empty",
    "endless",
    "filtered",
    "no_end",
    "not_taken",
    "refused_why",
    "strange",
    "too_long",
    "used_up",
]
"""Which of `Sentences` the author of a query without an answer reads."""


class ModelError(Exception):
    """A call of the model has brought no answer.

    Args:
        reason: What happened, for the operator; no secret in it.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NotNow(ModelError):
    """The server is away or busy, and nothing of an answer has come.

    Args:
        reason: As in `ModelError`.
        retry_after: Seconds that it asked to wait, or None.
    """

    def __init__(self, reason: str, *, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class Misconfigured(ModelError):
    """It wants another key, another model, or is no model server: every query would meet that.

    Args:
        reason: As in `ModelError`.
        status: What it has answered; None: nothing that has one.
    """

    def __init__(self, reason: str, *, status: int | None = None) -> None:
        super().__init__(reason)
        self.status = status


class NoAnswer(ModelError):
    """It will not answer this query, or has not to its end.

    Args:
        sentence: What the query's author reads.
        reason: As in `ModelError`.
        **values: For the sentence.

    Attributes:
        reply: What there was of one by then: it has cost something.
    """

    reply: Reply | None = None

    def __init__(self, sentence: Why, reason: str, **values: object) -> None:
        super().__init__(reason)
        self.sentence = sentence
        self.values = values


class Declined(NoAnswer):
    """The server does not take the request: perhaps it takes a simpler one."""
