"""One connection to WebBuddy: HTTP/1.1, a request at a time, each answer read to its end."""

# Why not a connection of httpcore's, which is what httpx itself would use. Of one call over loopback, two
# thirds of the CPU went into it: six cancel scopes, locks, trace points, and h11, which parses in Python
# (53 µs a call, as against 2 for the C of httptools, which uvicorn rests on). What it can do beyond this, we
# do not need: HTTP/2, upgrades, answers that are read piece by piece. What we own for that are the two
# hundred lines below; the parsing itself, where mistakes are dangerous, is llhttp's, Node's own parser.

from __future__ import annotations

import math
import re
import ssl
from collections.abc import Callable, Iterable

import httptools
import httpx
import trio

__all__ = ["Connection", "NotSentError", "open_connection"]

CHUNK = 65_536  # bytes to read at once

MOST_HEAD = 65_536
"""Bytes of an answer's status line and headers."""

SURELY_AT_ONCE = 4_096
"""Bytes of a request that the system takes whole or not at all: where it did not, nothing was sent."""


class NotSentError(httpx.WriteError):
    """The server had closed the connection before anything of the request was sent over it."""


async def open_connection(url: httpx.URL, context: ssl.SSLContext | None) -> Connection:
    """Connect to a server.

    Cancelled, nothing is left open.

    Args:
        url: Its scheme, host and port.
        context: For ``https``: whom to trust.

    Raises:
        httpx.ConnectError: It can't be reached, or can't prove who it is.
    """
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        stream = await trio.open_tcp_stream(url.raw_host.decode("ascii"), port)
    except OSError as error:
        raise httpx.ConnectError(_said(error)) from error
    if context is None:
        return Connection(stream, stream.socket.is_readable)
    # https_compatible: no server waits for our goodbye, and hardly one says its own.
    secure = trio.SSLStream(stream, context, server_hostname=url.host, https_compatible=True)
    try:
        await secure.do_handshake()
    except trio.BrokenResourceError as error:
        await trio.aclose_forcefully(stream)
        raise httpx.ConnectError("") from error  # its cause says it best
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return Connection(secure, stream.socket.is_readable)


class Connection:
    """An open connection. Made by `open_connection`.

    After an error or a cancellation it is of no more use, and has to be closed.

    Args:
        stream: What is sent and received through.
        is_readable: Whether anything has come, or its end.

    Attributes:
        usable_for: Seconds for which it may wait for another request: 0 when it takes none, infinity where
            the server has not said.
    """

    def __init__(self, stream: trio.abc.Stream, is_readable: Callable[[], bool]) -> None:
        self._stream = stream
        self._is_readable = is_readable
        self.usable_for = 0.0

    async def exchange(self, request: httpx.Request, *, longest: int) -> httpx.Response:
        """Send a request, and read its answer to the end.

        Args:
            request: Its body is bytes, not a stream.
            longest: Bytes of a body after which an answer is given up.

        Raises:
            NotSentError: The server has not seen the request; over another connection it may be sent again.
            httpx.TransportError: Whether the server has seen it is not known.
        """
        self.usable_for = 0.0
        data = _encoded(request)
        was_sent = await self._send(data)
        answer = _Answer(longest)
        try:
            # Also when not all was sent: a server that does not want to read so much may have said so.
            await self._receive(answer)
        except httpx.TransportError as error:
            if not was_sent and len(data) <= SURELY_AT_ONCE:
                raise NotSentError("the server had closed the connection") from error
            raise
        self.usable_for = answer.usable_for() if was_sent else 0.0
        return answer.response(request)

    def is_silent(self) -> bool:
        """Whether nothing came since the last answer: neither its end nor anything that nobody asked for."""
        return not self._is_readable()

    async def aclose(self) -> None:
        """Close it, without a goodbye."""
        await trio.aclose_forcefully(self._stream)

    async def _send(self, data: bytes) -> bool:
        try:
            await self._stream.send_all(data)
        except trio.BrokenResourceError:
            return False
        return True

    async def _receive(self, answer: _Answer) -> None:
        while not answer.is_complete:
            try:
                data = await self._stream.receive_some(CHUNK)
            except trio.BrokenResourceError as error:
                raise httpx.ReadError(_said(error.__cause__ or error)) from error
            answer.feed(data)


