"""One connection to WebBuddy: HTTP/1.1, a request at a time, each answer read to its end."""

# Why not a connection of httpcore's, which is what httpx itself would use. Of one call over loopback, two
# thirds of the CPU went into it: six cancel scopes, locks, trace points, and h11, which parses in Python
# (53 µs a call, as against 2 for the C of httptools, which uvicorn rests on). What it can do beyond this, we
# do not need: HTTP/2, upgrades, answers that are read piece by piece. What we own for that is this file, and
# `trio_worker.answer_parser`.

from __future__ import annotations

import os
import ssl
from collections.abc import Callable

import httpx
import trio

from trio_worker.answer_parser import AnswerParser
from trio_worker.tcp_stream import CHUNK, connect

__all__ = ["MAYBE_SENT", "Connection", "NotSentError", "open_connection"]

SURELY_AT_ONCE = 4_096
"""Bytes of a request that the system takes whole or not at all: where it did not, nothing was sent."""

LOOK_SECONDS = 1.0  # for looking at what has come already, which does not wait

MAYBE_SENT = "trio_worker.maybe_sent"
"""A request's extension: whether anything of it may have left. Of use to whoever cancels the call."""


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
        stream = await connect(url.raw_host.decode("ascii"), port)
    except (OSError, UnicodeError) as error:  # the latter for a name that can't be one
        raise httpx.ConnectError(_said(error)) from error
    connection = Connection(stream, stream.is_readable, stream.acknowledge)
    if context is not None:
        try:
            await connection.secure(context, url.host)
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
    return connection


class Connection:
    """An open connection. Made by `open_connection`.

    After an error or a cancellation it is of no more use, and has to be closed.

    Args:
        stream: What is sent and received through.
        is_readable: Whether anything has come, or its end.
        acknowledge: Tells the server at once that what was sent has come. Called where an answer comes in
            pieces: Django's runserver sends its head, and by Nagle's algorithm the body only when
            the head is acknowledged. The system would do that 40 ms later: 44 ms a call, instead of 2.

    Attributes:
        usable_for: Seconds for which it may wait for another request: 0 when it takes none, infinity where
            the server has not said.
    """

    def __init__(
        self, stream: trio.abc.Stream, is_readable: Callable[[], bool], acknowledge: Callable[[], None]
    ) -> None:
        self._wire = _Wire(stream)
        self._stream: trio.abc.Stream = self._wire
        self._is_readable = is_readable
        self._acknowledge = acknowledge
        self._is_secure = False
        self.usable_for = 0.0

    async def secure(self, context: ssl.SSLContext, host: str) -> None:
        """Speak TLS from now on.

        Args:
            context: Whom to trust.
            host: Who the server has to prove to be.

        Raises:
            httpx.ConnectError: It does not.
        """
        # https_compatible: no server waits for our goodbye, and hardly one says its own.
        stream = trio.SSLStream(self._wire, context, server_hostname=host, https_compatible=True)
        try:
            await stream.do_handshake()
        except trio.BrokenResourceError as error:
            raise httpx.ConnectError("") from error  # its cause says it best
        self._stream = stream
        self._is_secure = True

    async def exchange(self, request: httpx.Request, *, longest: int) -> httpx.Response:
        """Send a request, and read its answer to the end.

        Args:
            request: Its body is bytes, not a stream. `MAYBE_SENT` is noted on it.
            longest: Bytes of a body after which an answer is given up.

        Raises:
            NotSentError: The server has not seen the request; over another connection it may be sent again.
            httpx.TransportError: Whether the server has seen it is not known.
        """
        self.usable_for = 0.0
        data = _encoded(request)
        answer = AnswerParser(longest)
        request.extensions[MAYBE_SENT] = True
        is_small = len(data) <= SURELY_AT_ONCE
        try:
            was_sent = await (self._send_and_receive if is_small else self._send_beside)(data, answer)
        except httpx.TransportError as error:
            reason = self._wire.send_error
            if reason is None:
                raise
            if is_small:
                request.extensions[MAYBE_SENT] = False
                raise NotSentError(_said(reason)) from error
            raise httpx.WriteError(f"{_said(reason)}, after a part of it may have been sent") from error
        if was_sent and not (self._is_secure and await self._holds_more()):
            self.usable_for = answer.usable_for()
        return answer.response(request)

    def is_silent(self) -> bool:
        """Whether nothing came since the last answer: neither its end nor anything that nobody asked for."""
        return not self._is_readable()

    async def aclose(self) -> None:
        """Close it, without a goodbye."""
        await trio.aclose_forcefully(self._stream)

    async def _send_and_receive(self, data: bytes, answer: AnswerParser) -> bool:
        """Give whether all was sent. Where it was not, the server may have said why."""
        await self._stream.send_all(data)
        await self._receive(answer)
        return self._wire.send_error is None

    async def _send_beside(self, data: bytes, answer: AnswerParser) -> bool:
        """The same for a body that a server may refuse to read on: it answers, and waits."""
        was_sent = False
        failure = None

        async def send() -> None:
            nonlocal was_sent
            await self._stream.send_all(data)
            was_sent = self._wire.send_error is None

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            try:
                await self._receive(answer)
            except httpx.TransportError as error:
                failure = error  # not in a group
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return was_sent

    async def _receive(self, answer: AnswerParser) -> None:
        while not answer.is_complete:
            try:
                data = await self._stream.receive_some(CHUNK)
            except trio.BrokenResourceError as error:
                raise httpx.ReadError(_said(error)) from error
            answer.feed(data)
            if not answer.is_complete:
                self._acknowledge()

    async def _holds_more(self) -> bool:
        """Whether TLS has anything that came with the answer: another one, or a goodbye."""
        self._wire.is_dry = True
        try:
            # Shielded, since the answer is there: it must not be lost by a cancellation now.
            with trio.move_on_after(LOOK_SECONDS, shield=True):
                await self._stream.receive_some(1)
        except trio.WouldBlock:
            return False
        except trio.BrokenResourceError:
            return True
        finally:
            self._wire.is_dry = False
        return True


