"""The push endpoint behind a real hypercorn, with real sockets: what packets can and can not do."""

from __future__ import annotations

import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import attrs
import pytest
import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from structlog.typing import EventDict
from trio.testing import MockClock

from trio_worker.web import make_app
from trio_worker.web.connections import MOST
from trio_worker.web.hypercorn_fixes import install

PUSH = json.dumps({"query_id": 7, "webbuddy_url": "http://localhost:8000"}).encode()
HEAD = b"POST /api/process-query HTTP/1.1\r\nHost: worker\r\nContent-Length: %d\r\n" % len(PUSH)
CLOSE = HEAD + b"Connection: close\r\n\r\n" + PUSH
KEEP = HEAD + b"\r\n" + PUSH
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: worker\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@attrs.frozen
class Server:
    port: int
    pushed: trio.MemoryReceiveChannel[int]

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    async def answers(self) -> None:
        """Push once, and see the push arrive."""
        stream = await self.connect()
        async with stream:
            await stream.send_all(CLOSE)
            assert (await read_all(stream)).startswith(b"HTTP/1.1 200 ")


async def read_all(stream: trio.SocketStream) -> bytes:
    """What the server sends until it closes the connection, in either way."""
    received = bytearray()
    try:
        async for part in stream:
            received += part
    except trio.BrokenResourceError:
        pass
    return bytes(received)


@pytest.fixture
def clock() -> MockClock:
    """Let time jump to the next deadline as soon as nothing moves any more.

    Both ends of each connection are in this process: what one has sent the other has, so that a
    hundredth of a second without work means that everybody waits for a clock.
    """
    return MockClock(autojump_threshold=0.01)


@asynccontextmanager
async def serving(app: Any = None, **options: Any) -> AsyncIterator[Server]:
    """Serve the push endpoint (or another app); every test ends with a graceful shutdown."""
    install()
    send, receive = trio.open_memory_channel[int](10_000)
    app = app or make_app(pushed=send.send_nowait, own_url="http://localhost:8000")
    config = Config.from_mapping(bind=["127.0.0.1:0"], errorlog=None, **options)
    stop = trio.Event()
    with trio.fail_after(3_600):
        async with trio.open_nursery() as nursery:
            [url] = await nursery.start(partial(serve, app, config, shutdown_trigger=stop.wait))
            yield Server(int(url.rpartition(":")[2]), receive)
            stop.set()


# --- Connections are closed when they should be --------------------------------------------------


async def test_connection_close_is_obeyed(clock: MockClock) -> None:
    """The server closes such a connection right behind its answer."""
    async with serving() as server, await server.connect() as stream:
        start = trio.current_time()
        await stream.send_all(CLOSE)
        assert (await read_all(stream)).endswith(b'{"status": "accepted"}')
        assert trio.current_time() - start < 1


