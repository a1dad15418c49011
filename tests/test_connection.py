"""One connection: what is sent, how each answer is read, and what becomes of it when anything goes wrong."""

from __future__ import annotations

import errno
import math
import os
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial

import attrs
import httpx
import pytest
import trio
import trio.testing
import trustme

from trio_worker.answer_parser import MOST_HEAD
from trio_worker.connection import MAYBE_SENT, Connection, NotSentError, open_connection

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
LONGEST = 1_000_000


@attrs.define(eq=False)
class Wire(trio.abc.Stream):
    """A server's answer, in the pieces in which it comes; then its end.

    Attributes:
        pieces: What comes. An exception is raised.
        sent: What was sent.
        broken: Whether nothing can be sent, or why.
        asked: Once there was an attempt to send anything; nothing comes before.
    """

    pieces: list[bytes | Exception]
    sent: bytearray = attrs.field(factory=bytearray)
    broken: bool | OSError = False
    closed: bool = False
    asked: trio.Event = attrs.field(factory=trio.Event)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        self.asked.set()
        if self.broken:
            raise trio.BrokenResourceError from (self.broken if self.broken is not True else None)
        self.sent += data

    async def wait_send_all_might_not_block(self) -> None:
        raise NotImplementedError

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await self.asked.wait()
        piece = self.pieces.pop(0) if self.pieces else b""
        if isinstance(piece, Exception):
            raise piece
        return piece

    async def aclose(self) -> None:
        self.closed = True
        await trio.lowlevel.checkpoint()


def on(wire: Wire) -> Connection:
    return Connection(wire, lambda: False, lambda: None)


def request(method: str = "GET", content: bytes | None = None, **headers: str) -> httpx.Request:
    return httpx.Request(method, "http://webbuddy/api/logs/?a=%20", content=content, headers=headers)


async def answer_to(*pieces: bytes | Exception, longest: int = LONGEST) -> tuple[httpx.Response, float]:
    connection = on(Wire(list(pieces)))
    response = await connection.exchange(request(), longest=longest)
    await response.aread()
    return response, connection.usable_for


async def error_of(*pieces: bytes | Exception, longest: int = LONGEST) -> httpx.TransportError:
    connection = on(Wire(list(pieces)))
    with pytest.raises(httpx.TransportError) as caught:
        await connection.exchange(request(), longest=longest)
    assert connection.usable_for == 0
    return caught.value


# --- What is sent --------------------------------------------------------------------------------


async def test_a_request_leaves_in_one_piece() -> None:
    """Its line, its headers, a blank line, its body: in one write, which is one packet."""
    wire = Wire([OK])
    await on(wire).exchange(request("POST", b'{"a": "\xd0\xb6"}', X="y"), longest=LONGEST)
    assert bytes(wire.sent) == (
        b"POST /api/logs/?a=%20 HTTP/1.1\r\n"
        b'Host: webbuddy\r\nX: y\r\nContent-Length: 11\r\n\r\n{"a": "\xd0\xb6"}'
    )


@pytest.mark.parametrize("value", ["a\r\nInjected: b", "a\nb", "a\rb"])
async def test_a_header_with_a_line_break_is_not_sent(value: str) -> None:
    """Nothing can be smuggled in through a value, and the error does not say it: it may be the token."""
    wire = Wire([OK])
    with pytest.raises(httpx.LocalProtocolError, match="line break") as caught:
        await on(wire).exchange(request(X=value), longest=LONGEST)
    assert not wire.sent
    assert value not in str(caught.value)


async def test_a_body_that_is_a_stream_is_refused() -> None:
    """There is no code for it, so it must not be sent as if it were empty."""

    async def stream() -> AsyncIterator[bytes]:
        yield b"x"

    with pytest.raises(httpx.RequestNotRead):
        await on(Wire([OK])).exchange(
            httpx.Request("POST", "http://webbuddy/", content=stream()), longest=LONGEST
        )


