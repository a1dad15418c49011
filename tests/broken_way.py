"""The way from workers to a WebBuddy, on which connections break: before and after a request got through."""

from __future__ import annotations

import json
import re
import socket
import struct
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from random import Random
from typing import Any, Literal

import attrs
import trio

__all__ = ["BrokenWay", "Call", "Kind", "Passage", "break_the_way"]

Kind = Literal["claim", "log", "report", "look", "other"]
Fate = Literal["fine", "before", "after", "half"]

_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_RESET = struct.pack("ii", 1, 0)


@attrs.frozen
class Call:
    """One request of a worker.

    Attributes:
        method: Its method.
        path: Its path, with its parameters.
        body: Its body; empty where there is none.
    """

    method: str
    path: str
    body: Mapping[str, Any]

    @classmethod
    def read(cls, request: bytes) -> Call:
        """Read a whole request."""
        head, _, body = request.partition(b"\r\n\r\n")
        method, path, _ = head.split(b"\r\n")[0].decode().split(" ")
        return cls(method, path, json.loads(body) if body else {})

    @property
    def kind(self) -> Kind:
        """What it is about."""
        if self.path.endswith("/claim_next/"):
            return "claim"
        if self.path.endswith("/api/logs/"):
            return "log"
        if self.method == "PATCH":
            return "report"
        return "look" if re.search(r"/queries/[0-9]+/$", self.path) else "other"

    @property
    def query(self) -> int:
        """The number of the query that a log entry, a report or a look is about."""
        return int(self.body["query"] if self.kind == "log" else self.path.rstrip("/").rpartition("/")[2])


@attrs.frozen
class Passage:
    """A call that WebBuddy has answered.

    Attributes:
        call: The call.
        status: Of the answer.
        cut: Whether the worker did not get the whole answer.
        handed_out: The number of the query that a claim was answered with.
    """

    call: Call
    status: int
    cut: bool
    handed_out: int | None = None

    @property
    def is_cut_entry(self) -> bool:
        """Whether WebBuddy has a log entry of which the worker does not know that."""
        return self.cut and self.call.kind == "log"


Watcher = Callable[[Call, int | None], None]


@attrs.define(eq=False)
class BrokenWay:
    """Carries requests to WebBuddy one by one, and breaks some connections.

    Attributes:
        server: WebBuddy's own URL.
        rate: The share of requests that are cut: half of these before they get through, and half when
            WebBuddy has carried them out.
        random: Decides which.
        watch: Told of each request before it is passed on (with None), and of each answer before it is (with
            its status). Synchronous: what it does comes before the rest.
        url: Where workers find WebBuddy.
        passages: All calls that were answered, in the order of the answers.
        cut_before: How many requests did not get through.
    """

    server: str
    rate: float
    random: Random
    watch: Watcher = lambda call, status: None
    url: str = ""
    passages: list[Passage] = attrs.field(factory=list)
    cut_before: int = 0

    @property
    def cut_after(self) -> int:
        """How many answers did not arrive, also because their worker had died, or did not wait for them."""
        return sum(passage.cut for passage in self.passages)

    async def carry(self, worker: trio.SocketStream) -> None:
        """Carry the requests of one connection, until either side ends it or it breaks."""
        host, _, port = self.server.removeprefix("http://").partition(":")
        try:
            async with await trio.open_tcp_stream(host, int(port)) as server:
                while (request := await _message(worker)) is not None:
                    if not await self._pass(request, worker, server):
                        break
        except (trio.BrokenResourceError, OSError):
            pass  # that is what this is for

    async def _pass(self, request: bytes, worker: trio.SocketStream, server: trio.SocketStream) -> bool:
        call, fate = Call.read(request), self._fate()
        self.watch(call, None)
        if fate == "before":
            self.cut_before += 1
            self._break(worker)
            return False
        await server.send_all(request)
        answer = await _message(server)
        if answer is None:
            return False
        status = int(answer.split(b" ", 2)[1])
        self.watch(call, status)
        arrived = await self._answer(worker, answer, fate)
        handed_out = None
        if call.kind == "claim" and status == 200:
            handed_out = json.loads(answer.partition(b"\r\n\r\n")[2])["id"]
        self.passages.append(Passage(call, status, not arrived, handed_out))
        return arrived

    async def _answer(self, worker: trio.SocketStream, answer: bytes, fate: Fate) -> bool:
        try:
            if fate == "fine":
                gone = worker.socket.is_readable()  # it has died, or has given up waiting
                await worker.send_all(answer)
                return not gone
            if fate == "half":
                await worker.send_all(answer[: self.random.randrange(1, len(answer))])
        except trio.BrokenResourceError:
            return False
        self._break(worker)
        return False

    def _fate(self) -> Fate:
        drawn = self.random.random() / self.rate if self.rate else 1.0
        if drawn >= 1:
            return "fine"
        return "before" if drawn < 1 / 2 else "after" if drawn < 3 / 4 else "half"

    def _break(self, worker: trio.SocketStream) -> None:
        """Let the coming end of the connection be an orderly one, or a reset."""
        if self.random.random() < 1 / 2:
            worker.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


async def _message(stream: trio.SocketStream) -> bytes | None:
    """Read one request or answer; None at the end. Nobody sends a second one before the first is through."""
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = await stream.receive_some()
        if not chunk:
            return None
        data += chunk
    head, end, body = data.partition(b"\r\n\r\n")
    found = _LENGTH.search(head)
    missing = int(found[1]) - len(body) if found else 0
    while missing > 0:
        chunk = await stream.receive_some()
        if not chunk:
            return None
        body += chunk
        missing -= len(chunk)
    return head + end + body


@asynccontextmanager
async def break_the_way(server: str, *, rate: float, random: Random) -> AsyncIterator[BrokenWay]:
    """Listen for workers on any free port.

    Args:
        server: WebBuddy's own URL.
        rate: As in `BrokenWay`.
        random: As in `BrokenWay`.
    """
    way = BrokenWay(server, rate, random)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    way.url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, way.carry, [listener])
        yield way
        nursery.cancel_scope.cancel()
