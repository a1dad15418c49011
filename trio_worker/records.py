"""What is read out of WebBuddy's answers, beside the query itself."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import attrs

from trio_worker.errors import Unavailable
from trio_worker.project import Project
from trio_worker.query import Query

__all__ = ["Account", "LogEntry", "read_account", "read_entry", "read_project", "read_query"]


@attrs.frozen
class Account:
    """Who the worker is, for WebBuddy.

    Attributes:
        id: The account's number.
        username: Its name.
        project: The number of its project. An ordinary account without one sees an empty queue for
            ever; a service account sees all projects without having one.
        raw: All that WebBuddy said.
    """

    id: int | None
    username: str | None
    project: int | None
    raw: Mapping[str, Any] = attrs.field(repr=False, hash=False)


@attrs.frozen
class LogEntry:
    """A line of a query's log.

    Attributes:
        id: Its number; later entries have greater ones.
        text: What was logged.
        created: When, by the server's clock; aware. None when the server does not say.
    """

    id: int
    text: str
    created: datetime | None = None


def read_query(data: Any) -> Query:
    """Read a query.

    Raises:
        Unavailable: It is none, though WebBuddy's answer was good.
    """
    try:
        return Query.from_json(data)
    except ValueError as error:
        raise Unavailable(f"WebBuddy's answer can't be read: {error}", status=200) from None


def read_count(data: Any) -> int:
    """Read how long a list is, from its first page, or from all of it where there are no pages.

    Raises:
        Unavailable: It does not say so.
    """
    count = _integer(data.get("count")) if isinstance(data, dict) else None
    if isinstance(data, list):
        count = len(data)
    if count is None:
        raise Unavailable("WebBuddy's answer can't be read: not a list", status=200)
    return count


def read_project(number: int, data: Any) -> Project:
    """Read the settings of a project.

    Raises:
        Unavailable: They are none, though WebBuddy's answer was good.
    """
    if not isinstance(data, dict):
        raise Unavailable("WebBuddy's answer can't be read: not a project", status=200)
    return Project.from_json(number, data)


def read_account(data: Any) -> Account | None:
    """Read an account; None when it is no object."""
    if not isinstance(data, dict):
        return None
    return Account(_integer(data.get("id")), _text(data.get("username")), _project(data), data)


def read_entry(data: Any) -> LogEntry | None:
    """Read a log entry, leniently: None when it has no number to tell it by."""
    if not isinstance(data, dict):
        return None
    number = _integer(data.get("id"))
    if number is None:
        return None
    return LogEntry(number, _text(data.get("log_data")) or "", _created(data))


def _created(data: Mapping[str, Any]) -> datetime | None:
    """The time of a log entry: whichever key with a time in it this server has."""
    for key, value in data.items():
        if key == "log_data" or not isinstance(value, str):
            continue
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            continue
        return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return None


def _project(data: Mapping[str, Any]) -> int | None:
    project = data.get("project")
    return _integer(project.get("id") if isinstance(project, dict) else project)


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
