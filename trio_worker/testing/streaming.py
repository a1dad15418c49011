"""An ASGI app that streams, in the same program and over real sockets. Its connections can be cut.

Beside `trio_worker.testing.network`, which is the embedded WebBuddy's: `httpx.ASGITransport` gives an answer
when it is whole, and a call of a WebBuddy goes on when its caller has gone, as a thread of Django's does; a
model stops.
"""

from __future__ import annotations

import math
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState

from trio_worker.web import hypercorn_fixes

__all__ = ["App", "CutError", "Message", "Receive", "Send", "StreamingTransport", "serve_app"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class CutError(Exception):
    """Raised by an app: the connection is closed, whatever was sent."""


class StreamingTransport(httpx.AsyncBaseTransport):
    """Carries an httpx client's requests to an app in the same program, and its answers as they come.

    Args:
        app: It.
        nursery: Where it works. A request whose client has gone is cancelled, as over a real connection.
        is_down: Whether connections are refused.
    """

    def __init__(self, app: App, nursery: trio.Nursery, *, is_down: Callable[[], bool]) -> None:
        self._app = app
        self._nursery = nursery
        self._is_down = is_down

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer the request as soon as there is a head.

        Raises:
            httpx.ConnectError: It is down.
            httpx.RemoteProtocolError: The connection was cut.
        """
        await trio.lowlevel.checkpoint()
        if self._is_down():
            raise httpx.ConnectError("All connection attempts failed", request=request)
        body = await request.aread()
        send, receive = trio.open_memory_channel[Message](math.inf)
        scope = trio.CancelScope()
        self._nursery.start_soon(self._run, _scope_of(request), body, send, scope)
        try:
            head = await receive.receive()
        except trio.EndOfChannel:
            raise httpx.RemoteProtocolError(
                "Server disconnected without sending a response.", request=request
            ) from None
        except trio.Cancelled:
            scope.cancel()
            raise
        stream = _Stream(receive, scope, request)
        return httpx.Response(head["status"], headers=head["headers"], stream=stream, request=request)

    async def _run(
        self,
        scope: Message,
        body: bytes,
        channel: trio.MemorySendChannel[Message],
        cancelled: trio.CancelScope,
    ) -> None:
        is_read = False

        async def receive() -> Message:
            nonlocal is_read
            if is_read:
                await trio.sleep_forever()  # who hangs up cancels all of this
            is_read = True
            return {"type": "http.request", "body": body, "more_body": False}

        with channel, cancelled:
            try:
                await self._app(scope, receive, channel.send)
            except CutError:
                pass  # the channel's end without a last message says so


class _Stream(httpx.AsyncByteStream):
    def __init__(
        self, channel: trio.MemoryReceiveChannel[Message], scope: trio.CancelScope, request: httpx.Request
    ) -> None:
        self._channel = channel
        self._scope = scope
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for message in self._channel:
            if message["body"]:
                yield message["body"]
            if not message["more_body"]:
                return
        said = "peer closed connection without sending complete message body (incomplete chunked read)"
        raise httpx.RemoteProtocolError(said, request=self._request)

    async def aclose(self) -> None:
        self._scope.cancel()


def _scope_of(request: httpx.Request) -> Message:
    return {
        "type": "http",
        "method": request.method,
        "path": request.url.path,
        "query_string": request.url.query,
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
    }


@asynccontextmanager
async def serve_app(app: App) -> AsyncIterator[str]:
    """Serve an app by hypercorn, on a free port of this machine.

    Yields:
        Its URL, without a path.
    """
    hypercorn_fixes.install()
    server = _Server(app)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, server.connection, listeners)
        yield f"http://127.0.0.1:{port}"
        nursery.cancel_scope.cancel()


class _Server:
    def __init__(self, app: App) -> None:
        self._app = app
        config = Config()
        config.errorlog = None
        config.keep_alive_timeout = 75
        wrapped = ASGIWrapper(self._answer)  # type: ignore[arg-type]
        self._serve: Callable[[trio.SocketStream], Awaitable[None]] = partial(
            TCPServer, wrapped, config, WorkerContext(None), ConnectionState({})
        )
        self._streams: dict[tuple[str, int], trio.SocketStream] = {}

    async def connection(self, stream: trio.SocketStream) -> None:
        try:
            name = stream.socket.getpeername()[:2]
        except OSError:
            return  # gone already
        self._streams[name] = stream
        try:
            await self._serve(stream)
        finally:
            if self._streams.get(name) is stream:  # the client's port may be another connection's by now
                del self._streams[name]

    async def _answer(self, scope: Message, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except CutError:
            # The client is to see a connection that ends, not hypercorn's idea of an app that fails.
            stream = self._streams[tuple(scope["client"])]
            stream.socket.shutdown(socket.SHUT_RDWR)
            await trio.aclose_forcefully(stream)
