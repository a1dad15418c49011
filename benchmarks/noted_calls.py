"""What a real WebBuddy was asked, and how each call ended: noted by Django itself."""

from __future__ import annotations

import heapq
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import attrs

__all__ = ["FILE", "Call", "NotedCalls", "most_at_once", "read_calls"]

FILE = "BENCHMARK_CALLS"
"""The variable that names the file for the notes."""

KINDS = {("POST", "claim_next"): "claim", ("PATCH", "queries"): "report", ("POST", "logs"): "log"}


@attrs.frozen
class Call:
    """One call. Times are `time.monotonic`, which is one clock for all processes of a machine.

    Attributes:
        kind: ``claim``, ``log``, ``report`` or ``other``.
        status: Of the answer.
        began: When Django's first middleware had the request.
        ended: When it had the answer.
    """

    kind: str
    status: int
    began: float
    ended: float


class NotedCalls:
    """A middleware of Django's, around all others: so it sees a 500 as the client does.

    All processes append to one file. A line is written at once, so that lines do not mix.
    """

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        self._get_response = get_response
        self._file = os.open(os.environ[FILE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def __call__(self, request: Any) -> Any:
        """Pass it on."""
        began = time.monotonic()
        response = self._get_response(request)
        kind = kind_of(request.method, request.path)
        line = f"{kind} {response.status_code} {began} {time.monotonic()}\n"
        os.write(self._file, line.encode())
        return response


def kind_of(method: str, path: str) -> str:
    """Name a call."""
    names = [part for part in path.split("/") if part and not part.isdecimal()]
    return KINDS.get((method, names[-1] if names else ""), "other")


def read_calls(file: Path) -> list[Call]:
    """Read what was noted until now."""
    calls = []
    for line in file.read_text().splitlines(keepends=True):
        if line.endswith("\n"):
            kind, status, began, ended = line.split()
            calls.append(Call(kind, int(status), float(began), float(ended)))
    return calls


def most_at_once(calls: Iterable[Call]) -> int:
    """Give how many were under way at one moment, at most."""
    most = 0
    under_way: list[float] = []  # a heap of their ends
    for call in sorted(calls, key=lambda call: call.began):
        while under_way and under_way[0] <= call.began:
            heapq.heappop(under_way)
        heapq.heappush(under_way, call.ended)
        most = max(most, len(under_way))
    return most
