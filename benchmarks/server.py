"""A WebBuddy that costs less than what it measures: ``python -m benchmarks.server``.

It gives a worker's calls the answers that a real one gives (tests/test_benchmark_server.py holds it against
the embedded one), and checks nothing: no token, no field. uvloop, llhttp and ready-made answers make that
25 to 35 µs a call.

Whoever starts it reads its URL from the first line of its output. Then each line of its input is a command
in JSON (`benchmarks.control`), answered with one line of JSON. It ends with its input.
"""

# Commands come over its input, not over HTTP: they need no port, can't be mistaken for calls, reach it while
# it is "down", and it can't outlive who started it.

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from collections import Counter
from email.utils import formatdate
from typing import cast
from urllib.parse import parse_qs

import httptools
import uvloop

from benchmarks.control import Control
from benchmarks.pushes import Pusher
from benchmarks.stored import EMPTY, Store

__all__ = ["Server"]

BACKLOG = 4096  # connections that wait to be accepted

NOT_FOUND = b'{"detail":"No Query matches the given query."}'
ACCOUNT = {"id": 1, "username": "worker", "project": None}

# What Django, its middleware and Django REST framework send, so that it costs as much to read.
HEAD = (
    b"HTTP/1.1 %s\r\n"
    b"Date: %s\r\n"
    b"Server: gunicorn\r\n"
    b"Content-Type: application/json\r\n"
    b"Vary: Accept, Accept-Language\r\n"
    b"Allow: GET, POST, PATCH, HEAD, OPTIONS\r\n"
    b"X-Frame-Options: DENY\r\n"
    b"Content-Language: en\r\n"
    b"X-Content-Type-Options: nosniff\r\n"
    b"Referrer-Policy: same-origin\r\n"
    b"Cross-Origin-Opener-Policy: same-origin\r\n"
    b"Content-Length: %s\r\n\r\n"
)
REASONS = {200: b"200 OK", 201: b"201 Created", 404: b"404 Not Found", 405: b"405 Method Not Allowed"}


class Server:
    """Answers calls, and counts them by kind.

    Attributes:
        store: Its queries.
        url: Where it listens.
        calls: How many calls there were of each kind; claims that found nothing are ``claim_empty``.
        delay: Seconds that each answer waits.
        delayed: How many answers have waited, and for how many seconds altogether.
        connections: Those that are open.
    """

    def __init__(self) -> None:
        self.store = Store()
        self.url = ""
        self.calls: Counter[str] = Counter()
        self.delay = 0.0
        self.delayed = [0, 0.0]
        self.connections: set[Connection] = set()
        self._heads: dict[int, bytes] = {}
        self._heads_until = 0.0
        self._listening: asyncio.Server | None = None
        self._port = 0

    async def up(self) -> None:
        """Listen: on any free port, then always on the same."""
        loop = asyncio.get_running_loop()
        self._listening = await loop.create_server(
            lambda: Connection(self), "127.0.0.1", self._port, backlog=BACKLOG
        )
        self._port = self._listening.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"

    def down(self) -> None:
        """Refuse connections, and end those that there are."""
        if self._listening is not None:
            self._listening.close()
        for connection in list(self.connections):
            connection.abort()

    def answer(self, method: bytes, url: bytes, body: bytes) -> bytes:
        """Carry out a call, and give the whole answer."""
        kind, status, content = self._carry_out(method, url, body)
        self.calls[kind] += 1
        return self._head(status) % len(content) + content

    def _carry_out(self, method: bytes, url: bytes, body: bytes) -> tuple[str, int, bytes]:
        if url == b"/api/queries/claim_next/":
            found = self.store.claim()
            return ("claim_empty", 404, EMPTY) if found is None else ("claim", 200, found)
        if url == b"/api/logs/":
            return "log", *_or_not_found(self.store.add_entry(body), 201)
        if method == b"PATCH":
            return "report", *_or_not_found(self.store.change(int(url.split(b"/")[3]), body), 200)
        return self._rarely(method, url)

    def _rarely(self, method: bytes, url: bytes) -> tuple[str, int, bytes]:
        """What is called at the start, and when something is wrong."""
        path, _, parameters = url.decode().partition("?")
        match (method.decode(), *path.strip("/").split("/")):
            case ("POST", "api", "login"):
                answer = self.store.tokens | {"user": ACCOUNT}
                return "login", 200, json.dumps(answer).encode()
            case ("POST", "api", "token", "refresh"):
                return "refresh", 200, json.dumps({"access": self.store.tokens["access"]}).encode()
            case ("GET", "api", "users", "me"):
                return "me", 200, json.dumps(ACCOUNT).encode()
            case ("GET", "api", "queries", "by_status"):
                wanted = {name: values[-1] for name, values in parse_qs(parameters).items()}
                list_url = f"{self.url}{path}".encode()
                page = self.store.page(wanted.get("status", ""), int(wanted.get("page", "1")), list_url)
                return "by_status", 200, page
            case ("GET", "api", "queries", number, "logs"):
                entries = self.store.queries[int(number)].entries
                shown = b'{"count":%d,"next":null,"previous":null,"results":[%s]}'
                return "query_logs", 200, shown % (len(entries), b",".join(entries))
            case ("GET", "api", "queries", number):
                query = self.store.queries.get(int(number))
                return "read", *_or_not_found(None if query is None else query.shown(), 200)
        return "page", 405, b""

    def _head(self, status: int) -> bytes:
        now = time.monotonic()
        if now >= self._heads_until:
            date = formatdate(usegmt=True).encode()
            self._heads = {number: HEAD % (reason, date, b"%d") for number, reason in REASONS.items()}
            self._heads_until = now + 1 - time.time() % 1
        return self._heads[status]


def _or_not_found(content: bytes | None, status: int) -> tuple[int, bytes]:
    return (404, NOT_FOUND) if content is None else (status, content)


class Connection(asyncio.Protocol):
    """One connection; the parser calls its ``on_…``."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are, but for the class
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def abort(self) -> None:
        """End it, with whatever is under way on it."""
        assert self._transport is not None
        self._transport.abort()

    def on_message_begin(self) -> None:
        self._body = b""

    def on_url(self, url: bytes) -> None:
        self._url = url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        server = self._server
        answer = server.answer(self._parser.get_method(), self._url, self._body)
        keep = self._parser.should_keep_alive()
        if server.delay:
            loop = asyncio.get_running_loop()
            loop.call_later(server.delay, self._send_late, answer, keep, time.monotonic())
        else:
            self._send(answer, keep)

    def _send_late(self, answer: bytes, keep: bool, since: float) -> None:
        self._server.delayed[0] += 1
        self._server.delayed[1] += time.monotonic() - since
        self._send(answer, keep)

    def _send(self, answer: bytes, keep: bool) -> None:
        assert self._transport is not None
        if self._transport.is_closing():
            return  # whoever asked is gone
        self._transport.write(answer)
        if not keep:
            self._transport.close()


async def serve() -> None:
    """Serve until the input ends."""
    server = Server()
    await server.up()
    pusher = Pusher(server.store, server.url)
    control = Control(server, pusher)
    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader(limit=64 * 1024 * 1024)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    print(server.url, flush=True)
    while line := await commands.readline():
        sys.stdout.buffer.write(await control.obey(line))
        sys.stdout.buffer.flush()
    pusher.end()


def main() -> None:
    """Serve, with as many open files as may be."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    uvloop.run(serve())


if __name__ == "__main__":
    main()
