"""What of `httpx.AsyncClient` is needed to call WebBuddy, and nothing else."""

# Why not httpx.AsyncClient itself. It does the same in 140 µs of CPU more a call, which is as much as the
# whole call takes: it merges URLs, headers, cookies, time limits and hooks for each request, and looks for
# cookies in each answer. Requests, answers, errors, `httpx.Auth` and transports are httpx's own, so that a
# call can be looked at, and a transport be exchanged, as with any client of httpx.

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import httpx

from trio_worker.messages import ReadyHeaders, ReadyRequest, url_below
from trio_worker.transport import open_stack

__all__ = ["Client", "open_client"]


@asynccontextmanager
async def open_client(
    url: str,
    *,
    auth: httpx.Auth | None = None,
    ca_file: Path | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
) -> AsyncGenerator[Client, None]:
    """Open the client for one WebBuddy.

    Args:
        url: WebBuddy's base URL, with or without a trailing slash or a path prefix.
        auth: Applied to each request.
        ca_file: As of `trio_worker.transport.open_stack`.
        transport: What to send through instead of sockets, for tests within one process.
    """
    base = httpx.URL(url.rstrip("/") + "/")
    async with transport or await open_stack(base, ca_file=ca_file) as way:
        yield Client(base, auth or httpx.Auth(), way)


class Client:
    """Makes the calls to one WebBuddy. Made by `open_client`.

    It follows no redirect (a POST would become a GET, and the token would go to another host) and keeps no
    cookie (with a session cookie Django REST framework goes by the session, not by the token, and asks for a
    CSRF token).

    How many calls are under way is the caller's matter (`trio_worker.turns.Turns`): each has a connection. So
    are deadlines: httpx's own time limits are per operation, not for the whole (a server that sends a byte
    every 29 s never runs into them); a cancel scope around the call is, and cancelling it at any moment is
    safe.

    Args:
        base_url: With a slash at its end.
        auth: Applied to each request.
        transport: What is sent through.

    Attributes:
        base_url: As above.
        on_request: Told of each request that goes out, those of the log-in too.
        on_response: Told of each answer, which has been read to its end.
        on_failure: Told of each request that has none, or whose answer nobody waits for any more.
    """

    def __init__(self, base_url: httpx.URL, auth: httpx.Auth, transport: httpx.AsyncBaseTransport) -> None:
        self.base_url = base_url
        self.on_request: Callable[[httpx.Request], None] = _ignore
        self.on_response: Callable[[httpx.Response], None] = _ignore
        self.on_failure: Callable[[httpx.Request], None] = _ignore
        self._auth = auth
        self._transport = transport
        self._headers = [
            (b"Host", base_url.netloc),
            (b"Accept", b"application/json"),
            # Not compressed: answers are small, and the limit of their length stays meaningful.
            (b"Accept-Encoding", b"identity"),
            # What WebBuddy says in an error is for the operator; its default is Russian.
            (b"Accept-Language", b"en"),
            (b"User-Agent", _user_agent().encode("ascii")),
        ]

    def build(
        self,
        method: str,
        path: str,
        content: bytes | None = None,
        *,
        parameters: Mapping[str, str] | None = None,
        extensions: Mapping[str, Any] | None = None,
    ) -> httpx.Request:
        """Build a request.

        Args:
            method: Its method.
            path: Relative to the base URL, without a slash before it.
            content: A body of JSON.
            parameters: For the URL.
            extensions: As of `httpx.Request`.
        """
        url = url_below(self.base_url, path)
        headers = self._headers.copy()
        if content is not None:
            headers.append((b"Content-Type", b"application/json"))
        if method != "GET":
            headers.append((b"Content-Length", b"%d" % len(content or b"")))
        return ReadyRequest(
            method,
            url if parameters is None else url.copy_merge_params(parameters),
            headers=ReadyHeaders(headers),
            content=content or b"",
            extensions=extensions,
        )

    async def send(self, request: httpx.Request) -> httpx.Response:
        """Send a request, after whatever its authorization needs, and read the answer to its end.

        Cancelled, it is not known whether the request has arrived.

        Raises:
            httpx.RequestError: There was no answer; with the request that had none.
        """
        async with aclosing(self._auth.async_auth_flow(request)) as flow:
            following = await anext(flow)
            while True:
                response = await self._exchange(following)
                try:
                    following = await flow.asend(response)
                except StopAsyncIteration:
                    return response

    async def _exchange(self, request: httpx.Request) -> httpx.Response:
        self.on_request(request)
        try:
            response = await self._transport.handle_async_request(request)
            response.request = request
            await response.aread()
        except BaseException as error:
            if isinstance(error, httpx.RequestError):
                error.request = request
            self.on_failure(request)
            raise
        self.on_response(response)
        return response


def _ignore(_thing: object) -> None:
    pass


def _user_agent() -> str:
    try:
        return f"trio-worker/{version('trio-worker')}"
    except PackageNotFoundError:  # run from a checkout that was not installed
        return "trio-worker"
