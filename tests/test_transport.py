"""The stack of connections to WebBuddy: none is ever lost, and none serves two requests."""

from __future__ import annotations

import math
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import httpx
import pytest
import trio
import trio.lowlevel

from trio_worker import transport as transport_module
from trio_worker.client import Client, open_client
from trio_worker.connection import NotSentError
from trio_worker.transport import ConnectionStack, open_stack
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


async def get(client: Client, path: str = "") -> httpx.Response:
    return await client.send(client.build("GET", path))


def stack_of(client: Client) -> ConnectionStack:
    stack = client._transport
    assert isinstance(stack, ConnectionStack)
    return stack


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


class Connections:
    """Makes connections, each of which does the same, and remembers them."""

    def __init__(self, act: Callable[[], Awaitable[None]], *, usable_for: float = math.inf) -> None:
        self.act = act
        self.usable_for = usable_for
        self.silent = True
        self.opened: list[Connection] = []
        self.closed: list[Connection] = []

    async def open(self) -> Connection:
        await trio.lowlevel.checkpoint()
        self.opened.append(Connection(self))
        return self.opened[-1]


class Connection:
    def __init__(self, connections: Connections) -> None:
        self.of = connections
        self.usable_for = 0.0
        self.served = 0

    async def exchange(self, request: httpx.Request, *, longest: int) -> httpx.Response:
        self.usable_for = 0.0
        await self.of.act()
        self.served += 1
        self.usable_for = self.of.usable_for
        return httpx.Response(200, json={}, request=request)

    def is_silent(self) -> bool:
        return self.of.silent

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
        self.of.closed.append(self)


async def ask(stack: ConnectionStack) -> httpx.Response:
    return await stack.handle_async_request(httpx.Request("GET", "http://webbuddy/"))


# --- Connections ---------------------------------------------------------------------------------


async def test_a_connection_is_used_again() -> None:
    """One call after another needs one connection."""
    async with serve(answer_ok) as server, open_client(server.url) as client:
        for _ in range(10):
            await get(client)
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
                    nursery.start_soon(get, client)
        assert server.connections == stack_of(client).idle == 20


