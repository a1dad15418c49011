"""What handler authors test with, and what our own tests and the demo run against."""

from __future__ import annotations

from trio_worker.testing.network import serve_webbuddy
from trio_worker.testing.state import Account, Call, Change, LogEntry, StoredQuery
from trio_worker.testing.webbuddy import WebBuddy, trio_time
from trio_worker.testing.worker import RunningWorker, open_worker

__all__ = [
    "Account",
    "Call",
    "Change",
    "LogEntry",
    "RunningWorker",
    "StoredQuery",
    "WebBuddy",
    "open_worker",
    "serve_webbuddy",
    "trio_time",
]
