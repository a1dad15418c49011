"""What a client can do to the endpoint on purpose, by real sockets: it is cut off, and others are served."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
import trio
from trio.testing import MockClock

from tests.test_hypercorn_fixes import CLOSE, HEAD, KEEP, PUSH, Server, read_all, serving
from trio_worker.web.connections import MOST, PATIENCE

CHUNKED = HEAD.replace(b"Content-Length: %d" % len(PUSH), b"Transfer-Encoding: chunked") + b"\r\n"
ENOUGH = 64_000_000  # bytes that no buffer of the system's takes


@pytest.fixture
def clock() -> MockClock:
    """Let time jump once nothing has moved for a moment: both ends of each connection are here."""
    return MockClock(autojump_threshold=0.01)


@pytest.fixture
async def server(clock: MockClock) -> AsyncIterator[Server]:
    async with serving() as server:
        yield server


async def dribble(stream: trio.SocketStream, data: bytes, pause: float) -> float:
    """Send a byte now and then until the server has had enough: after how many seconds."""
    start = trio.current_time()
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            try:
                for byte in data * 100:
                    await stream.send_all(bytes([byte]))
                    await trio.sleep(pause)
            except trio.BrokenResourceError:
                pass

        nursery.start_soon(send)
        await read_all(stream)
        nursery.cancel_scope.cancel()
    return trio.current_time() - start


async def flood(stream: trio.SocketStream, head: bytes, part: bytes) -> int:
    """Send without an end until the server has had enough: how many bytes it took."""
    sent = 0
    try:
        await stream.send_all(head)
        while sent < ENOUGH:
            await stream.send_all(part)
            sent += len(part)
    except trio.BrokenResourceError:
        pass
    return sent


async def test_a_head_that_dribbles_in_is_cut_off(server: Server, clock: MockClock) -> None:
    """Slowloris: a byte every second, for ever. The time for a head does not begin anew with each."""
    async with await server.connect() as stream:
        assert await dribble(stream, HEAD, 1) < 10


async def test_a_body_that_dribbles_in_is_cut_off(server: Server, clock: MockClock) -> None:
    """The same behind a whole head."""
    async with await server.connect() as stream:
        await stream.send_all(HEAD + b"\r\n")
        assert await dribble(stream, b" ", 0.3) < 10


@pytest.mark.parametrize("path", [b"/api/process-query", b"/readyz", b"/nothing"])
@pytest.mark.parametrize(
    ("head", "part"),
    [
        (HEAD.replace(b"Length: %d" % len(PUSH), b"Length: 1000000000") + b"\r\n", b"x" * 65_536),
        (CHUNKED, b"10000\r\n" + b"x" * 65_536 + b"\r\n"),
        (CHUNKED, b"1\r\nx\r\n" * 2_000),
        (HEAD, b"X: " + b"x" * 1_000 + b"\r\n"),
        (HEAD, b"x" * 65_536),
    ],
    ids=["a length of a GB", "chunks without an end", "small chunks", "header lines", "one header line"],
)
async def test_what_never_ends_is_cut_off(
    server: Server, clock: MockClock, path: bytes, head: bytes, part: bytes
) -> None:
    """A body of a gigabyte is neither read nor kept; and nothing of its connection stays behind."""
    await trio.sleep(1)
    before = trio.lowlevel.current_statistics().tasks_living
    async with await server.connect() as stream:
        with trio.fail_after(100):
            assert await flood(stream, head.replace(b"/api/process-query", path), part) < ENOUGH
        await server.answers()
        await trio.sleep(10)
        assert trio.lowlevel.current_statistics().tasks_living == before


async def test_slow_clients_in_all_places_do_not_keep_a_push_out(server: Server, clock: MockClock) -> None:
    """Heads that never end, in more connections than there are places."""
    streams = [await server.connect() for _ in range(MOST + 100)]
    for stream in streams:
        await stream.send_all(HEAD)
    start = trio.current_time()
    await server.answers()
    assert trio.current_time() - start < 10
    for stream in streams:
        await stream.aclose()


@pytest.mark.parametrize("said", [b"x", KEEP], ids=["a byte of a head", "a push"])
async def test_clients_that_never_pause_do_not_keep_a_push_out(
    server: Server, clock: MockClock, said: bytes
) -> None:
    """As many as there are places, each of which says something before it is idle, and comes again."""

    async def besiege() -> None:
        while True:
            with suppress(trio.BrokenResourceError):
                async with await server.connect() as stream, trio.open_nursery() as nursery:
                    nursery.start_soon(answers_away, stream, nursery.cancel_scope)
                    while True:
                        await stream.send_all(said)
                        await trio.sleep(PATIENCE / 2)

    async def answers_away(stream: trio.SocketStream, siege: trio.CancelScope) -> None:
        await read_all(stream)
        siege.cancel()

    async with trio.open_nursery() as besiegers:
        for _ in range(MOST):
            besiegers.start_soon(besiege)
        await trio.sleep(1)
        for _ in range(3):
            with trio.fail_after(2):
                await server.answers()
        besiegers.cancel_scope.cancel()


SMUGGLED = CLOSE
SMUGGLING = {
    "a length and chunks": HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "two lengths": HEAD + b"Content-Length: 0\r\n\r\n" + SMUGGLED,
    "a list of lengths": HEAD.replace(b"Length: ", b"Length: 0, ") + b"\r\n" + SMUGGLED,
    "a length with a sign": HEAD.replace(b"Length: ", b"Length: +") + b"\r\n" + PUSH + SMUGGLED,
    "a length in hex": HEAD.replace(b"Length: ", b"Length: 0x") + b"\r\n" + PUSH + SMUGGLED,
    "chunked, chunked": CHUNKED.replace(b"chunked", b"chunked, chunked") + b"0\r\n\r\n" + SMUGGLED,
    "xchunked": CHUNKED.replace(b"chunked", b"xchunked") + b"0\r\n\r\n" + SMUGGLED,
    "a blank before the colon": CHUNKED.replace(b"Encoding:", b"Encoding :") + b"0\r\n\r\n" + SMUGGLED,
    "a folded header": HEAD + b"X: y\r\n Transfer-Encoding: chunked\r\n" + b"Z\r\n\r\n" + SMUGGLED,
    "a chunk of a negative size": CHUNKED + b"-1\r\n" + SMUGGLED,
    "a chunk of a huge size": CHUNKED + b"f" * 40 + b"\r\n" + SMUGGLED,
    "NUL in a header": HEAD + b"X: \0\r\n\r\n" + PUSH + SMUGGLED,
    "two hosts": HEAD + b"Host: other\r\n\r\n" + PUSH + SMUGGLED,
}


@pytest.mark.parametrize("packet", SMUGGLING.values(), ids=SMUGGLING.keys())
async def test_nothing_is_smuggled_in(server: Server, clock: MockClock, packet: bytes) -> None:
    """What two servers may read in two ways is refused as a whole: no request behind it is heard."""
    async with await server.connect() as stream:
        await stream.send_all(packet)
        answers = await read_all(stream)
    # What comes behind the last request of a connection makes hypercorn close it, at times before the answer.
    assert answers.count(b"HTTP/1.1 ") <= 1
    assert not answers or answers.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 501 "))
    with pytest.raises(trio.WouldBlock):
        server.pushed.receive_nowait()
    await server.answers()


def test_the_packets_hide_a_push_that_would_be_heard() -> None:
    """Or the test above would show nothing."""
    assert json.loads(SMUGGLED.partition(b"\r\n\r\n")[2]) == json.loads(PUSH)