class _Answer:
    """What has come of an answer; the parser calls its ``on_…``."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._parser = httptools.HttpResponseParser(self)
        self._is_in_head = True
        self._head_size = 0
        self._headers: list[tuple[bytes, bytes]] = []
        self._body: list[bytes] = []
        self._body_size = 0
        self._is_surplus = False
        self._may_be_kept = False
        self.is_complete = False

    def feed(self, data: bytes | bytearray) -> None:
        """Take what comes next, nothing being the end of the stream.

        Raises:
            httpx.RemoteProtocolError: It is no answer in HTTP, or ends too early.
            httpx.ReadError: It is too long.
        """
        if not data:
            self._end()
            return
        if self._is_in_head:
            self._head_size += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            raise httpx.RemoteProtocolError(f"this is no HTTP: {error}") from error
        if self._is_in_head and self._head_size > MOST_HEAD:
            raise httpx.RemoteProtocolError(f"its headers are longer than {MOST_HEAD} bytes")
        if self._body_size > self._longest:
            raise httpx.ReadError(f"the answer is longer than {self._longest} bytes")

    def usable_for(self) -> float:
        """Say for how many seconds the connection may be kept."""
        if self._is_surplus or not self._may_be_kept:
            return 0.0
        return _keep_alive_seconds(self._headers)

    def response(self, request: httpx.Request) -> httpx.Response:
        """Give it as httpx does."""
        return httpx.Response(
            self._parser.get_status_code(),
            headers=self._headers,
            content=b"".join(self._body),
            request=request,
        )

    def _end(self) -> None:
        if self._is_in_head and self._head_size == 0:
            raise httpx.RemoteProtocolError("the server hung up without an answer")
        if self._is_in_head or _has_length(self._headers):
            raise httpx.RemoteProtocolError("the server hung up in the middle of its answer")
        self.is_complete = True  # of those that end with the connection, one can't tell

    # --- What the parser calls -------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._is_surplus = self.is_complete

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_in_head:  # else it is a trailer
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._parser.get_status_code() < 200:
            self._headers.clear()  # of a "100 Continue", after which the answer comes
        else:
            self._is_in_head = False

    def on_body(self, data: bytes) -> None:
        if not self.is_complete:
            self._body.append(data)
            self._body_size += len(data)

    def on_message_complete(self) -> None:
        if not self._is_in_head and not self.is_complete:
            self.is_complete = True
            self._may_be_kept = self._parser.should_keep_alive()  # it forgets with the next byte


def _encoded(request: httpx.Request) -> bytes:
    lines = [b"%s %s HTTP/1.1" % (request.method.encode("ascii"), request.url.raw_path)]
    lines += [b"%s: %s" % header for header in request.headers.raw]
    head = b"\r\n".join(lines)
    if head.count(b"\n") != len(lines) - 1 or head.count(b"\r") != len(lines) - 1:
        # Without naming it: it may be the token.
        raise httpx.LocalProtocolError("a header of the request has a line break in it")
    return b"%s\r\n\r\n%s" % (head, request.content)


def _has_length(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    return any(name.lower() in (b"content-length", b"transfer-encoding") for name, _ in headers)


def _keep_alive_seconds(headers: Iterable[tuple[bytes, bytes]]) -> float:
    """What ``Keep-Alive: timeout=5`` says, less a second for the way; infinity where there is none."""
    for name, value in headers:
        if name.lower() == b"keep-alive" and (said := re.search(rb"\btimeout=(\d{1,9})\b", value)):
            return max(0.0, int(said[1]) - 1.0)
    return math.inf


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__