# --- What comes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "body", "usable_for"),
    [
        (OK, b"{}", math.inf),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"", math.inf),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"", math.inf),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n",
            b"{}",
            math.inf,
        ),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX: y\r\n\r\n",
            b"{}",
            math.inf,
        ),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}", b"{}", 0),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}", b"{}", 0),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n{}", b"{}", math.inf),
        (b"HTTP/1.1 200 OK\r\n\r\n{}", b"{}", 0),  # its end is the connection's
        (b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\n" + OK, b"{}", math.inf),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK, b"{}", math.inf),
        (b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=3, max=9\r\nContent-Length: 2\r\n\r\n{}", b"{}", 2),
        (b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=0\r\nContent-Length: 2\r\n\r\n{}", b"{}", 0),
        (b"HTTP/1.1 200 OK\r\nKeep-Alive: soon\r\nContent-Length: 2\r\n\r\n{}", b"{}", math.inf),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive, Close\r\nContent-Length: 2\r\n\r\n{}", b"{}", 0),
        (
            b"HTTP/1.1 200 OK\r\nContent-Encoding: identity\r\nContent-Length: 2\r\n\r\n{}",
            b"{}",
            math.inf,
        ),
    ],
)
@pytest.mark.parametrize("in_bytes", [False, True])
async def test_an_answer_is_read_to_its_end(
    answer: bytes, body: bytes, usable_for: float, in_bytes: bool
) -> None:
    """However it says where that is, and in whichever pieces it comes."""
    pieces = [bytes([byte]) for byte in answer] if in_bytes else [answer]
    response, usable = await answer_to(*pieces)
    assert response.content == body
    assert "X" not in response.headers
    assert "Link" not in response.headers
    assert usable == usable_for


CREATED = b"HTTP/1.1 201 Created\r\nX: y\r\nContent-Length: 2\r\n\r\n{}"
CLOSES = b"HTTP/1.1 201 Created\r\nX: y\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}"


@pytest.mark.parametrize(
    ("answer", "surplus"),
    [
        (CREATED, b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n"),
        (CREATED, b"HTTP/1.1 404 Not Found\r\nX: z\r\nContent-Length: 2\r\n\r\n[]"),
        (CREATED, b"HTTP/1.1 100 Continue\r\n\r\n"),
        (CREATED, b"HTTP/1.1 20"),
        (CREATED, b"H"),
        (CREATED, b"x"),
        (CREATED, CREATED),
        (CLOSES, b"xx"),
        (CLOSES, CREATED),
        (b"HTTP/1.1 201 Created\r\nX: y\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", b"x"),
    ],
)
@pytest.mark.parametrize("in_bytes", [False, True])
async def test_what_follows_an_answer_changes_nothing_of_it(
    answer: bytes, surplus: bytes, in_bytes: bool
) -> None:
    """Be it another answer or garbage: a claim that was carried out stays one. The connection is not kept."""
    whole = answer + surplus
    pieces = [bytes([byte]) for byte in whole] if in_bytes else [whole]
    response, usable = await answer_to(*pieces)
    assert response.status_code == 201
    assert response.headers["X"] == "y"
    assert response.content == b"{}"
    if not in_bytes:  # else it has not come yet, and `is_silent` finds it out
        assert usable == 0


@pytest.mark.parametrize("head", [b"204 No Content\r\nConnection: close", b"304 Not Modified"])
async def test_a_body_where_there_is_none_is_surplus(head: bytes) -> None:
    """Some servers send one."""
    for answer in ([b"HTTP/1.1 %s\r\n\r\n{}" % head], [bytes([b]) for b in b"HTTP/1.1 %s\r\n\r\n{}" % head]):
        response, usable = await answer_to(*answer)
        assert response.status_code == int(head[:3])
        assert response.content == b""
        assert usable == 0 or len(answer) > 1


async def test_an_empty_line_after_an_answer_is_none() -> None:
    """As HTTP/1.0's servers used to send; it is passed over."""
    _, usable = await answer_to(OK + b"\r\n")
    assert usable == math.inf


async def test_status_and_headers_are_those_of_the_answer() -> None:
    """Also several of one name, and a status that nobody knows."""
    head = (
        b"HTTP/1.1 599 Whatever\r\nDate: now\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nContent-Length: 0\r\n\r\n"
    )
    response, _ = await answer_to(head)
    assert response.status_code == 599
    assert response.headers["date"] == "now"
    assert response.headers.get_list("set-cookie") == ["a", "b"]
    assert response.request.url.path == "/api/logs/"


@pytest.mark.parametrize(
    ("pieces", "says"),
    [
        ([], "hung up without an answer"),
        ([b"HTTP/1.1 200 OK\r\nConte"], "in the middle of its answer"),
        ([OK[:-1]], "in the middle of its answer"),
        (
            [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"],
            "in the middle of its answer",
        ),
        ([b"HTTP/1.1 100 Continue\r\n\r\n"], "in the middle of its answer"),
        ([b"SSH-2.0-OpenSSH_9.2\r\n"], "this is no HTTP"),
        ([b"\x15\x03\x01\x00\x02\x02\x16"], "this is no HTTP"),
        (
            [b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nx"],
            "this is no HTTP",
        ),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}"], "this is no HTTP"),
        (
            [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}"],
            "this is no HTTP",
        ),
        ([b"HTTP/1.1 099 Early\r\nContent-Length: 2\r\n\r\n{}"], "this is no HTTP: its status is 99"),
        (
            [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"],
            "its Transfer-Encoding is 'gzip, chunked'",
        ),
        (
            [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n{}"],
            "its Transfer-Encoding is 'identity'",
        ),
        (
            [b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}"],
            "its Content-Encoding is 'gzip'",
        ),
        # What h11 lets pass, and llhttp does not.
        ([b"HTTP/1.1 200 OK\nContent-Length: 2\n\n{}"], "this is no HTTP"),
        ([b"HTTP/1.1 200 OK\r\nX: a\r\n  b\r\nContent-Length: 2\r\n\r\n{}"], "this is no HTTP"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}"], "this is no HTTP"),
        (
            [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2 \r\n{}\r\n0\r\n\r\n"],
            "this is no HTTP",
        ),
    ],
)
async def test_what_is_no_whole_answer_is_an_error(pieces: list[bytes], says: str) -> None:
    """Never half an answer for a whole one."""
    error = await error_of(*pieces)
    assert isinstance(error, httpx.RemoteProtocolError)
    assert says in str(error)


async def test_a_connection_that_breaks_is_a_read_error() -> None:
    """With what the system said of it."""
    broken = trio.BrokenResourceError()
    broken.__cause__ = ConnectionResetError(104, "Connection reset by peer")
    for pieces in ([broken], [OK[:-1], broken]):
        error = await error_of(*pieces)
        assert isinstance(error, httpx.ReadError)
        assert "reset by peer" in str(error)


def heads_without_an_end() -> Iterable[bytes]:
    yield b"HTTP/1.1 200 OK\r\n"
    for number in range(100):
        yield b"X-%d: %s\r\n" % (number, b"x" * 1_000)


async def test_headers_and_bodies_without_an_end_are_given_up() -> None:
    """A broken proxy can't fill the memory."""
    wire = Wire(list(heads_without_an_end()))
    with pytest.raises(httpx.RemoteProtocolError, match=str(MOST_HEAD)):
        await on(wire).exchange(request(), longest=LONGEST)
    assert len(wire.pieces) > 20
    endless = [b"HTTP/1.1 200 OK\r\n\r\n", *[b"x" * 1_000] * 100]
    error = await error_of(*endless, longest=10_000)
    assert isinstance(error, httpx.ReadError)
    assert "longer than 10000 bytes" in str(error)
    response, _ = await answer_to(*endless, longest=100_000)
    assert len(response.content) == 100_000


async def test_what_is_no_body_is_counted_as_well() -> None:
    """Tiny chunks cost a hundred times what they hold, and trailers have no end either."""
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    trailer = [chunked + b"2\r\n{}\r\n0\r\nX: ", *[b"y" * 10_000] * 100]
    interim = [b"HTTP/1.1 103 Early Hints\r\nX: %s\r\n\r\n" % (b"y" * 10_000)] * 100
    tiny = [chunked, *[b"1\r\n{\r\n" * 1_000] * 100]
    for pieces in (trailer, interim, tiny):
        wire = Wire(list(pieces))
        with pytest.raises(httpx.RemoteProtocolError, match=str(MOST_HEAD)):
            await on(wire).exchange(request(), longest=LONGEST)
        assert len(wire.pieces) > 50
    small = [chunked, *[b"a\r\n0123456789\r\n" * 1_000] * 50, b"0\r\n\r\n"]  # no reason to give up
    response, _ = await answer_to(*small)
    assert len(response.content) == 500_000


# --- What can't be sent --------------------------------------------------------------------------


async def test_a_request_that_the_server_can_not_have_seen_is_said_to_be_so() -> None:
    """So that it can be sent again, be it a claim."""
    connection = on(Wire([], broken=True))
    with pytest.raises(NotSentError):
        await connection.exchange(request("POST"), longest=LONGEST)


async def test_a_large_request_may_have_left_in_part() -> None:
    """Then nobody knows."""
    connection = on(Wire([], broken=True))
    with pytest.raises(httpx.TransportError) as caught:
        await connection.exchange(request("POST", b"x" * 100_000), longest=LONGEST)
    assert not isinstance(caught.value, NotSentError)


async def test_an_answer_that_came_before_all_was_sent_is_taken() -> None:
    """ "413 Content Too Large", and the door is shut: that is the answer, not the shut door."""
    wire = Wire([b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n"], broken=True)
    connection = on(wire)
    response = await connection.exchange(request("POST", b"x" * 100_000), longest=LONGEST)
    assert response.status_code == 413
    assert connection.usable_for == 0


@pytest.mark.parametrize("size", [10, 100_000])
async def test_why_it_could_not_be_sent_is_told(size: int) -> None:
    """Not only that nothing came after that."""
    wire = Wire([], broken=ConnectionResetError(104, "Connection reset by peer"))
    with pytest.raises(httpx.WriteError, match="Connection reset by peer"):
        await on(wire).exchange(request("POST", b"x" * size), longest=LONGEST)


@pytest.mark.parametrize(
    ("broken", "size", "maybe"), [(False, 10, True), (True, 10, False), (True, 100_000, True)]
)
async def test_whether_it_may_have_been_sent_is_noted_on_the_request(
    broken: bool, size: int, maybe: bool
) -> None:
    """For whoever cancels the call."""
    asked = request("POST", b"x" * size)
    with pytest.raises(httpx.TransportError):
        await on(Wire([], broken=broken)).exchange(asked, longest=LONGEST)
    assert asked.extensions[MAYBE_SENT] is maybe


@pytest.mark.parametrize("method", ["HEAD", "CONNECT"])
async def test_what_is_answered_by_other_rules_is_not_sent(method: str) -> None:
    """The end of such an answer would be looked for in the wrong place."""
    wire = Wire([OK])
    with pytest.raises(httpx.LocalProtocolError, match=method):
        await on(wire).exchange(request(method), longest=LONGEST)
    assert not wire.sent


# --- Cancellation --------------------------------------------------------------------------------


async def test_cancelled_at_each_wait_it_is_of_no_more_use() -> None:
    """In the sending, before the answer, and in its middle: never may another request have it."""
    for waits in range(1, 6):
        connection = on(Wire([OK[:10], OK[10:20], OK[20:-1], OK[-1:]]))
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(connection.exchange, request(), longest=LONGEST))
                for _ in range(waits):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
        assert not scope.cancelled_caught
        # Whole or not at all.
        assert connection.usable_for in (0, math.inf)
        await connection.aclose()
    wire = Wire([OK])
    connection = on(wire)
    with trio.CancelScope() as scope:
        scope.cancel()
        await connection.exchange(request(), longest=LONGEST)
    assert connection.usable_for == 0
    assert not wire.sent


async def test_a_second_exchange_that_is_cancelled_leaves_it_of_no_more_use() -> None:
    """The first one's good end does not count any more."""
    connection = on(Wire([OK, OK[:-1]]))
    await connection.exchange(request(), longest=LONGEST)
    assert connection.usable_for == math.inf
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(connection.exchange, request(), longest=LONGEST))
            await trio.lowlevel.checkpoint()
            scope.cancel()
    assert connection.usable_for == 0


# --- Real sockets --------------------------------------------------------------------------------

Serve = Callable[[trio.abc.Stream], Awaitable[None]]


@asynccontextmanager
async def serve(connection: Serve) -> AsyncIterator[int]:
    async with trio.open_nursery() as nursery:
        listeners: list[trio.SocketListener] = await nursery.start(
            partial(trio.serve_tcp, connection, 0, host="127.0.0.1")
        )
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def test_a_server_that_is_not_there_is_a_connect_error() -> None:
    """With what the system said of it."""
    async with serve(trio.aclose_forcefully) as port:
        pass
    with pytest.raises(httpx.ConnectError) as caught:
        await open_connection(httpx.URL(f"http://127.0.0.1:{port}"), None)
    assert str(caught.value) == os.strerror(errno.ECONNREFUSED)


@pytest.mark.parametrize("host", ["a..b", "a" * 64 + ".example"])
async def test_a_name_that_is_none_is_a_connect_error(host: str) -> None:
    """Not a crash, wherever it comes from."""
    with pytest.raises(httpx.ConnectError, match="label"):
        await open_connection(httpx.URL(f"http://{host}:1"), None)


async def test_silence_is_seen() -> None:
    """Whether the server has hung up, or has said what nobody asked for, shows without a request."""
    goes_on, said = trio.Event(), trio.Event()

    async def answer_and_close(stream: trio.abc.Stream) -> None:
        await stream.receive_some(10_000)
        await stream.send_all(OK)
        await goes_on.wait()
        await stream.aclose()
        said.set()

    with trio.fail_after(60):
        async with serve(answer_and_close) as port:
            connection = await open_connection(httpx.URL(f"http://127.0.0.1:{port}"), None)
            await connection.exchange(request(), longest=LONGEST)
            assert connection.is_silent()
            goes_on.set()
            await said.wait()
            while connection.is_silent():  # noqa: ASYNC110 - there is nothing else to wait for
                await trio.lowlevel.checkpoint()  # the end is on its way over loopback
            await connection.aclose()


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@asynccontextmanager
async def serve_tls(authority: trustme.CA, name: str, connection: Serve) -> AsyncIterator[int]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)

    async def secure(stream: trio.abc.Stream) -> None:
        try:
            await connection(trio.SSLStream(stream, context, server_side=True, https_compatible=True))  # type: ignore[arg-type]
        except trio.BrokenResourceError:
            pass  # the client does not trust us

    async with serve(secure) as port:
        yield port


async def answer_each(stream: trio.abc.Stream) -> None:
    while await stream.receive_some(10_000):
        await stream.send_all(OK)


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def test_tls(authority: trustme.CA) -> None:
    """Several requests over one connection to a server that proves who it is."""
    with trio.fail_after(60):
        async with serve_tls(authority, "localhost", answer_each) as port:
            url = httpx.URL(f"https://localhost:{port}")
            connection = await open_connection(url, trusting(authority))
            for _ in range(3):
                response = await connection.exchange(request(), longest=LONGEST)
                assert response.status_code == 200
                assert connection.is_silent()
            await connection.aclose()


@pytest.mark.parametrize("name", ["elsewhere.example", None])
async def test_who_can_not_prove_who_it_is_gets_nothing(authority: trustme.CA, name: str | None) -> None:
    """A wrong name, or an authority that nobody knows: the handshake fails, and its cause is kept."""
    context = trusting(authority) if name else ssl.create_default_context()
    with trio.fail_after(60):
        async with serve_tls(authority, name or "localhost", answer_each) as port:
            with pytest.raises(httpx.ConnectError) as caught:
                await open_connection(httpx.URL(f"https://localhost:{port}"), context)
    cause = caught.value.__cause__
    assert cause is not None
    assert isinstance(cause.__cause__, ssl.SSLCertVerificationError)


async def test_a_handshake_that_is_cancelled_leaves_nothing_open(authority: trustme.CA) -> None:
    """The server sees the end of it."""
    ended = trio.Event()

    async def say_nothing(stream: trio.abc.Stream) -> None:
        while await stream.receive_some(10_000):
            pass
        ended.set()

    with trio.fail_after(60):
        async with serve(say_nothing) as port:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(
                    open_connection, httpx.URL(f"https://127.0.0.1:{port}"), trusting(authority)
                )
                await trio.testing.wait_all_tasks_blocked(0.05)
                nursery.cancel_scope.cancel()
            await ended.wait()


async def test_a_server_is_asked_for_by_its_address_too(authority: trustme.CA) -> None:
    """A certificate may name one; the name in the URL is what is verified, not any."""
    with trio.fail_after(60):
        async with serve_tls(authority, "127.0.0.1", answer_each) as port:
            connection = await open_connection(httpx.URL(f"https://127.0.0.1:{port}"), trusting(authority))
            assert (await connection.exchange(request(), longest=LONGEST)).status_code == 200
            await connection.aclose()
            with pytest.raises(httpx.ConnectError):
                await open_connection(httpx.URL(f"https://localhost:{port}"), trusting(authority))


async def test_tls_without_a_goodbye_ends_an_answer(authority: trustme.CA) -> None:
    """As most servers end it; where a length was said, half of it is still no answer."""

    async def answer_and_vanish(stream: trio.abc.Stream) -> None:
        await stream.receive_some(10_000)
        await stream.send_all(answers.pop(0))
        assert isinstance(stream, trio.SSLStream)
        await trio.aclose_forcefully(stream.transport_stream)

    answers = [b"HTTP/1.1 200 OK\r\n\r\n{}", OK[:-1]]
    with trio.fail_after(60):
        async with serve_tls(authority, "localhost", answer_and_vanish) as port:
            url = httpx.URL(f"https://localhost:{port}")
            connection = await open_connection(url, trusting(authority))
            assert (await connection.exchange(request(), longest=LONGEST)).content == b"{}"
            await connection.aclose()
            connection = await open_connection(url, trusting(authority))
            with pytest.raises(httpx.RemoteProtocolError, match="in the middle"):
                await connection.exchange(request(), longest=LONGEST)
            await connection.aclose()


@attrs.define(eq=False)
class Corked(trio.abc.Stream):
    """What lies under a server's TLS: what it sends waits until it is let go, and leaves in one piece.

    Closing the TLS says its goodbye, and leaves this open.
    """

    stream: trio.abc.Stream
    held: bytearray | None = None

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self.held is None:
            await self.stream.send_all(data)
        else:
            await trio.lowlevel.checkpoint()
            self.held += data

    async def wait_send_all_might_not_block(self) -> None:
        raise NotImplementedError

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self.stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()

    async def let_go(self) -> None:
        assert self.held is not None
        data, self.held = bytes(self.held), None
        await self.stream.send_all(data)


@pytest.mark.parametrize("what", ["nothing", "an answer", "a goodbye"])
async def test_what_came_with_an_answer_over_tls_is_seen(authority: trustme.CA, what: str) -> None:
    """As a record of its own, which TLS holds back: the next request must not get it for its answer."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    over = trio.Event()

    async def answer_and_more(stream: trio.abc.Stream) -> None:
        cork = Corked(stream)
        secure = trio.SSLStream(cork, context, server_side=True)
        await secure.receive_some(10_000)
        cork.held = bytearray()
        await secure.send_all(OK)
        if what == "an answer":
            await secure.send_all(OK)
        elif what == "a goodbye":
            await secure.aclose()
        await cork.let_go()
        await over.wait()

    with trio.fail_after(60):
        async with serve(answer_and_more) as port:
            connection = await open_connection(httpx.URL(f"https://localhost:{port}"), trusting(authority))
            response = await connection.exchange(request(), longest=LONGEST)
            assert response.content == b"{}"
            assert connection.usable_for == (math.inf if what == "nothing" else 0)
            await connection.aclose()
            over.set()


@pytest.mark.parametrize("hangs_up", [False, True])
@pytest.mark.parametrize("tls", [False, True])
async def test_a_server_that_does_not_want_to_read_so_much_is_heard(
    authority: trustme.CA, tls: bool, hangs_up: bool
) -> None:
    """ "413 Content Too Large": it reads no more then, and waits, or hangs up in the middle."""
    too_large = b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n"

    async def refuse(stream: trio.abc.Stream) -> None:
        await stream.receive_some(1_000)
        await stream.send_all(too_large)
        if not hangs_up:
            await trio.sleep_forever()
        await trio.aclose_forcefully(stream)

    serving = partial(serve_tls, authority, "localhost") if tls else serve
    with trio.fail_after(60):
        async with serving(refuse) as port:
            url = httpx.URL(f"http{'s' if tls else ''}://localhost:{port}")
            connection = await open_connection(url, trusting(authority) if tls else None)
            response = await connection.exchange(request("POST", b"x" * 20_000_000), longest=LONGEST)
            assert response.status_code == 413
            assert connection.usable_for == 0
            await connection.aclose()


async def test_a_large_request_is_sent_whole(authority: trustme.CA) -> None:
    """Also where it takes longer to send than to begin to answer."""

    async def count(stream: trio.abc.Stream) -> None:
        got = 0
        while got < 5_000_000:
            got += len(await stream.receive_some(100_000))
        await stream.send_all(OK)
        await stream.receive_some(1)

    with trio.fail_after(60):
        async with serve(count) as port:
            connection = await open_connection(httpx.URL(f"http://127.0.0.1:{port}"), None)
            response = await connection.exchange(request("POST", b"x" * 5_000_000), longest=LONGEST)
            assert response.status_code == 200
            assert connection.usable_for == math.inf
            await connection.aclose()


@pytest.mark.parametrize(
    ("pieces", "times"),
    [([OK], 0), ([OK[:-2], OK[-2:]], 1), ([OK[:9], OK[9:-1], OK[-1:]], 2)],
    ids=["whole", "head and body", "three"],
)
async def test_pieces_of_an_answer_are_acknowledged_at_once(
    pieces: list[bytes | Exception], times: int
) -> None:
    """A server that follows Nagle sends the next one only then. A whole answer costs nothing more."""
    acknowledged: list[int] = []
    wire = Wire(pieces)
    connection = Connection(wire, lambda: False, lambda: acknowledged.append(len(wire.pieces)))
    await connection.exchange(request(), longest=LONGEST)
    assert len(acknowledged) == times


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is no such option")
async def test_the_system_acknowledges_the_pieces_at_once() -> None:
    """Else it waits for 40 ms, from the second exchange on: it hopes to send that along with a request."""

    async def answer_in_pieces(stream: trio.SocketStream) -> None:
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)  # as Python's servers, unlike Trio's
        while await stream.receive_some(1_000):
            await stream.send_all(OK[:-2])
            await stream.send_all(OK[-2:])

    with trio.fail_after(60):
        async with serve(answer_in_pieces) as port:
            connection = await open_connection(httpx.URL(f"http://127.0.0.1:{port}"), None)
            took = []
            for _ in range(30):
                began = trio.current_time()
                await connection.exchange(request(), longest=LONGEST)
                took.append(trio.current_time() - began)
            await connection.aclose()
    # The first are acknowledged at once anyway. 40 ms is the least that Linux waits: one proves it.
    assert min(took[-10:]) < 0.03
