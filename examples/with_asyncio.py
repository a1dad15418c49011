"""A library that needs asyncio: it runs in a loop of its own, and is cancelled with the query.

WORKER_HANDLER=with_asyncio:agent trio-worker run
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from trio_worker import Context, Query
from trio_worker.handlers.asyncio_loop import open_asyncio


async def answer(text: str) -> str:
    """Stands for any code of asyncio's."""
    async with asyncio.timeout(10):
        await asyncio.sleep(0.01)
    return text[::-1]


@asynccontextmanager
async def agent() -> AsyncIterator[Callable[[Query, Context], Awaitable[str]]]:
    """Open the loop once."""
    async with open_asyncio() as loop:

        async def handle(query: Query, ctx: Context) -> str:
            ctx.log("asking asyncio")
            return await loop.run(answer, query.query_text)

        yield handle
