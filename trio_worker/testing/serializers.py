"""How the embedded WebBuddy shows what it has."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trio_worker.testing.state import Account, LogEntry, StoredQuery
    from trio_worker.testing.webbuddy import WebBuddy

__all__ = ["show_account", "show_entry", "show_project", "show_query"]


def show_account(account: Account) -> dict[str, object]:
    """Show an account to itself."""
    return {"id": account.id, "username": account.username, "project": account.project}


_SETTINGS = ("test_it_token", "test_it_project_id", "jira_token", "jira_project_id", "project_context")


def show_project(webbuddy: WebBuddy, number: int) -> dict[str, object]:
    """Show a project's settings, all of them: what is not set is an empty text."""
    unset = dict.fromkeys(_SETTINGS, "")
    settings = webbuddy.project_settings.get(number, {})
    return {"id": number, "project_name": webbuddy.projects[number], **unset, **settings}


def show_query(webbuddy: WebBuddy, query: StoredQuery) -> dict[str, object]:
    """Show a query, as all calls that give one do."""
    time = webbuddy.timestamp
    started = {"query_started": None if query.started is None else time(query.started)}
    return {
        "id": query.id,
        "project": query.project,
        "project_name": webbuddy.projects[query.project],
        "user": query.user,
        "user_name": webbuddy.accounts[query.user].username,
        "query_text": query.query_text,
        "answer_text": query.answer_text,
        "status": query.status,
        "query_created": time(query.created),
        **(started if webbuddy.shows_started else {}),
        # Read-only on current servers, and set by nobody.
        "query_finished": None,
        "logs_count": len(query.entries),
    }


def show_entry(webbuddy: WebBuddy, entry: LogEntry) -> dict[str, object]:
    """Show a log entry."""
    return {
        "id": entry.id,
        "project": entry.project,
        "query": entry.query,
        "log_data": entry.text,
        "log_created": webbuddy.timestamp(entry.at),
    }
