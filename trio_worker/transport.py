"""The way to WebBuddy: an `httpx.AsyncClient` whose connections can't be lost.

Everything that depends on how httpx and httpcore keep their connections is in this file, so that
another client is an exchange of this file.
"""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from http.cookiejar import CookieJar, DefaultCookiePolicy
from importlib.metadata import PackageNotFoundError, version
from urllib.request import getproxies, proxy_bypass

import httpx
import trio

__all__ = ["ConnectionStack", "open_client"]

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


@asynccontextmanager
async def open_client(
    url: str,
    *,
    auth: httpx.Auth | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
) -> AsyncGenerator[httpx.AsyncClient, None]:
    """Open the client for one WebBuddy.

    It follows no redirect (a POST would become a GET, and the token would go to another host),
    keeps no cookie (with a session cookie Django REST framework goes by the session, not by the
    token, and asks for a CSRF token) and reads no answer longer than 32 MiB (`httpx.ReadError`).
    A proxy named in the environment (``HTTPS_PROXY``, ``NO_PROXY``, …) is used.

    How many connections there are is the caller's matter (`trio_worker.turns.Turns`): each
    request under way has one. So are deadlines: httpx's own timeouts are off, since they are per
    operation, not for the whole (a server that sends a byte every 29 s never runs into them); a
    cancel scope around the call is, and cancelling a request at any moment is safe.

    Args:
        url: WebBuddy's base URL, with or without a trailing slash or a path prefix. Requests with a
            relative URL are joined to it.
        auth: Applied to each request.
        transport: What to send through instead of sockets, for tests within one process.
    """
    if transport is None:
        transport = ConnectionStack(await _connection_maker(httpx.URL(url)))
    async with httpx.AsyncClient(
        base_url=url,
        auth=auth,
        transport=transport,
        timeout=None,  # noqa: S113 - the caller's cancel scope
        follow_redirects=False,
        cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
        headers={
            "Accept": "application/json",
            # Not compressed: answers are small, and the limit of their length stays meaningful.
            "Accept-Encoding": "identity",
            # What WebBuddy says in an error is for the operator; its default is Russian.
            "Accept-Language": "en",
            "User-Agent": _user_agent(),
        },
    ) as client:
        yield client


def _user_agent() -> str:
    try:
        return f"trio-worker/{version('trio-worker')}"
    except PackageNotFoundError:  # run from a checkout that was not installed
        return "trio-worker"


