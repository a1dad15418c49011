"""What the embedded WebBuddy remembers."""

from __future__ import annotations

from typing import Any

import attrs

__all__ = ["Account", "Call", "Change", "LogEntry", "StoredQuery"]


@attrs.frozen(kw_only=True)
class Account:
    """Somebody who can log in.

    Attributes:
        id: Its number.
        username: Its name.
        password: Its password.
        project: The project whose queries it sees, or None: it sees an empty queue for ever.
        is_service: Whether it sees the queries of all projects.
        is_active: Whether it may do anything at all.
    """

    id: int
    username: str
    password: str = attrs.field(repr=False)
    project: int | None = None
    is_service: bool = False
    is_active: bool = True

    def sees(self, query: StoredQuery) -> bool:
        """Tell whether the query exists for this account."""
        return self.sees_project(query.project)

    def sees_project(self, project: int) -> bool:
        """Tell whether the project exists for this account."""
        return self.is_service or self.project == project


@attrs.frozen
class Change:
    """A query got a status, perhaps the one that it had.

    Attributes:
        status: The status.
        by: The account's name.
        at: When, in epoch seconds.
    """

    status: str
    by: str
    at: float


@attrs.frozen
class LogEntry:
    """One log entry of a query.

    Attributes:
        id: Its number.
        project: The number of the project that the caller named.
        query: The number of its query.
        text: What it says.
        at: When it was inserted, in epoch seconds.
    """

    id: int
    project: int
    query: int
    text: str
    at: float


@attrs.define(kw_only=True)
class StoredQuery:
    """A query as WebBuddy keeps it.

    Attributes:
        id: Its number.
        project: The number of its project.
        user: The number of its author.
        query_text: What the author wrote.
        status: What it is now.
        answer_text: Its answer, of whichever run.
        created: When it was created, in epoch seconds.
        started: When it was last claimed, in epoch seconds, or None.
        entries: Its log entries, oldest first.
        token_usage: What models have used for it, in the order in which it came: bodies of
            ``POST /api/token-usage/``.
        history: Every status it was ever given, oldest first; the first is its creation.
    """

    id: int
    project: int
    user: int
    query_text: str
    status: str = "queued"
    answer_text: str = ""
    created: float
    started: float | None = None
    entries: list[LogEntry] = attrs.field(factory=list, repr=False)
    token_usage: list[dict[str, Any]] = attrs.field(factory=list, repr=False)
    history: list[Change] = attrs.field(factory=list, repr=False)

    @property
    def logs(self) -> list[str]:
        """The texts of its log entries, oldest first."""
        return [entry.text for entry in self.entries]

    @property
    def statuses(self) -> list[str]:
        """The statuses it was ever given, oldest first."""
        return [change.status for change in self.history]


@attrs.define
class Call:
    """One call of the API.

    Attributes:
        endpoint: Its name, as in `WebBuddy.calls`.
        began: When it arrived, in epoch seconds.
        ended: When its answer was ready, in epoch seconds; None while it is under way.
        status: The HTTP status of its answer; None while it is under way, or when it was cut off.
        query: The number of the query that it was about, where there is one.
    """

    endpoint: str
    began: float
    ended: float | None = None
    status: int | None = None
    query: int | None = None
