"""A worker for WebBuddy: claims queries, runs your handler on them, reports what came of it."""

from __future__ import annotations

from trio_worker.context import Context, PlainContext
from trio_worker.errors import QueryFailed, RetryLater, WebBuddyError
from trio_worker.handlers.checking import Say, checked_by
from trio_worker.project import Project
from trio_worker.query import Query

__all__ = [
    "Context",
    "PlainContext",
    "Project",
    "Query",
    "QueryFailed",
    "RetryLater",
    "Say",
    "WebBuddyError",
    "checked_by",
]
