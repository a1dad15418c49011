"""The pushes of the benchmarks' WebBuddy: as python-requests sends them, a connection for each."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from urllib.parse import urlsplit

from benchmarks.stored import Store, StoredQuery

__all__ = ["Pusher"]

TIMEOUT = 2.0  # seconds; then WebBuddy hangs up, and does not try again
LOOK = 0.001  # seconds between two looks whether a query has ended

REQUEST = (
    b"POST /api/process-query HTTP/1.1\r\n"
    b"Host: %s\r\n"
    b"User-Agent: python-requests/2.32.5\r\n"
    b"Accept-Encoding: gzip, deflate\r\n"
    b"Accept: */*\r\n"
    b"Connection: keep-alive\r\n"
    b"Content-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n"
    b"%s"
)


class Pusher:
    """Creates queries and tells a worker of each.

    Args:
        store: Where they are created.
        own_url: WebBuddy's URL, as pushes name it.

    Attributes:
        counts: How many pushes were ``sent``, ``accepted`` (200), ``refused`` (another status), ``late``
            (no answer within 2 s) or ``broken`` (no connection, or it was closed).
    """

    def __init__(self, store: Store, own_url: str) -> None:
        self._store = store
        self._own_url = own_url
        self._task: asyncio.Task[None] | None = None
        self.counts: Counter[str] = Counter()

    @property
    def is_busy(self) -> bool:
        """Whether pushes are being sent. What went wrong with it is raised."""
        if self._task is None or not self._task.done():
            return self._task is not None
        self._task.result()
        return False

    def begin(self, url: str, texts: list[str], at_once: int) -> None:
        """Push a query for each of ``texts``, ``at_once`` at a time."""
        self._task = asyncio.create_task(self._push_all(url, texts, at_once))

    def begin_one_by_one(self, url: str, number: int, text: str, pause: float) -> None:
        """Push queries to a worker that has nothing else to do."""
        self._task = asyncio.create_task(self._push_one_by_one(url, number, text, pause))

    def end(self) -> None:
        """Push no more."""
        if self._task is not None:
            self._task.cancel()

    async def _push_all(self, url: str, texts: list[str], at_once: int) -> None:
        waiting = iter(texts)

        async def push_some() -> None:
            for text in waiting:
                await self._push(url, self._create(text))

        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(at_once, len(texts))):
                tasks.create_task(push_some())

    async def _push_one_by_one(self, url: str, number: int, text: str, pause: float) -> None:
        chance = random.Random(7)  # noqa: S311 - a load
        for _ in range(number):
            query = self._create(text)
            await self._push(url, query)
            while query.ended is None:
                await asyncio.sleep(LOOK)
            await asyncio.sleep(pause * chance.uniform(0.5, 1.5))  # not in step with anything of the worker's

    def _create(self, text: str) -> StoredQuery:
        return self._store.create(json.dumps(text, ensure_ascii=False).encode())

    async def _push(self, url: str, query: StoredQuery) -> None:
        self.counts["sent"] += 1
        query.pushed = time.monotonic()
        try:
            async with asyncio.timeout(TIMEOUT):
                status = await self._send(url, query)
        except TimeoutError:
            self.counts["late"] += 1
            return
        except (OSError, EOFError, ValueError, IndexError):
            self.counts["broken"] += 1
            return
        if status != 200:
            self.counts["refused"] += 1
            return
        query.push_seconds = time.monotonic() - query.pushed
        self.counts["accepted"] += 1

    async def _send(self, url: str, query: StoredQuery) -> int:
        address = urlsplit(url)
        body = json.dumps({"query_id": query.number, "webbuddy_url": self._own_url}).encode()
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        try:
            writer.write(REQUEST % (address.netloc.encode(), len(body), body))
            return int((await reader.readline()).split()[1])
        finally:
            writer.close()
