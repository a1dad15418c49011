"""A worker, as far as WebBuddy's pushes see one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import h11
import trio

__all__ = ["Push", "PushReceiver", "receive_pushes"]


@attrs.frozen
class Push:
    """One request that arrived.

    Attributes:
        connection: The number of the connection that it came on.
        method: Its method.
        target: Its path, exactly as sent.
        headers: By lower-case name.
        body: Its body, decoded from JSON.
    """

    connection: int
    method: str
    target: str
    headers: dict[str, str]
    body: Any


@attrs.define(eq=False)
class PushReceiver:
    """Where pushes arrive.

    Attributes:
        url: Its address.
        status: What it answers.
    """

    url: str = ""
    status: int = 200
    _connections: int = 0
    _arrived: tuple[trio.MemorySendChannel[Push], trio.MemoryReceiveChannel[Push]] = attrs.field(
        factory=lambda: trio.open_memory_channel[Push](100)
    )

    async def next(self) -> Push:
        """Wait for the next push, a minute at most."""
        with trio.fail_after(60):
            return await self._arrived[1].receive()

    async def answer(self, stream: trio.SocketStream) -> None:
        """Answer the requests of one connection."""
        self._connections += 1
        number = self._connections
        connection = h11.Connection(h11.SERVER)
        while (push := await _read(stream, connection, number)) is not None:
            self._arrived[0].send_nowait(push)
            head = h11.Response(status_code=self.status, headers=[("Content-Length", "0")])
            await stream.send_all(connection.send(head) or b"")
            connection.send(h11.EndOfMessage())
            connection.start_next_cycle()


async def _read(stream: trio.SocketStream, connection: h11.Connection, number: int) -> Push | None:
    request, body = None, b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await stream.receive_some())
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif request is None:
            return None  # the connection was closed
        else:
            headers = {name.decode(): value.decode() for name, value in request.headers}
            return Push(number, request.method.decode(), request.target.decode(), headers, json.loads(body))


@asynccontextmanager
async def receive_pushes() -> AsyncIterator[PushReceiver]:
    """Listen for pushes on any free port."""
    receiver = PushReceiver()
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    receiver.url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, receiver.answer, [listener])
        yield receiver
        nursery.cancel_scope.cancel()
