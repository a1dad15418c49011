"""What one would write on Trio first: tasks that share an `httpx.AsyncClient`."""

from __future__ import annotations

from typing import Any

import httpx
import trio

from benchmarks.comparators.work import CONSUMERS, EMPTY_PAUSE, LOGS, URL, entry, outcome

TIMEOUT = 30
RETRY_PAUSE = 0.1  # seconds


async def call(client: httpx.AsyncClient, method: str, path: str, **arguments: Any) -> httpx.Response:
    """Make a call; again when there is no answer: with many tasks, httpx's pool has no connection in time."""
    while True:
        try:
            return await client.request(method, path, **arguments)
        except httpx.TransportError:
            await trio.sleep(RETRY_PAUSE)


async def consume(client: httpx.AsyncClient) -> None:
    """Work on queries for ever."""
    while True:
        claim = await call(client, "POST", "/api/queries/claim_next/")
        if claim.status_code == 404:
            await trio.sleep(EMPTY_PAUSE)
            continue
        query = claim.json()
        for number in range(LOGS):
            await call(client, "POST", "/api/logs/", json=entry(query, number))
        await call(client, "PATCH", f"/api/queries/{query['id']}/", json=outcome())


async def main() -> None:
    """Log in, then consume."""
    async with httpx.AsyncClient(base_url=URL, timeout=TIMEOUT) as client, trio.open_nursery() as nursery:
        credentials = {"username": "worker", "password": "secret"}
        token = (await call(client, "POST", "/api/login/", json=credentials)).json()["access"]
        client.headers["Authorization"] = f"Bearer {token}"
        for _ in range(CONSUMERS):
            nursery.start_soon(consume, client)


if __name__ == "__main__":
    trio.run(main)
