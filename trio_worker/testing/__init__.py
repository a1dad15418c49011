"""What handler authors test with, and what our own tests and the demo run against."""

from __future__ import annotations

from trio_worker.errors import HandlerError
from trio_worker.testing.model_answers import Failing, Saying, Streaming, ToolRequest
from trio_worker.testing.model_server import ModelServer, serve_model
from trio_worker.testing.network import serve_webbuddy
from trio_worker.testing.run_handler import RunHandler
from trio_worker.testing.state import Account, Call, Change, LogEntry, StoredQuery
from trio_worker.testing.trial import HandlerResult
from trio_worker.testing.virtual_time import time_of_the_test, trio_time
from trio_worker.testing.webbuddy import WebBuddy
from trio_worker.testing.worker import OpenWorker, RunningWorker, open_worker

__all__ = [
    "Account",
    "Call",
    "Change",
    "Failing",
    "HandlerError",
    "HandlerResult",
    "LogEntry",
    "ModelServer",
    "OpenWorker",
    "RunHandler",
    "RunningWorker",
    "Saying",
    "StoredQuery",
    "Streaming",
    "ToolRequest",
    "WebBuddy",
    "open_worker",
    "serve_model",
    "serve_webbuddy",
    "time_of_the_test",
    "trio_time",
]
