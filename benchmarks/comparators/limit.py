"""The least that Trio needs for it: a stream for each task, and HTTP written by hand for this one server.

No worker could be like that: it takes every answer for a good one, knows neither time limits nor errors, and
parses what it expects. It shows what is left to be won.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

import trio

from benchmarks.comparators.work import CONSUMERS, EMPTY_PAUSE, LOGS, URL, encoded, entry, outcome

ADDRESS = urlsplit(URL)
LENGTH = b"Content-Length: "


class Caller:
    """One connection.

    Args:
        stream: It.
        token: Sent with each call.
    """

    def __init__(self, stream: trio.SocketStream, token: str = "") -> None:
        self._stream = stream
        authorization = f"Authorization: Bearer {token}\r\n" if token else ""
        self._headers = (
            f" HTTP/1.1\r\nHost: {ADDRESS.netloc}\r\n{authorization}Content-Type: application/json\r\n"
        ).encode()

    async def call(self, line: bytes, body: bytes = b"") -> tuple[bytes, bytes]:
        """Make a call.

        Args:
            line: Method and path.
            body: JSON.

        Returns:
            The status, and the answer's body.
        """
        await self._stream.send_all(
            b"%s%sContent-Length: %d\r\n\r\n%s" % (line, self._headers, len(body), body)
        )
        data = bytes(await self._stream.receive_some(65_536))
        while (head := data.find(b"\r\n\r\n")) < 0:
            data += await self._stream.receive_some(65_536)
        at = data.index(LENGTH) + len(LENGTH)
        end = head + 4 + int(data[at : data.index(b"\r", at)])
        while len(data) < end:
            data += await self._stream.receive_some(65_536)
        return data[9:12], data[head + 4 : end]


async def consume(token: str) -> None:
    """Work on queries for ever."""
    caller = Caller(await _connect(), token)
    while True:
        status, answer = await caller.call(b"POST /api/queries/claim_next/")
        if status == b"404":
            await trio.sleep(EMPTY_PAUSE)
            continue
        query: dict[str, Any] = json.loads(answer)
        for number in range(LOGS):
            await caller.call(b"POST /api/logs/", encoded(entry(query, number)))
        await caller.call(b"PATCH /api/queries/%d/" % query["id"], encoded(outcome()))


async def main() -> None:
    """Log in, then consume."""
    caller = Caller(await _connect())
    _, answer = await caller.call(b"POST /api/login/", b'{"username": "worker", "password": "secret"}')
    token = json.loads(answer)["access"]
    async with trio.open_nursery() as nursery:
        for _ in range(CONSUMERS):
            nursery.start_soon(consume, token)


async def _connect() -> trio.SocketStream:
    return await trio.open_tcp_stream(ADDRESS.hostname or "localhost", ADDRESS.port or 80)


if __name__ == "__main__":
    trio.run(main)
