"""A handler that other functions wrap: one takes its time, one calls it again when the network fails it.

WORKER_HANDLER=wrapped:handle trio-worker run
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from functools import wraps

import httpx
import trio

from trio_worker import Context, Query, QueryFailed

Handler = Callable[[Query, Context], Awaitable[str]]


def timed(handler: Handler) -> Handler:
    @wraps(handler)
    async def wrapper(query: Query, ctx: Context) -> str:
        began = trio.current_time()
        try:
            return await handler(query, ctx)
        finally:
            ctx.log(f"took {trio.current_time() - began:.1f} s")

    return wrapper


def retried(handler: Handler) -> Handler:
    @wraps(handler)
    async def wrapper(query: Query, ctx: Context) -> str:
        for pause in (1, 5):
            try:
                return await handler(query, ctx)
            except httpx.TransportError as error:
                ctx.log(f"{error}; again in {pause} s")
            await trio.sleep(pause)
        return await handler(query, ctx)

    return wrapper


@timed
@retried
async def handle(query: Query, ctx: Context) -> str:
    """Fetch the page that the query names."""
    address = re.search(r"https?://\S+", query.query_text)
    if address is None:
        raise QueryFailed("Which page? Please write its address.")
    async with httpx.AsyncClient() as client:
        response = await client.get(address[0])
    return f"{address[0]} answers with {response.status_code}."
