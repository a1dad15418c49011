"""An embedded WebBuddy whose calls a test may look at, or spoil, on their way."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx

from trio_worker.testing import WebBuddy, trio_time

__all__ = ["Body", "TappedWebBuddy"]

Tap = Callable[[httpx.Request], None]


class Body:
    """The JSON bodies of the requests whose path ends with this, in order."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.seen: list[dict[str, Any]] = []

    def __call__(self, request: httpx.Request) -> None:
        """Take a look."""
        if request.url.path.endswith(self.path):
            self.seen.append(json.loads(request.content))


class TappedWebBuddy(WebBuddy):
    """Shows each request to a function, which may raise: a bug in the transport, to the worker."""

    def __init__(self, tap: Tap, **knobs: Any) -> None:
        super().__init__(now=trio_time(), **knobs)
        self.tap = tap

    def transport(self) -> httpx.AsyncBaseTransport:
        return _Tapped(super().transport(), self.tap)


class _Tapped(httpx.AsyncBaseTransport):
    def __init__(self, inner: httpx.AsyncBaseTransport, tap: Tap) -> None:
        self.inner = inner
        self.tap = tap

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.tap(request)
        return await self.inner.handle_async_request(request)
