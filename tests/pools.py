"""What the tests of the pool share: a desk that writes down, and looks into /proc."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import trio

from trio_worker.context import Context
from trio_worker.handlers.pool import Pool, open_pool
from trio_worker.project import Project
from trio_worker.query import Query

TOO_LONG = 30.0  # seconds; only a broken test waits as long


@attrs.define(eq=False)
class NoteBook:
    """A desk that writes everything down; see `trio_worker.context.Desk`."""

    lines: list[str] = attrs.field(factory=list)
    saves: list[str] = attrs.field(factory=list)
    at: datetime = datetime(2030, 1, 1, tzinfo=UTC)
    answer: Callable[[], Project | None] = lambda: None
    stall: float = 0.0  # seconds for which the next line blocks the event loop
    held: trio.Event = attrs.field(factory=trio.Event)

    def __attrs_post_init__(self) -> None:
        self.held.set()

    def hold(self) -> None:
        """Let who asks for the project wait until `held` is set."""
        self.held = trio.Event()

    def log(self, text: str) -> None:
        self.lines.append(text)
        time.sleep(self.stall)
        self.stall = 0.0

    def deadline(self) -> datetime:
        return self.at

    def extend(self, seconds: float) -> datetime:
        self.at += timedelta(seconds=seconds)
        return self.at

    def save(self, data: str) -> None:
        self.saves.append(data)

    async def project(self) -> Project | None:
        await self.held.wait()
        return self.answer()


@attrs.define(eq=False)
class Agent:
    """A pool whose handler a test has written."""

    pool: Pool
    book: NoteBook = attrs.field(factory=NoteBook)

    async def ask(self, text: str = "", *, attempt: int = 1, saved: str | None = None) -> Any:
        """Call the handler, once."""
        query = Query(id=7, project=3, query_text=text)
        with trio.fail_after(TOO_LONG):
            return await self.pool(query, Context(self.book, attempt=attempt, saved=saved))

    async def until_logged(self, count: int = 1) -> list[str]:
        """Wait until a handler has written so many lines."""
        await until(lambda: len(self.book.lines) >= count)
        return self.book.lines


@asynccontextmanager
async def open_agent(directory: Path, code: str, *, most: int = 1, **options: Any) -> AsyncIterator[Agent]:
    """Write a handler down and open a pool for it; see to it that none of its processes is left."""
    (directory / "agent.py").write_text(code, encoding="utf-8")
    others, seen = children(), set[int]()  # of other tests: multiprocessing's resource tracker stays
    try:
        async with open_pool("agent:handle", directory=directory, most=most, **options) as pool:
            yield Agent(pool)
            seen = children() - others
    finally:
        assert not pool_processes(), "processes are left"
    assert not children() & seen


def processes() -> list[tuple[int, int, int, str]]:
    """List all processes: number, parent, group, state."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                text = (entry / "stat").read_text(errors="replace")
            except OSError:
                continue  # gone meanwhile
            state, parent, group = text.rpartition(")")[2].split()[:3]
            found.append((int(entry.name), int(parent), int(group), state))
    return found


def children() -> set[int]:
    """List all children of this process."""
    return {pid for pid, parent, _, _ in processes() if parent == os.getpid()}


def pool_processes(parent: int | None = None) -> list[int]:
    """List the processes of the pools that belong to a worker (this one), the dead that nobody reaped too."""
    return [pid for pid, of, group, _ in processes() if of == (parent or os.getpid()) and pid == group]


def group(number: int) -> list[int]:
    """List what lives of a group."""
    return [pid for pid, _, of, state in processes() if of == number and state not in "ZX"]


async def until(condition: Callable[[], object]) -> None:
    """Wait for something that only a look shows."""
    with trio.fail_after(TOO_LONG):
        while not condition():  # noqa: ASYNC110 - /proc tells nobody
            await trio.sleep(0.005)
