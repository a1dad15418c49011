"""What the benchmarks' WebBuddy can be told."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from benchmarks.pushes import Pusher

if TYPE_CHECKING:
    from benchmarks.server import Server

__all__ = ["Control"]


class Control:
    """What the server can be told: a method for each command.

    Args:
        server: The server.
        pusher: Sends its pushes.
    """

    def __init__(self, server: Server, pusher: Pusher) -> None:
        self._server = server
        self._pusher = pusher

    async def obey(self, line: bytes) -> bytes:
        """Carry out one command, and give the line that answers it."""
        command = json.loads(line)
        do: Callable[..., object] = getattr(self, command.pop("do"))
        answer = do(**command)
        if asyncio.iscoroutine(answer):
            answer = await answer
        return json.dumps(answer).encode() + b"\n"

    def create(self, number: int, text: str) -> None:
        """Create queries; nobody is told."""
        for _ in range(number):
            self._server.store.create(json.dumps(text, ensure_ascii=False).encode())

    def endless(self, text: str) -> None:
        """From now on, no claim finds nothing."""
        self._server.store.endless = json.dumps(text, ensure_ascii=False).encode()

    def delay(self, seconds: float) -> None:
        """Let each answer wait."""
        self._server.delay = seconds

    def push(self, url: str, texts: list[str], at_once: int) -> None:
        """Begin to create a query for each text, and to push it; so many pushes at a time."""
        self._pusher.begin(url, texts, at_once)

    def push_to_idle(self, url: str, number: int, text: str, pause: float) -> None:
        """Begin to create and push queries, the next one ``pause`` seconds after the last has ended."""
        self._pusher.begin_one_by_one(url, number, text, pause)

    def counts(self) -> dict[str, object]:
        """Say what has happened so far."""
        server = self._server
        return {
            "now": time.monotonic(),
            "calls": dict(server.calls),
            "queued": server.store.statuses["queued"],
            "in_progress": server.store.statuses["in_progress"],
            "ended": server.store.statuses["done"] + server.store.statuses["failed"],
            "claims": server.store.claims,
            "connections": len(server.connections),
            "delayed": server.delayed,
            "pushes": dict(self._pusher.counts),
            "pushing": self._pusher.is_busy,
        }

    def queries(self, after: int) -> list[dict[str, object]]:
        """Show the queries with greater numbers: times, answers and the number of log entries."""
        return [
            {
                "created": query.created,
                "claimed": query.claimed,
                "ended": query.ended,
                "pushed": query.pushed,
                "push_seconds": query.push_seconds,
                "status": query.status.decode(),
                "answer": json.loads(query.answer),
                "entries": len(query.entries),
            }
            for number, query in self._server.store.queries.items()
            if number > after
        ]

    def down(self) -> None:
        """Go down."""
        self._server.down()

    async def up(self) -> float:
        """Come back; says when."""
        await self._server.up()
        return time.monotonic()
