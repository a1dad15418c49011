"""The calls to WebBuddy, in numbers: how many of which, how they were answered, how long that took."""

from __future__ import annotations

from itertools import product

import httpx
import trio

from trio_worker.tallies import SHORT, Count, Spreads

__all__ = ["ENDPOINTS", "STATUSES", "Traffic"]

NO_ANSWER = "none"
OTHER = "other"

_ENDPOINTS = {
    ("POST", "login"): "login",
    ("POST", "refresh"): "refresh",
    ("POST", "claim_next"): "claim",
    ("POST", "logs"): "log",
    ("PATCH", "#"): "report",
    ("GET", "#"): "query",
    ("GET", "by_status"): "queries",
    ("GET", "logs"): "log_entries",
    ("GET", "me"): "account",
    ("GET", "tokens"): "project",
    ("POST", "queries"): "create",
    ("POST", "token-usage"): "token_usage",
}
"""By method and the last part of the path; ``#`` is any number."""

ENDPOINTS = (*_ENDPOINTS.values(), OTHER)
STATUSES = ("2xx", "3xx", "4xx", "5xx", NO_ANSWER)

_WORKERS_OWN = ("login", "refresh", "claim", "log", "report")


class Traffic:
    """Counts each request that goes out, the log-in's too, when its answer is there or given up.

    Attributes:
        calls: How many, by endpoint and class of status; ``none``: no answer, or nobody waited for it.
        seconds: How long they took, by endpoint.
    """

    def __init__(self) -> None:
        self.calls = Count(*product(_WORKERS_OWN, ("2xx", "4xx", "5xx", NO_ANSWER)))
        self.seconds = Spreads(SHORT, *_WORKERS_OWN)

    def ended(self, request: httpx.Request, asked_at: float, status: int | None) -> None:
        """A request is through.

        Args:
            request: It.
            asked_at: When it was sent, on Trio's clock.
            status: That of the answer; None: there was none.
        """
        endpoint = _endpoint(request)
        self.calls.add((endpoint, NO_ANSWER if status is None else f"{status // 100}xx"))
        self.seconds.add(endpoint, trio.current_time() - asked_at)


def _endpoint(request: httpx.Request) -> str:
    last = request.url.path.rstrip("/").rpartition("/")[2]
    return _ENDPOINTS.get((request.method, "#" if last.isdigit() else last), OTHER)
