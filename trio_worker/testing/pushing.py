"""How WebBuddy tells a worker that there is a query."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import TYPE_CHECKING

import attrs
import httpx
import trio

if TYPE_CHECKING:
    from trio_worker.testing.webbuddy import WebBuddy

__all__ = ["Pusher"]

TIMEOUT = 2.0  # seconds
# What python-requests sends. Not a word about who it is: pushes are not authenticated.
HEADERS = {
    "User-Agent": "python-requests/2.32.5",
    "Accept-Encoding": "gzip, deflate",
    "Accept": "*/*",
    "Connection": "keep-alive",
    "Content-Type": "application/json",
}


@cache
def _tls() -> ssl.SSLContext:
    # Reading the certificates takes 20 ms; once is enough, though each push has its own client.
    return ssl.create_default_context()


@attrs.frozen
class Pusher:
    """Sends pushes to one address."""

    webbuddy: WebBuddy
    address: str

    async def push(self, query_id: int) -> None:
        """Send one push, once. Nothing but 200 counts as success, and nobody is told."""
        pushes = self.webbuddy.pushes
        pushes["sent"] += 1
        status = None
        with trio.move_on_after(TIMEOUT):
            status = await self._send(query_id)
        pushes["accepted" if status == 200 else "failed"] += 1
        self.webbuddy.announce()

    async def _send(self, query_id: int) -> int | None:
        body = json.dumps({"query_id": query_id, "webbuddy_url": self.webbuddy.url})
        # Joined by string, as WebBuddy does: a trailing slash gives `//api/process-query`.
        url = f"{self.address}/api/process-query"
        try:
            async with self._client() as client:
                return (await client.post(url, content=body, headers=HEADERS)).status_code
        except httpx.TransportError:
            return None

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[httpx.AsyncClient]:
        if self.webbuddy.push_transport is not None:
            # Not closed: the transport is the caller's, and the next push needs it, too.
            yield httpx.AsyncClient(transport=self.webbuddy.push_transport, timeout=None)  # noqa: S113
            return
        async with httpx.AsyncClient(verify=_tls(), trust_env=False, timeout=None) as client:  # noqa: S113
            yield client