async def test_an_http_1_0_client_is_not_kept_waiting(clock: MockClock) -> None:
    """Without a length to go by, the end of the connection is the end of the answer."""
    async with serving() as server, await server.connect() as stream:
        start = trio.current_time()
        await stream.send_all(KEEP.replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert (await read_all(stream)).endswith(b'{"status": "accepted"}')
        assert trio.current_time() - start < 1


@pytest.mark.parametrize("requests", [b"", KEEP, KEEP * 3])
async def test_an_idle_connection_is_closed(requests: bytes, clock: MockClock) -> None:
    """… after hypercorn's `keep_alive_timeout`, whether it has had an answer or not."""
    async with serving(keep_alive_timeout=7) as server, await server.connect() as stream:
        start = trio.current_time()
        await stream.send_all(requests)
        assert (await read_all(stream)).count(b'{"status": "accepted"}') == len(requests) // len(KEEP)
        assert trio.current_time() - start == pytest.approx(7, abs=1)


async def test_a_client_that_has_gone_leaves_nothing_behind(clock: MockClock) -> None:
    """Its tasks end with its connection: the clock for idle ones does not run on."""
    async with serving(keep_alive_timeout=3_600) as server:
        await trio.sleep(1)
        before = trio.lowlevel.current_statistics().tasks_living
        for _ in range(10):
            stream = await server.connect()
            await stream.send_all(KEEP)
            await stream.receive_some()
            await stream.aclose()
        await trio.sleep(1)
        assert trio.lowlevel.current_statistics().tasks_living == before


async def test_a_client_that_goes_in_the_middle_of_its_answer_leaves_nothing_behind(clock: MockClock) -> None:
    """The same for one that does not wait for the end of its answer."""
    async with serving(keep_alive_timeout=3_600) as server:
        await trio.sleep(1)
        before = trio.lowlevel.current_statistics().tasks_living
        for _ in range(50):
            stream = await server.connect()
            await stream.send_all(KEEP)
            await stream.receive_some(20)
            await trio.aclose_forcefully(stream)
        await trio.sleep(1)
        assert trio.lowlevel.current_statistics().tasks_living == before


async def test_idle_connections_do_not_keep_a_push_out(clock: MockClock) -> None:
    """Hundreds that say nothing: as many as there are places get in, and a push does all the same."""
    async with serving(keep_alive_timeout=3_600) as server, AsyncExitStack() as idle:
        await trio.sleep(1)
        before = trio.lowlevel.current_statistics().tasks_living
        for _ in range(MOST + 200):
            await idle.enter_async_context(await server.connect())
        await trio.sleep(0.5)
        # Its own, and hypercorn's clock.
        assert trio.lowlevel.current_statistics().tasks_living == before + 2 * MOST
        start = trio.current_time()
        await server.answers()
        assert trio.current_time() - start < 10


async def test_an_idle_connection_does_not_hold_up_the_shutdown(clock: MockClock) -> None:
    """The server ends at once although a client keeps its connection."""
    async with serving(keep_alive_timeout=3_600, graceful_timeout=1_000) as server:
        stream = await server.connect()
        await stream.send_all(KEEP)
        assert await stream.receive_some() != b""
        start = trio.current_time()
    assert trio.current_time() - start < 1
    async with stream:
        await read_all(stream)


async def test_a_client_that_never_reads_does_not_hold_up_the_shutdown(clock: MockClock) -> None:
    """It asks and asks until no buffer takes its answers any more; the server ends all the same."""
    async with serving(keep_alive_max_requests=10**6) as server:
        stream = await server.connect()
        with trio.move_on_after(1):  # it is stuck: nobody moves any more, and so the time does
            while True:
                await stream.send_all(KEEP * 100)
        start = trio.current_time()
    assert trio.current_time() - start < 60
    await trio.aclose_forcefully(stream)


async def test_the_same_bad_packet_is_not_logged_again_and_again(
    clock: MockClock, events: list[EventDict]
) -> None:
    """Data behind a websocket upgrade breaks hypercorn, but not our app, of which hypercorn would log it."""
    app = make_app(pushed=lambda _id: None, own_url="http://localhost:8000")
    broken: list[Exception] = []

    async def watched(scope: Any, receive: Any, send: Any) -> None:
        try:
            await app(scope, receive, send)
        except Exception as error:
            broken.append(error)
            raise

    async with serving(watched) as server:
        for _ in range(20):
            async with await server.connect() as stream:
                await stream.send_all(UPGRADE + b"\x81\x05hello")
                await read_all(stream)
    assert broken == []
    lines = [event["event"] for event in events if event["log_level"] == "error"]
    assert lines == ["a connection broke the HTTP server's code and was closed"]


async def test_an_answer_may_take_longer_than_a_client_may_be_silent(clock: MockClock) -> None:
    """As the status page's stream, which has no end, and whose reader nothing to say."""

    async def tell_the_time(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"  # hypercorn does without a lifespan
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(20):
            await send({"type": "http.response.body", "body": b"tick ", "more_body": True})
            await trio.sleep(15)
        await send({"type": "http.response.body", "body": b"end", "more_body": False})

    async with serving(tell_the_time) as server, await server.connect() as stream:
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: worker\r\nConnection: close\r\n\r\n")
        received = await read_all(stream)
        assert received.count(b"tick ") == 20
        assert b"end" in received


async def test_a_connection_is_used_again(clock: MockClock) -> None:
    """One after the other, and several at a time (pipelined): each gets its own answer, in order."""
    async with serving() as server, await server.connect() as stream:
        await stream.send_all(KEEP)
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 ")
        await stream.send_all(KEEP + KEEP.replace(b"/api/", b"/bad/") + CLOSE)
        statuses = [part[:3] for part in (await read_all(stream)).split(b"HTTP/1.1 ")[1:]]
        assert statuses[-3:] == [b"200", b"404", b"200"]
        assert [await server.pushed.receive() for _ in range(3)] == [7, 7, 7]


async def test_a_slow_body_is_answered_and_closed(clock: MockClock) -> None:
    """Half a body, then silence: 408 and the end of the connection, after two seconds."""
    async with serving() as server, await server.connect() as stream:
        start = trio.current_time()
        await stream.send_all(KEEP[:-1])
        assert (await read_all(stream)).startswith(b"HTTP/1.1 408 ")
        assert trio.current_time() - start == pytest.approx(2, abs=1)


async def test_a_client_that_hangs_up_behind_its_push_is_heard(clock: MockClock) -> None:
    """WebBuddy's client has given up and closed before the answer: the worker is told all the same."""
    async with serving() as server:
        for _ in range(20):
            stream = await server.connect()
            await send_and_close(stream, CLOSE)
            assert await server.pushed.receive() == 7


@pytest.mark.parametrize("target", ["//api/process-query", "/prefix//api/process-query/"])
async def test_a_joined_path_arrives_over_the_wire(target: str, clock: MockClock) -> None:
    """hypercorn's `--root-path` and FASTAPI_URL's trailing slash, as python-requests sends them."""
    request = (
        f"POST {target} HTTP/1.1\r\nHost: localhost:8001\r\nUser-Agent: python-requests/2.32.5\r\n"
        "Accept-Encoding: gzip, deflate\r\nAccept: */*\r\nConnection: keep-alive\r\n"
        f"Content-Length: {len(PUSH)}\r\nContent-Type: application/json\r\n\r\n"
    ).encode() + PUSH
    async with serving(root_path="/prefix") as server, await server.connect() as stream:
        await stream.send_all(request)
        assert (await read_all(stream)).startswith(b"HTTP/1.1 200 ")


# --- No packet kills the server ------------------------------------------------------------------


async def send_and_reset(stream: trio.SocketStream, data: bytes) -> None:
    """Send, then end the connection with RST instead of FIN."""
    await stream.send_all(data)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await trio.aclose_forcefully(stream)


async def send_and_close(stream: trio.SocketStream, data: bytes) -> None:
    await stream.send_all(data)
    await trio.aclose_forcefully(stream)


async def send_and_read(stream: trio.SocketStream, data: bytes) -> None:
    try:
        await stream.send_all(data)
    except trio.BrokenResourceError:
        return
    await read_all(stream)


async def send_half_close_and_read(stream: trio.SocketStream, data: bytes) -> None:
    await stream.send_all(data)
    await stream.send_eof()
    await read_all(stream)


def tls_hello() -> bytes:
    out = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), out, server_hostname="worker")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return out.read()


