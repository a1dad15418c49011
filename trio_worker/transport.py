"""The way to WebBuddy: a transport for httpx whose connections can't be lost."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Protocol

import httpx
import trio

from trio_worker.connection import MAYBE_SENT, NotSentError, open_connection
from trio_worker.proxied import ProxiedConnection
from trio_worker.route import find_route

__all__ = ["Connection", "ConnectionStack", "open_stack"]

KEEP_ALIVE_SECONDS = 4.0
"""How long an idle connection is used again.

Shorter than the 5 s after which hypercorn, uvicorn and Node close theirs. At the same 5 s (httpx's
default) a request may be written just as the server closes: the error that follows is the same one
as after a claim that was carried out.
"""

LONGEST_ANSWER = 32 * 1024 * 1024
"""Bytes. A page of 50 queries with long answers has a few MiB; a broken proxy has no end."""

CLOSE_SECONDS = 2.0
"""For closing a connection. It is one system call; a shield without a deadline would be a promise
about somebody else's code."""


class Connection(Protocol):
    """One connection, on which one request at a time is made; see `trio_worker.connection.Connection`."""

    usable_for: float

    async def exchange(self, request: httpx.Request, *, longest: int) -> httpx.Response:
        """Send a request, and read its answer to the end."""

    def is_silent(self) -> bool:
        """Whether nothing came since the last answer."""

    async def aclose(self) -> None:
        """Close it."""


class ConnectionStack(httpx.AsyncBaseTransport):
    """Idle connections on a stack, instead of httpcore's pool.

    A connection is on the stack, or one request alone has it. It comes back when its answer was read to the
    end; after anything else (an error, a cancellation) it is closed and forgotten. So nothing can be lost:
    there is no state that outlives a failure. The newest is used first, and those at the bottom that nobody
    needed for ``keep_alive`` are closed.

    Args:
        open_connection: Makes a connection.
        keep_alive: Seconds for which an idle connection is used again, unless the server says less.
        longest_answer: Bytes after which an answer is given up.
    """

    def __init__(
        self,
        open_connection: Callable[[], Awaitable[Connection]],
        *,
        keep_alive: float = KEEP_ALIVE_SECONDS,
        longest_answer: int = LONGEST_ANSWER,
    ) -> None:
        self._open_connection = open_connection
        self._keep_alive = keep_alive
        self._longest_answer = longest_answer
        # With the times at which they came and from which on they are of no more use.
        self._idle: deque[tuple[float, float, Connection]] = deque()
        self._closed = False

    @property
    def idle(self) -> int:
        """How many connections wait for a request."""
        return len(self._idle)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request over a connection of its own, and read the answer. Cancelled, it is closed.

        When the server has closed an idle connection in just this moment, so that nothing of the request has
        left, it is sent over the next one. When it may have left, the error is the caller's; whether it may
        is noted on it (`trio_worker.connection.MAYBE_SENT`).
        """
        request.extensions[MAYBE_SENT] = False
        now = trio.current_time()
        await self._close_stale(now)
        while (connection := await self._take(now)) is not None:
            try:
                return await self._exchange(connection, request)
            except NotSentError:
                pass  # there is an end to them
        return await self._exchange(await self._open_connection(), request)

    async def aclose(self) -> None:
        """Close the idle connections. Those in use are closed with their answers."""
        self._closed = True
        with trio.move_on_after(CLOSE_SECONDS, shield=True):
            async with trio.open_nursery() as nursery:
                while self._idle:
                    nursery.start_soon(self._idle.pop()[2].aclose)

    async def _take(self, now: float) -> Connection | None:
        while self._idle:
            _, end, connection = self._idle.pop()
            if now < end and connection.is_silent():
                return connection
            await _close(connection)
        return None

    async def _exchange(self, connection: Connection, request: httpx.Request) -> httpx.Response:
        try:
            response = await connection.exchange(request, longest=self._longest_answer)
        except BaseException:
            await _close(connection)  # noqa: ASYNC102 - it shields itself, with a deadline
            raise
        await self._give_back(connection)
        return response

    async def _give_back(self, connection: Connection) -> None:
        seconds = min(self._keep_alive, connection.usable_for)
        if seconds > 0 and not self._closed:
            now = trio.current_time()
            self._idle.append((now, now + seconds, connection))
        else:
            await _close(connection)

    async def _close_stale(self, now: float) -> None:
        # Those that have waited longest are on the left.
        while self._idle and self._idle[0][0] + self._keep_alive <= now:
            await _close(self._idle.popleft()[2])


async def _close(connection: Connection) -> None:
    with trio.move_on_after(CLOSE_SECONDS, shield=True):
        await connection.aclose()


async def open_stack(
    url: httpx.URL, *, ca_file: Path | None = None, longest_answer: int = LONGEST_ANSWER
) -> ConnectionStack:
    """Make a stack for a server, without connecting to it yet.

    A proxy named in the environment (``HTTPS_PROXY``, ``NO_PROXY``, …) is used. By which one, and with which
    certificates, is found out once for all connections.

    Args:
        url: The server's.
        ca_file: The certificates of who is trusted; None: those who usually are, or ``SSL_CERT_FILE``.
        longest_answer: As of `ConnectionStack`.

    Raises:
        SettingsError: The environment names a proxy, or certificates, that can't be used.
    """
    route = await find_route(url, ca_file)
    if (proxy := route.proxy) is None:
        return ConnectionStack(partial(open_connection, url, route.context), longest_answer=longest_answer)

    async def open_proxied() -> Connection:
        await trio.lowlevel.checkpoint()
        return ProxiedConnection(proxy, route.context)

    return ConnectionStack(open_proxied, longest_answer=longest_answer)
