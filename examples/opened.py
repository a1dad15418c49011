"""What takes time to open is opened once, when the worker starts, and closed after the last query.

WORKER_HANDLER=opened:agent trio-worker run
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx

from trio_worker import Context, Query, QueryFailed


@asynccontextmanager
async def agent() -> AsyncIterator[Callable[[Query, Context], Awaitable[str]]]:
    """One client, with its connections, for all queries."""
    async with httpx.AsyncClient(timeout=30) as client:

        async def handle(query: Query, ctx: Context) -> str:
            address = re.search(r"https?://\S+", query.query_text)
            if address is None:
                raise QueryFailed("Which page? Please write its address.")
            response = await client.get(address[0])
            return f"{address[0]} answers with {response.status_code}."

        yield handle
