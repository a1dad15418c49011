"""A query, and the ways in which it can end."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import attrs

__all__ = ["Done", "Ending", "Failed", "Outcome", "Postponed", "Query", "Released", "Revoked"]


@attrs.frozen(kw_only=True)
class Query:
    """A query as `claim_next` handed it out.

    The names are WebBuddy's. Only ``id`` is certain: what a server leaves out, or sends in
    another shape, is None (and in the latter case kept in ``extra``), because a claimed query
    that could not be read would stay ``in_progress`` for ever.

    Attributes:
        id: The query's number. The key to be idempotent by: after a crash a handler may be
            called a second time for one query.
        project: The number of its project.
        user: The number of its author.
        query_text: What the author wrote. ``""`` when missing.
        status: ``"in_progress"`` as claimed.
        query_created: When it was created; aware.
        query_started: When it was claimed; aware. One version of WebBuddy does not send it.
        query_finished: Normally None; aware.
        answer_text: The answer of an earlier run, when the query was requeued.
        project_name: The name of its project.
        user_name: The name of its author.
        logs_count: How many log entries it has.
        extra: Keys of the answer that are not named here, and values of another shape.
    """

    id: int
    project: int | None = None
    user: int | None = None
    query_text: str = ""
    status: str | None = None
    query_created: datetime | None = None
    query_started: datetime | None = None
    query_finished: datetime | None = None
    answer_text: str | None = None
    project_name: str | None = None
    user_name: str | None = None
    logs_count: int | None = None
    extra: Mapping[str, Any] = attrs.field(factory=dict, hash=False)

    @classmethod
    def from_json(cls, data: object) -> Query:
        """Read a query from the decoded JSON of WebBuddy's answer.

        Raises:
            ValueError: When it is not an object with an integer ``id``.
        """
        if not isinstance(data, dict) or _integer(data.get("id")) is None:
            raise ValueError("not a query: an object with an integer id was expected")
        known: dict[str, Any] = {}
        extra: dict[str, Any] = {}
        for key, value in data.items():
            read = _READERS.get(key)
            understood = read(value) if read is not None else None
            if understood is not None:
                known[key] = understood
            elif read is None or value is not None:
                extra[key] = value
        return cls(**known, extra=extra)

    def to_json(self) -> dict[str, Any]:
        """Give an object from which `from_json` makes an equal query."""
        known = {
            key: value.isoformat() if isinstance(value, datetime) else value
            for key in _READERS
            if (value := getattr(self, key)) is not None
        }
        return {**self.extra, **known}


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _time(value: object) -> datetime | None:
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    # A naive time would make every comparison with an aware one raise in the user's handler.
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


_READERS = {
    "id": _integer,
    "project": _integer,
    "user": _integer,
    "logs_count": _integer,
    "query_text": _text,
    "status": _text,
    "answer_text": _text,
    "project_name": _text,
    "user_name": _text,
    "query_created": _time,
    "query_started": _time,
    "query_finished": _time,
}


@attrs.frozen
class Done:
    """The handler answered.

    Attributes:
        answer: The text for the query's author. Neither blank nor longer than WebBuddy takes.
    """

    answer: str


@attrs.frozen
class Failed:
    """The query ended without an answer.

    Attributes:
        reason: The sentence for the query's author.
        kind: One word for logs and metrics: ``"said_so"``, ``"error"``, ``"timeout"``,
            ``"bad_answer"``, ``"left_behind"``, ``"process_died"``, ….
    """

    reason: str
    kind: str


@attrs.frozen
class Released:
    """The query was not worked on to its end and goes back into the queue.

    Attributes:
        reason: The sentence for the query's author.
    """

    reason: str


@attrs.frozen
class Postponed:
    """The handler wants to try again later. It stays ours meanwhile.

    Attributes:
        seconds: How long from now.
        reason: The sentence for the query's author.
    """

    seconds: float
    reason: str


@attrs.frozen
class Revoked:
    """The query is no longer ours: a person ended, requeued or deleted it. Nothing is reported.

    Attributes:
        reason: What was seen, for the operator.
    """

    reason: str


Outcome = Done | Failed | Released
"""What WebBuddy is told in the end."""

Ending = Outcome | Postponed | Revoked
"""How one attempt may end."""