async def test_a_connection_that_the_server_closed_is_replaced() -> None:
    """`Connection: close` costs a new connection, not an error."""

    async def answer_and_close(head: bytes, stream: trio.SocketStream) -> None:
        await stream.send_all(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        await stream.aclose()

    async with serve(answer_and_close) as server, open_client(server.url) as client:
        for _ in range(3):
            assert (await get(client)).status_code == 200
        assert server.connections == 3


async def test_a_connection_that_was_idle_for_long_is_not_used_again() -> None:
    """After ``keep_alive`` a new one is opened, and the old ones are closed."""
    connections = Connections(trio.lowlevel.checkpoint)
    stack = ConnectionStack(connections.open, keep_alive=0.0)
    for _ in range(3):
        await ask(stack)
    assert len(connections.opened) == 3
    assert connections.closed == connections.opened
    assert stack.idle == 0


async def test_what_the_server_says_of_its_patience_is_heeded(autojump_clock: object) -> None:
    """One that keeps a connection for less than we do is not asked over it later."""
    connections = Connections(trio.lowlevel.checkpoint, usable_for=1.0)
    stack = ConnectionStack(connections.open)
    for pause in (0.5, 0.9, 1.1):
        await ask(stack)
        await trio.sleep(pause)
    assert len(connections.opened) == 1
    await ask(stack)
    assert len(connections.opened) == 2
    assert connections.closed == connections.opened[:1]


async def test_a_connection_that_is_not_silent_is_not_used_again() -> None:
    """The server has hung up, or has said what nobody asked for: that would be taken for an answer."""
    connections = Connections(trio.lowlevel.checkpoint)
    stack = ConnectionStack(connections.open)
    await ask(stack)
    connections.silent = False
    await ask(stack)
    assert len(connections.opened) == 2
    assert connections.closed == connections.opened[:1]


async def test_what_was_surely_not_sent_is_sent_again() -> None:
    """Over the next connection, and at last over a new one; over that it is an error."""
    good: list[bool] = []

    async def act() -> None:
        await trio.lowlevel.checkpoint()
        if not good:
            raise NotSentError("closed")
        good.pop()

    connections = Connections(act)
    stack = ConnectionStack(connections.open)
    good += [True] * 3
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(ask, stack)
    assert stack.idle == 3
    with pytest.raises(NotSentError):
        await ask(stack)
    assert len(connections.opened) == 4
    assert set(connections.closed) == set(connections.opened)
    assert stack.idle == 0


async def test_what_may_have_been_sent_is_not_sent_again() -> None:
    """Two claims would be two queries."""
    tries: list[None] = []

    async def act() -> None:
        await trio.lowlevel.checkpoint()
        tries.append(None)
        if len(tries) == 2:
            raise httpx.RemoteProtocolError("the server hung up without an answer")

    stack = ConnectionStack(Connections(act).open)
    await ask(stack)
    with pytest.raises(httpx.RemoteProtocolError):
        await ask(stack)
    assert len(tries) == 2


async def test_idle_connections_that_nobody_needs_any_more_are_closed(autojump_clock: object) -> None:
    """After a burst, those at the bottom of the stack do not stay for ever."""
    connections = Connections(partial(trio.sleep, 0.1))
    stack = ConnectionStack(connections.open)
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(ask, stack)
    assert stack.idle == 5
    for _ in range(3):  # one call each two seconds needs one of the five
        await trio.sleep(2)
        await ask(stack)
    assert len(connections.opened) == 5
    assert len(connections.closed) == 4
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
            nursery.start_soon(get, client)
            await asked.wait()
            nursery.cancel_scope.cancel()
        assert stack_of(client).idle == 0
        server.answer = answer_ok
        assert (await get(client)).json() == {}
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

    async def churn(client: Client) -> None:
        for _ in range(60):
            with trio.move_on_after(rng.random() * 0.008):
                async with turns:
                    await get(client)

    async with serve(answer_slowly) as server, open_client(server.url) as client:
        with trio.fail_after(120):
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(churn, client)
            assert turns.under_way == 0
            assert stack_of(client).idle <= 10
            for _ in range(30):
                assert (await get(client)).status_code == 200


async def test_a_cancellation_in_the_moment_of_connecting_loses_nothing() -> None:
    """The one that arrives just as the connection comes about; httpcore's pool keeps it for ever."""

    async def act() -> None:
        scope.cancel()
        await trio.lowlevel.checkpoint()

    connections = Connections(act)
    stack = ConnectionStack(connections.open)
    for _ in range(100):
        with trio.CancelScope() as scope:
            await ask(stack)
    assert stack.idle == 0
    assert connections.closed == connections.opened
    assert len(connections.opened) == 100


async def test_a_connection_that_will_not_close_holds_nobody_up(autojump_clock: object) -> None:
    """Closing has a deadline."""

    class Stuck(Connection):
        async def exchange(self, request: httpx.Request, *, longest: int) -> httpx.Response:
            raise httpx.ReadError("broken")

        async def aclose(self) -> None:
            await trio.sleep_forever()

    async def open_stuck() -> Stuck:
        await trio.lowlevel.checkpoint()
        return Stuck(Connections(trio.lowlevel.checkpoint))

    with trio.fail_after(60), pytest.raises(httpx.ReadError, match="broken"):
        await ask(ConnectionStack(open_stuck))


async def test_closing_the_stack_closes_its_connections() -> None:
    """Idle ones at once, and one that is in use with its answer."""
    asked, goes_on = trio.Event(), trio.Event()

    async def act() -> None:
        if len(connections.opened) == 2:
            asked.set()
            await goes_on.wait()

    connections = Connections(act)
    stack = ConnectionStack(connections.open)
    await ask(stack)
    async with trio.open_nursery() as nursery:
        connections.silent = False  # so that the next one needs a connection of its own
        nursery.start_soon(ask, stack)
        await asked.wait()
        await stack.aclose()
        goes_on.set()
    assert stack.idle == 0
    assert connections.closed == connections.opened
    assert len(connections.opened) == 2


# --- Proxies -------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
async def test_a_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """The request goes to the proxy, with the whole URL in its first line."""
    if variable == "HTTP_PROXY":
        monkeypatch.delenv("REQUEST_METHOD", raising=False)  # of a CGI script, where it is not heeded
    async with serve(answer_ok) as server:
        monkeypatch.setenv(variable, server.url.removeprefix("http://"))
        async with open_client("http://webbuddy.invalid") as client:
            assert (await get(client, "api/logs/")).status_code == 200
        assert server.heads[0].startswith(b"GET http://webbuddy.invalid/api/logs/ ")


async def test_by_way_of_a_proxy_the_same_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection is used again, and after a cancellation or an answer without an end it is not."""
    asked = trio.Event()

    async def answer_for_ever(head: bytes, stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            asked.set()
            await stream.send_all(b"2710\r\n%s\r\n" % (b"x" * 10_000))

    with trio.fail_after(60):
        async with serve(answer_ok) as server:
            monkeypatch.setenv("HTTP_PROXY", server.url)
            monkeypatch.delenv("REQUEST_METHOD", raising=False)
            stack = await open_stack(httpx.URL("http://webbuddy.invalid"), longest_answer=100_000)
            async with open_client("http://webbuddy.invalid", transport=stack) as client:
                for _ in range(3):
                    await get(client)
                assert server.connections == 1
                server.answer = answer_for_ever
                with pytest.raises(httpx.ReadError, match="longer than 100000 bytes"):
                    await get(client)
                assert stack.idle == 0
                asked = trio.Event()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(get, client)
                    await asked.wait()
                    nursery.cancel_scope.cancel()
                assert stack.idle == 0
                server.answer = answer_ok
                assert (await get(client)).json() == {}
            await server.until_open(0)


@pytest.mark.parametrize("exceptions", ["127.0.0.1", "*", "example.org,127.0.0.1"])
async def test_no_proxy_is_heeded(monkeypatch: pytest.MonkeyPatch, exceptions: str) -> None:
    """Hosts named in NO_PROXY are reached without the proxy."""
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.invalid:1")
    monkeypatch.setenv("NO_PROXY", exceptions)
    async with serve(answer_ok) as server, open_client(server.url) as client:
        assert (await get(client)).status_code == 200


async def test_https_is_verified() -> None:
    """A server that can't prove who it is gets nothing; here it does not even speak TLS."""
    async with serve(answer_ok) as server:
        async with open_client(server.url.replace("http", "https")) as client:
            with pytest.raises(httpx.TransportError):
                await get(client)
        assert server.heads == []