class _Wire(trio.abc.Stream):
    """What lies under an exchange: a stream on which a send that failed does not prevent the reading.

    Trio's TLS takes a failed send for the end of all, and an answer that came before it would be lost.

    Attributes:
        send_error: Why a send has failed.
        is_dry: Whether to say that nothing more comes or goes, instead of waiting.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.send_error: trio.BrokenResourceError | None = None
        self.is_dry = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self.is_dry:
            raise trio.WouldBlock
        if self.send_error is not None:
            await trio.lowlevel.checkpoint()
            return
        try:
            await self._stream.send_all(data)
        except trio.BrokenResourceError as error:
            self.send_error = error

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if self.is_dry:
            raise trio.WouldBlock
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self._stream.aclose()


def _encoded(request: httpx.Request) -> bytes:
    if request.method in ("HEAD", "CONNECT"):
        raise httpx.LocalProtocolError(f"the answer to a {request.method} is not understood here")
    lines = [b"%s %s HTTP/1.1" % (request.method.encode("ascii"), request.url.raw_path)]
    lines += [b"%s: %s" % header for header in request.headers.raw]
    head = b"\r\n".join(lines)
    if head.count(b"\n") != len(lines) - 1 or head.count(b"\r") != len(lines) - 1:
        # Without naming it: it may be the token.
        raise httpx.LocalProtocolError("a header of the request has a line break in it")
    return b"%s\r\n\r\n%s" % (head, request.content)


def _said(error: BaseException) -> str:
    """What is behind an error: Trio wraps what the system says, once for each address of a server."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(dict.fromkeys(_said(inner) for inner in error.exceptions))
    if isinstance(error, ConnectionError | TimeoutError) and error.errno:
        # Not its own words: Trio adds the address, and "Connection refused" comes twice for "localhost".
        return os.strerror(error.errno)
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
