"""An agent that looks whether a page is up: "Проверь http://localhost:8000/login".

WORKER_HANDLER=check_page:handle trio-worker run
"""

from __future__ import annotations

import re
import time

import httpx

from trio_worker import Context, Query, QueryFailed


async def handle(query: Query, ctx: Context) -> str:
    """Fetch the page that the query names, and say what came."""
    address = re.search(r"https?://\S+", query.query_text)
    if address is None:
        raise QueryFailed("Which page? Please write its address, like http://localhost:8000/login")
    url = address[0].rstrip(".,;)")
    ctx.log(f"fetching {url}")
    began = time.perf_counter()
    try:
        async with httpx.AsyncClient(timeout=30, follow_redirects=True) as client:
            response = await client.get(url)
    except httpx.HTTPError as error:
        raise QueryFailed(f"{url} does not answer: {error}") from error
    seconds = time.perf_counter() - began
    ctx.log(f"{len(response.content)} bytes after {seconds:.2f} s")
    return f"{response.url} answers with {response.status_code} ({seconds:.2f} s)."
