"""The ways to the embedded WebBuddy: in-process, and over real sockets.

Both go through `Door`, which counts the calls and lets go wrong what the knobs say.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
import httpx
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from werkzeug.exceptions import HTTPException

from trio_worker.testing.api import CALL, make_app
from trio_worker.testing.faults import Answer, Cut, Fault
from trio_worker.testing.state import Call
from trio_worker.web import hypercorn_fixes

if TYPE_CHECKING:
    from trio_worker.testing.webbuddy import WebBuddy

__all__ = ["ConnectionCutError", "Door", "InProcessTransport", "serve_webbuddy"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class ConnectionCutError(Exception):
    """The caller gets no answer: its connection is closed."""


@attrs.define(eq=False)
class Exchange:
    """One request and what becomes of it.

    Attributes:
        scope: The request, as ASGI has it.
        body: Its body; None when the app has received it.
        messages: The answer, as ASGI has it; empty when the connection is cut.
        done: Set when there is an answer, or never will be.
    """

    scope: Message
    body: bytes | None
    messages: list[Message] = attrs.field(factory=list)
    done: trio.Event = attrs.field(factory=trio.Event)

    @property
    def status(self) -> int | None:
        """The answer's HTTP status."""
        return self.messages[0]["status"] if self.messages else None

    async def receive(self) -> Message:
        """Give the app the body; then nothing: the caller never hangs up, as far as it can tell."""
        body, self.body = self.body, None
        if body is None:
            await trio.sleep_forever()
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: Message) -> None:
        """Take a part of the app's answer."""
        self.messages.append(message)

    def answer(self, answer: Answer) -> None:
        """Put this in the place of the answer."""
        headers = [(name.lower().encode(), value.encode()) for name, value in answer.headers.items()]
        headers.append((b"content-length", b"%d" % len(answer.body)))
        self.messages = [
            {"type": "http.response.start", "status": answer.status, "headers": headers},
            {"type": "http.response.body", "body": answer.body, "more_body": False},
        ]