PACKETS = {
    "data behind a websocket upgrade": UPGRADE + b"\x81\x05hello",
    "a websocket upgrade": UPGRADE,
    "a bad websocket upgrade": UPGRADE.replace(b"AAAA", b"\xff"),
    "garbage": bytes(range(256)) * 10,
    "nothing": b"",
    "line breaks": b"\r\n" * 100,
    "a TLS hello": tls_hello(),
    "a header of 70 KB": HEAD + b"X: " + b"x" * 70_000 + b"\r\n\r\n",
    "a header that never ends": HEAD + b"X: " + b"x" * 70_000,
    "a bad chunk": HEAD.replace(b"Content-Length: %d" % len(PUSH), b"Transfer-Encoding: chunked")
    + b"\r\nzz\r\n",
    "two lengths": HEAD + b"Content-Length: 1\r\n\r\n" + PUSH,
    "a negative length": b"POST / HTTP/1.1\r\nHost: w\r\nContent-Length: -1\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "a strange host": b"GET / HTTP/1.1\r\nHost: \xff..%00:x\r\nConnection: close\r\n\r\n",
    "a strange path": b"GET /%ff%00\xc3\x28?%ff HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n",
    "a whole URL": b"GET http://[x HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n",
    "CONNECT": b"CONNECT evil:443 HTTP/1.1\r\nHost: evil:443\r\nConnection: close\r\n\r\n",
    "OPTIONS *": b"OPTIONS * HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n",
    "an HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100,
    "an upgrade to HTTP/2": b"GET / HTTP/1.1\r\nHost: w\r\nConnection: Upgrade, HTTP2-Settings\r\n"
    b"Upgrade: h2c\r\nHTTP2-Settings: !!!\r\n\r\n",
    "half a request line": b"POST /api/pro",
    "half a header": HEAD,
    "half a body": HEAD + b"\r\n" + PUSH[:10],
    "a body too long": KEEP + b"{" * 100_000,
    "a hundred requests at once": KEEP * 100,
    "expect": HEAD + b"Expect: 100-continue\r\nConnection: close\r\n\r\n" + PUSH,
}


@pytest.mark.parametrize("act", [send_and_reset, send_and_close, send_and_read, send_half_close_and_read])
@pytest.mark.parametrize("packet", PACKETS.values(), ids=PACKETS.keys())
async def test_no_packet_kills_the_server(
    packet: bytes, act: Callable[[trio.SocketStream, bytes], Awaitable[None]], clock: MockClock
) -> None:
    """Whatever a client sends and however it leaves or stays: the next push is answered."""
    async with serving() as server:
        async with await server.connect() as stream:
            await act(stream, packet)
        await server.answers()


@pytest.mark.parametrize("packet", PACKETS.values(), ids=PACKETS.keys())
async def test_no_packet_keeps_a_connection_open(packet: bytes, clock: MockClock) -> None:
    """Whatever a client sends, if it then keeps silent its connection is closed."""
    async with serving() as server, await server.connect() as stream:
        start = trio.current_time()
        await send_and_read(stream, packet)
        assert trio.current_time() - start < 100


async def test_a_crash_in_a_connection_ends_that_connection_alone(
    clock: MockClock, events: list[EventDict]
) -> None:
    """What hypercorn's own code raises is logged with its traceback, and the others are served on."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if scope["type"] == "websocket":
            return  # at once: hypercorn then answers this upgrade twice, and h11 raises
        if scope["type"] == "lifespan":
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
        else:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"alive"})

    async with serving(app) as server, await server.connect() as other:
        async with await server.connect() as stream:
            await send_and_read(stream, PACKETS["data behind a websocket upgrade"])
        await other.send_all(CLOSE)
        assert b"alive" in await read_all(other)
    [event] = events
    assert event["log_level"] == "error"
    assert isinstance(event["exc_info"], ExceptionGroup)
