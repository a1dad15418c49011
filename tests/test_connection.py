"""One connection: what is sent, how each answer is read, and what becomes of it when anything goes wrong."""

from __future__ import annotations

import math
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial

import attrs
import httpx
import pytest
import trio
import trio.testing
import trustme

from trio_worker.connection import MOST_HEAD, Connection, NotSentError, open_connection

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
LONGEST = 1_000_000


@attrs.define(eq=False)
class Wire(trio.abc.Stream):
    """A server's answer, in the pieces in which it comes; then its end.

    Attributes:
        pieces: What comes. An exception is raised.
        sent: What was sent.
        broken: Whether nothing can be sent.
    """

    pieces: list[bytes | Exception]
    sent: bytearray = attrs.field(factory=bytearray)
    broken: bool = False
    closed: bool = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        if self.broken:
            raise trio.BrokenResourceError
        self.sent += data

    async def wait_send_all_might_not_block(self) -> None:
        raise NotImplementedError

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        piece = self.pieces.pop(0) if self.pieces else b""
        if isinstance(piece, Exception):
            raise piece
        return piece

    async def aclose(self) -> None:
        self.closed = True
        await trio.lowlevel.checkpoint()


def on(wire: Wire) -> Connection:
    return Connection(wire, lambda: False)


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
        (OK + b"HTTP/1.1 200 OK\r\n", b"{}", 0),  # the beginning of what nobody asked for
        (OK + OK, b"{}", 0),
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
    # What has not come yet is found out by `is_silent`.
    assert usable == (math.inf if in_bytes and answer.startswith(OK) else usable_for)


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
    assert str(caught.value)


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