class ConnectionStack(httpx.AsyncBaseTransport):
    """Idle connections on a stack, instead of httpcore's pool.

    Two things are wrong with that pool (httpcore 1.0.9) for a program that lives by cancel scopes.
    A cancellation that arrives while a request is queued for a connection, or in the moment in
    which its connection comes about, leaves a slot occupied for ever
    (https://github.com/encode/httpcore/issues/1093), until none is left. And
    it walks over all its connections for each request: at 50 at once 3.9 ms of CPU each, as
    against 0.5 ms here.

    Therefore each connection is a pool of one, that only one request at a time ever sees. It comes
    back onto the stack when its answer was read to the end; after anything else (an error, a
    cancellation, an answer half read) it is closed and forgotten. So nothing can be lost: there is
    no state that outlives a failure. The newest is used first, and those at the bottom that nobody
    needed for ``keep_alive`` are closed.

    Args:
        open_connection: Makes a transport for one connection; does not connect yet.
        keep_alive: Seconds for which an idle connection is used again.
        longest_answer: Bytes after which an answer is given up.
    """

    def __init__(
        self,
        open_connection: Callable[[], httpx.AsyncBaseTransport],
        *,
        keep_alive: float = KEEP_ALIVE_SECONDS,
        longest_answer: int = LONGEST_ANSWER,
    ) -> None:
        self._open_connection = open_connection
        self._keep_alive = keep_alive
        self._longest_answer = longest_answer
        self._idle: deque[tuple[float, httpx.AsyncBaseTransport]] = deque()
        self._closed = False

    @property
    def idle(self) -> int:
        """How many connections wait for a request."""
        return len(self._idle)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request over a connection of its own. Cancelled, that connection is closed."""
        await self._close_stale()
        connection = self._idle.pop()[1] if self._idle else self._open_connection()
        try:
            response = await connection.handle_async_request(request)
        except BaseException:
            with trio.move_on_after(CLOSE_SECONDS, shield=True):
                await connection.aclose()
            raise
        assert isinstance(response.stream, httpx.AsyncByteStream)  # noqa: S101 - for the type checker
        response.stream = _Body(
            response.stream,
            lambda reusable: self._give_back(connection, reusable),
            longest=self._longest_answer,
        )
        return response

    async def aclose(self) -> None:
        """Close the idle connections. Those in use are closed with their answers."""
        self._closed = True
        while self._idle:
            await _close(self._idle.pop()[1])

    async def _give_back(self, connection: httpx.AsyncBaseTransport, reusable: bool) -> None:
        if reusable and not self._closed:
            self._idle.append((trio.current_time() + self._keep_alive, connection))
        else:
            await _close(connection)

    async def _close_stale(self) -> None:
        # The oldest are on the left, whoever took or put back in between.
        while self._idle and self._idle[0][0] <= trio.current_time():
            await _close(self._idle.popleft()[1])


class _Body(httpx.AsyncByteStream):
    """The body of an answer, which knows where its connection belongs."""

    def __init__(
        self,
        stream: httpx.AsyncByteStream,
        give_back: Callable[[bool], Awaitable[None]],
        *,
        longest: int,
    ) -> None:
        self._stream = stream
        self._give_back = give_back
        self._longest = longest
        self._read_to_its_end = False
        self._closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        length = 0
        try:
            async for chunk in self._stream:
                length += len(chunk)
                if length <= self._longest:
                    yield chunk
                else:
                    # Not `raise`: that would leave httpx's and httpcore's generators hanging half
                    # way, for the garbage collector. On a closed stream the next read fails, and
                    # they end by themselves.
                    await self._stream.aclose()
        except httpx.ReadError as error:
            if length > self._longest:
                raise httpx.ReadError(f"the answer is longer than {self._longest} bytes") from error
            raise
        self._read_to_its_end = True

    async def aclose(self) -> None:
        if self._closed:
            return  # given back twice, a connection would serve two requests at once
        self._closed = True
        with trio.move_on_after(CLOSE_SECONDS, shield=True):
            await self._stream.aclose()
        await self._give_back(self._read_to_its_end)


async def _close(connection: httpx.AsyncBaseTransport) -> None:
    with trio.move_on_after(CLOSE_SECONDS, shield=True):
        await connection.aclose()


async def _connection_maker(url: httpx.URL) -> Callable[[], httpx.AsyncBaseTransport]:
    """Find out once, for all connections, by which proxy and with which certificates."""
    address = _environment_proxy(url)
    through_tls = address is not None and httpx.URL(address).scheme == "https"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts nobody
    if url.scheme == "https" or through_tls:
        # Reads the certificate authorities' file: 20 ms. `SSL_CERT_FILE` is heeded.
        context = await trio.to_thread.run_sync(httpx.create_ssl_context)
    proxy = httpx.Proxy(address, ssl_context=context if through_tls else None) if address else None
    limits = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=KEEP_ALIVE_SECONDS)
    return partial(httpx.AsyncHTTPTransport, verify=context, proxy=proxy, limits=limits)


def _environment_proxy(url: httpx.URL) -> str | None:
    """Which proxy the environment names for this URL.

    httpx itself asks the environment only when it makes the transports; there is one URL here, so
    one look is enough.
    """
    proxies = getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    host = url.netloc.decode("ascii")
    if not proxy or proxy_bypass(host):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"
