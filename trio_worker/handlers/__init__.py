"""Handlers: the function that ``WORKER_HANDLER`` names. `echo` comes with the package."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_worker.query import Query

if TYPE_CHECKING:
    # Context is built from what stands above the handlers; a handler only receives one.
    from trio_worker.context import Context

__all__ = ["echo"]


async def echo(query: Query, ctx: Context) -> str:
    """Answer with the query's own text. Shows that a worker and its WebBuddy are joined up."""
    ctx.log(f"echo: {len(query.query_text)} characters")
    return query.query_text