class Door:
    """An ASGI app around the API's: every call passes here.

    A call runs in the WebBuddy's own nursery, not in its caller's task. So it goes on when the
    caller has hung up, as a thread of Django's does, and a claim whose answer nobody hears is a
    claim nevertheless. (Quart by itself would cancel it.)
    """

    def __init__(self, webbuddy: WebBuddy) -> None:
        self.webbuddy = webbuddy
        self.app = make_app(webbuddy)
        self.routes = self.app.url_map.bind("")

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request.

        Raises:
            ConnectionCutError: The connection is to be closed without an answer.
            RuntimeError: The WebBuddy does not run.
        """
        if scope["type"] != "http":  # a websocket; nobody serves those here
            raise ConnectionCutError
        exchange = Exchange(scope, await _read_all(receive))
        self.webbuddy.require_nursery().start_soon(self._serve, exchange)
        await exchange.done.wait()
        if not exchange.messages:
            raise ConnectionCutError
        for message in exchange.messages:
            await send(message)

    async def _serve(self, exchange: Exchange) -> None:
        webbuddy = self.webbuddy
        call = Call(self._endpoint(exchange.scope), webbuddy.now())
        webbuddy.requests.append(call)
        webbuddy.under_way += 1
        webbuddy.most_under_way = max(webbuddy.most_under_way, webbuddy.under_way)
        webbuddy.announce()
        exchange.scope = {**exchange.scope, CALL: call}
        await self._travel(exchange, call.endpoint)
        call.ended, call.status = webbuddy.now(), exchange.status
        webbuddy.calls[call.endpoint, call.status] += 1
        webbuddy.under_way -= 1
        webbuddy.announce()
        exchange.done.set()

    async def _travel(self, exchange: Exchange, endpoint: str) -> None:
        """There, do the work, and back, with what may happen on the way."""
        fault = self._take_fault(endpoint)
        await self._delay()
        if fault is None or fault.after_commit:
            await self.app(exchange.scope, exchange.receive, exchange.send)  # type: ignore[arg-type]
        if fault is not None:
            await _befall(exchange, fault)
        await self._delay()

    async def _delay(self) -> None:
        await trio.sleep(self.webbuddy.slow / 2)
        await self.webbuddy.until(lambda: not self.webbuddy.hang)

    def _endpoint(self, scope: Message) -> str:
        try:
            return str(self.routes.match(scope["path"], scope["method"])[0])
        except HTTPException:
            return "page"

    def _take_fault(self, endpoint: str) -> Fault | None:
        for fault in self.webbuddy.faults:
            if fault.endpoint in (None, endpoint):
                fault.calls -= 1
                if fault.calls <= 0:
                    self.webbuddy.faults.remove(fault)
                return fault
        return None


async def _befall(exchange: Exchange, fault: Fault) -> None:
    if isinstance(fault.what, Answer):
        exchange.answer(fault.what)
    elif isinstance(fault.what, Cut):
        exchange.messages.clear()
    else:
        await trio.sleep_forever()


async def _read_all(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


class InProcessTransport(httpx.AsyncBaseTransport):
    """Carries an httpx client's requests to a WebBuddy in the same program."""

    def __init__(self, webbuddy: WebBuddy) -> None:
        self._webbuddy = webbuddy
        self._asgi = httpx.ASGITransport(Door(webbuddy))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer the request, or fail as a network does.

        Raises:
            httpx.ConnectError: It is down.
            httpx.RemoteProtocolError: The connection was cut, or it went down meanwhile.
        """
        if self._webbuddy.down:
            await trio.lowlevel.checkpoint()
            raise httpx.ConnectError("All connection attempts failed", request=request)
        try:
            response = await self._asgi.handle_async_request(request)
        except ConnectionCutError:
            raise _disconnected(request) from None
        if self._webbuddy.down:
            raise _disconnected(request)
        return response


def _disconnected(request: httpx.Request) -> httpx.RemoteProtocolError:
    return httpx.RemoteProtocolError("Server disconnected without sending a response.", request=request)


@asynccontextmanager
async def serve_webbuddy(webbuddy: WebBuddy, bind: str = "127.0.0.1:0") -> AsyncIterator[str]:
    """Serve a WebBuddy on a real socket.

    Args:
        webbuddy: It runs for as long, if it does not yet, and its `url` is set.
        bind: Host and port; port 0 means any free one.

    Yields:
        Its URL.
    """
    hypercorn_fixes.install()
    host, _, port = bind.rpartition(":")
    server = _SocketServer(webbuddy, (host, int(port)))
    async with webbuddy.running(), trio.open_nursery() as nursery:
        webbuddy.url = await nursery.start(server.serve)
        yield webbuddy.url
        nursery.cancel_scope.cancel()


@attrs.define(eq=False)
class _SocketServer:
    """Hypercorn's HTTP on sockets of our own, since hypercorn can't cut a connection."""

    webbuddy: WebBuddy
    address: tuple[str, int]
    door: Door = attrs.field(init=False)
    streams: dict[tuple[str, int], trio.SocketStream] = attrs.field(factory=dict, init=False)
    connect: Callable[[trio.SocketStream], Awaitable[None]] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.door = Door(self.webbuddy)
        config = Config()
        config.include_date_header = False  # it would be the real time, whatever `now` says
        config.errorlog = None
        # As nginx has it. Hypercorn's 5 s are just the age at which httpx gives its own idle
        # connections up, and calls would now and then meet a connection that is being closed.
        config.keep_alive_timeout = 75
        app = ASGIWrapper(self._answer)  # type: ignore[arg-type]
        self.connect = partial(TCPServer, app, config, WorkerContext(None), ConnectionState({}))

    async def serve(self, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
        """Accept connections, except while it is down."""
        while True:
            with self._bound_socket() as listening:
                self.address = listening.getsockname()[:2]
                url = f"http://{self.address[0]}:{self.address[1]}"
                if self.webbuddy.down:
                    task_status.started(url)
                    task_status = trio.TASK_STATUS_IGNORED
                    # Bound but not listening, the port refuses connections and stays ours.
                    await self.webbuddy.until(lambda: not self.webbuddy.down)
                listening.listen(1024)
                task_status.started(url)  # it listens before another process is told where
                task_status = trio.TASK_STATUS_IGNORED
                await self._accept_until_down(listening)

    async def _accept_until_down(self, listening: socket.socket) -> None:
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, self._connection, [listener])
            await self.webbuddy.until(lambda: self.webbuddy.down)
            nursery.cancel_scope.cancel()

    def _bound_socket(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.address[0] else socket.AF_INET
        bound = socket.socket(family)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setblocking(False)
        bound.bind(self.address)
        return bound

    async def _connection(self, stream: trio.SocketStream) -> None:
        webbuddy = self.webbuddy
        try:
            name = stream.socket.getpeername()[:2]
        except OSError:
            return  # gone already
        self.streams[name] = stream
        webbuddy.connections += 1
        webbuddy.open_connections += 1
        webbuddy.most_connections = max(webbuddy.most_connections, webbuddy.open_connections)
        try:
            await self.connect(stream)
        finally:
            webbuddy.open_connections -= 1
            # The client's port may be another connection's by now.
            if self.streams.get(name) is stream:
                del self.streams[name]
            webbuddy.announce()

    async def _answer(self, scope: Message, receive: Receive, send: Send) -> None:
        try:
            await self.door(scope, receive, send)
        except ConnectionCutError:
            # Whatever hypercorn then makes of an app without an answer, it can't send it.
            await trio.aclose_forcefully(self.streams[tuple(scope["client"])])
