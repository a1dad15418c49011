"""The httpx client for WebBuddy: what it sends, and that no connection is ever lost."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError

import httpx
import pytest
import trio
import trio.lowlevel

from trio_worker import transport as transport_module
from trio_worker.transport import ConnectionStack, open_client
from trio_worker.turns import Turns

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"

Answer = Callable[[bytes, trio.SocketStream], Awaitable[None]]


class Server:
    """A hand-written HTTP/1.1 server: a head is read, `answer` does the rest."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.connections = 0
        self.open_now = 0
        self.changed = trio.Event()
        self.heads: list[bytes] = []
        self.url = ""

    async def connection(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        self.open_now += 1
        try:
            await self._serve(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client cancelled its request, or the answer was to hang up
        finally:
            self.open_now -= 1
            self.changed.set()
            self.changed = trio.Event()
            await trio.aclose_forcefully(stream)

    async def until_open(self, at_most: int) -> None:
        with trio.fail_after(60):
            while self.open_now > at_most:
                await self.changed.wait()

    async def _serve(self, stream: trio.SocketStream) -> None:
        data = b""
        async for chunk in stream:
            data += chunk
            if data.startswith(b"\x16"):  # TLS, of which this server knows nothing
                return
            while b"\r\n\r\n" in data:
                head, _, data = data.partition(b"\r\n\r\n")
                self.heads.append(head)
                await self.answer(head, stream)


@asynccontextmanager
async def serve(answer: Answer) -> AsyncIterator[Server]:
    server = Server(answer)
    async with trio.open_nursery() as nursery:
        listeners: list[trio.SocketListener] = await nursery.start(
            partial(trio.serve_tcp, server.connection, 0, host="127.0.0.1")
        )
        server.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        yield server
        nursery.cancel_scope.cancel()


async def answer_ok(head: bytes, stream: trio.SocketStream) -> None:
    await stream.send_all(OK)


def stack_of(client: httpx.AsyncClient) -> ConnectionStack:
    stack = client._transport
    assert isinstance(stack, ConnectionStack)
    return stack


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


# --- What is sent --------------------------------------------------------------------------------


async def test_what_the_client_says_about_itself() -> None:
    """JSON is asked for, in English, uncompressed; the user agent names the worker."""
    async with serve(answer_ok) as server, open_client(server.url) as client:
        assert (await client.get("api/users/me/")).json() == {}
        head = server.heads[0].decode().lower()
    assert head.startswith("get /api/users/me/ http/1.1")
    for line in ("accept: application/json", "accept-language: en", "accept-encoding: identity"):
        assert line in head
    assert "user-agent: trio-worker" in head


@pytest.mark.parametrize("prefix", ["", "/", "/portal", "/portal/"])
async def test_a_path_prefix_is_kept(prefix: str) -> None:
    """Relative URLs are joined to the base with exactly one slash."""
    seen: list[str] = []

    def app(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.path)
        return httpx.Response(200)

    async with open_client(f"http://webbuddy{prefix}", transport=httpx.MockTransport(app)) as client:
        await client.get("api/logs/")
    assert seen == [prefix.rstrip("/") + "/api/logs/"]


async def test_redirects_are_not_followed_and_cookies_not_kept() -> None:
    """A redirect is an answer like any other, and a session cookie never comes back."""
    seen: list[httpx.Request] = []

    def app(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        headers = {"Location": "http://elsewhere/", "Set-Cookie": "sessionid=1; Path=/"}
        return httpx.Response(301, headers=headers)

    async with open_client("http://webbuddy", transport=httpx.MockTransport(app)) as client:
        for _ in range(2):
            assert (await client.post("api/logs/")).status_code == 301
    assert len(seen) == 2
    assert not any("Cookie" in request.headers for request in seen)


# --- Connections ---------------------------------------------------------------------------------


async def test_a_connection_is_used_again() -> None:
    """One call after another needs one connection."""
    async with serve(answer_ok) as server, open_client(server.url) as client:
        for _ in range(10):
            await client.get("/")
        assert server.connections == 1
        assert stack_of(client).idle == 1


async def test_calls_at_once_have_a_connection_each() -> None:
    """Nothing ever queues for a connection."""
    everybody_here, here = trio.Event(), 0

    async def answer_together(head: bytes, stream: trio.SocketStream) -> None:
        nonlocal here
        here += 1
        if here == 20:
            everybody_here.set()
        await everybody_here.wait()
        await stream.send_all(OK)

    async with serve(answer_together) as server, open_client(server.url) as client:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(client.get, "/")
        assert server.connections == stack_of(client).idle == 20


async def test_a_connection_that_the_server_closed_is_replaced() -> None:
    """`Connection: close` costs a new connection, not an error."""

    async def answer_and_close(head: bytes, stream: trio.SocketStream) -> None:
        await stream.send_all(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        await stream.aclose()

    async with serve(answer_and_close) as server, open_client(server.url) as client:
        for _ in range(3):
            assert (await client.get("/")).status_code == 200
        assert server.connections == 3


async def test_a_connection_that_was_idle_for_long_is_not_used_again() -> None:
    """After ``keep_alive`` a new one is opened, and the old ones are closed."""
    stack = ConnectionStack(httpx.AsyncHTTPTransport, keep_alive=0.0)
    async with serve(answer_ok) as server, open_client(server.url, transport=stack) as client:
        for _ in range(3):
            await client.get("/")
        assert server.connections == 3
        assert stack_of(client).idle == 1
        await server.until_open(1)


async def test_idle_connections_that_nobody_needs_any_more_are_closed(autojump_clock: object) -> None:
    """After a burst, those at the bottom of the stack do not stay for ever."""

    class Connection(httpx.MockTransport):
        def __init__(self) -> None:
            super().__init__(lambda request: httpx.Response(200))
            opened.append(self)

        async def aclose(self) -> None:
            await trio.lowlevel.checkpoint()
            closed.append(self)

    opened: list[Connection] = []
    closed: list[Connection] = []

    async def ask() -> httpx.Response:
        return await stack.handle_async_request(httpx.Request("GET", "http://webbuddy/"))

    async def read(response: httpx.Response) -> None:
        assert isinstance(response.stream, httpx.AsyncByteStream)
        async for chunk in response.stream:
            assert chunk == b""
        await response.stream.aclose()

    stack = ConnectionStack(Connection)
    for response in [await ask() for _ in range(5)]:
        await read(response)
    for _ in range(3):  # one call each two seconds needs one of the five
        await trio.sleep(2)
        await read(await ask())
    assert len(opened) == 5
    assert closed == opened[:4]
    assert stack.idle == 1


def test_connections_are_kept_for_less_than_servers_keep_them() -> None:
    """hypercorn, uvicorn and Node close after 5 s; a request must not meet that."""
    assert transport_module.KEEP_ALIVE_SECONDS < 5


async def test_a_cancelled_request_closes_its_connection() -> None:
    """Half an answer must never be the next request's answer."""
    asked = trio.Event()

    async def answer_half(head: bytes, stream: trio.SocketStream) -> None:
        await stream.send_all(OK[:-1])
        asked.set()

    async with serve(answer_half) as server, open_client(server.url) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.get, "/")
            await asked.wait()
            nursery.cancel_scope.cancel()
        assert stack_of(client).idle == 0
        server.answer = answer_ok
        assert (await client.get("/")).json() == {}
        assert server.connections == 2


async def test_churn_with_cancel_scopes_loses_no_connection() -> None:
    """Twenty tasks whose calls are cancelled at any point, then all turns are there, and work.

    The same with httpx's own pool of ten connections leaves it unusable for good.
    """
    rng = random.Random(7)  # noqa: S311 - when to cancel, no secret
    turns = Turns(most=10)

    async def answer_slowly(head: bytes, stream: trio.SocketStream) -> None:
        await trio.sleep(rng.random() * 0.004)
        await stream.send_all(OK)

    async def churn(client: httpx.AsyncClient) -> None:
        for _ in range(60):
            with trio.move_on_after(rng.random() * 0.008):
                async with turns:
                    await client.get("/")

    async with serve(answer_slowly) as server, open_client(server.url) as client:
        with trio.fail_after(120):
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(churn, client)
            assert turns.under_way == 0
            assert stack_of(client).idle <= 10
            for _ in range(30):
                assert (await client.get("/")).status_code == 200


async def test_a_cancellation_in_the_moment_of_connecting_loses_nothing() -> None:
    """The one that arrives just as the connection comes about; httpcore's pool keeps it for ever."""
    opened: list[httpx.AsyncBaseTransport] = []
    closed: list[httpx.AsyncBaseTransport] = []

    class Connecting(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            opened.append(self)
            scope.cancel()
            await trio.lowlevel.checkpoint()
            raise AssertionError

        async def aclose(self) -> None:
            await trio.lowlevel.checkpoint()
            closed.append(self)

    stack = ConnectionStack(Connecting)
    for _ in range(100):
        with trio.CancelScope() as scope:
            await stack.handle_async_request(httpx.Request("GET", "http://webbuddy/"))
    assert stack.idle == 0
    assert closed == opened
    assert len(opened) == 100


async def test_a_connection_that_will_not_close_holds_nobody_up(autojump_clock: object) -> None:
    """Closing has a deadline."""

    class Stuck(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            raise httpx.ReadError("broken")

        async def aclose(self) -> None:
            await trio.sleep_forever()

    stack = ConnectionStack(Stuck)
    with trio.fail_after(60), pytest.raises(httpx.ReadError, match="broken"):
        await stack.handle_async_request(httpx.Request("GET", "http://webbuddy/"))


async def test_closing_the_client_closes_its_connections() -> None:
    """Idle ones at once, and one whose answer is being read with its answer."""
    async with serve(answer_ok) as server:
        async with open_client(server.url) as client:
            async with client.stream("GET", "/") as response:
                await client.get("/")
                await stack_of(client).aclose()
                await response.aread()
            assert stack_of(client).idle == 0
        await server.until_open(0)


async def test_an_answer_without_an_end_is_given_up() -> None:
    """A broken proxy can't fill the memory: the answer is cut off, its connection closed."""
    stack = ConnectionStack(httpx.AsyncHTTPTransport, longest_answer=100_000)

    async def answer_for_ever(head: bytes, stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await stream.send_all(b"2710\r\n%s\r\n" % (b"x" * 10_000))

    async with serve(answer_for_ever) as server, open_client(server.url, transport=stack) as client:
        with trio.fail_after(60), pytest.raises(httpx.ReadError, match="longer than 100000 bytes"):
            await client.get("/")
        assert stack_of(client).idle == 0
        server.answer = answer_ok
        assert (await client.get("/")).json() == {}


async def test_a_connection_is_given_back_once() -> None:
    """However often its answer is closed, it waits for one request, not for two."""
    stack = ConnectionStack(lambda: httpx.MockTransport(lambda request: httpx.Response(200)))
    response = await stack.handle_async_request(httpx.Request("GET", "http://webbuddy/"))
    assert isinstance(response.stream, httpx.AsyncByteStream)
    assert b"".join([chunk async for chunk in response.stream]) == b""
    assert stack.idle == 0
    await response.stream.aclose()
    await response.stream.aclose()
    assert stack.idle == 1


async def test_an_answer_that_breaks_off_leaves_no_connection() -> None:
    """The error comes through as it is."""

    class Broken(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b"{"
            raise httpx.ReadError("reset by peer")

    stack = ConnectionStack(lambda: httpx.MockTransport(lambda request: httpx.Response(200, stream=Broken())))
    async with httpx.AsyncClient(transport=stack) as client:
        with pytest.raises(httpx.ReadError, match="reset by peer"):
            await client.get("http://webbuddy/")
    assert stack.idle == 0


async def test_a_checkout_that_was_not_installed_can_call_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a version, the user agent goes without."""

    def unknown(name: str) -> str:
        raise PackageNotFoundError

    monkeypatch.setattr(transport_module, "version", unknown)
    async with open_client("http://webbuddy") as client:
        assert client.headers["User-Agent"] == "trio-worker"


async def test_a_broken_answer_is_said_as_such() -> None:
    """An answer cut off in its middle is not mistaken for one that is too long."""

    async def answer_half(head: bytes, stream: trio.SocketStream) -> None:
        await stream.send_all(OK[:-1])
        await stream.aclose()

    async with serve(answer_half) as server, open_client(server.url) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/")


# --- Proxies -------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
async def test_a_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """The request goes to the proxy, with the whole URL in its first line."""
    if variable == "HTTP_PROXY":
        monkeypatch.delenv("REQUEST_METHOD", raising=False)  # of a CGI script, where it is not heeded
    async with serve(answer_ok) as server:
        monkeypatch.setenv(variable, server.url.removeprefix("http://"))
        async with open_client("http://webbuddy.invalid") as client:
            assert (await client.get("api/logs/")).status_code == 200
        assert server.heads[0].startswith(b"GET http://webbuddy.invalid/api/logs/ ")


@pytest.mark.parametrize("exceptions", ["127.0.0.1", "*", "example.org,127.0.0.1"])
async def test_no_proxy_is_heeded(monkeypatch: pytest.MonkeyPatch, exceptions: str) -> None:
    """Hosts named in NO_PROXY are reached without the proxy."""
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.invalid:1")
    monkeypatch.setenv("NO_PROXY", exceptions)
    async with serve(answer_ok) as server, open_client(server.url) as client:
        assert (await client.get("/")).status_code == 200


async def test_https_is_verified() -> None:
    """A server that can't prove who it is gets nothing; here it does not even speak TLS."""
    async with serve(answer_ok) as server:
        async with open_client(server.url.replace("http", "https")) as client:
            with pytest.raises(httpx.TransportError):
                await client.get("/")
        assert server.heads == []
