"""What a handler may do with its context, and how its own logging carries the query's id."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
import trio
from structlog.typing import EventDict
from trio.testing import MockClock

from trio_worker import Context, Query, event_log
from trio_worker.testing import WebBuddy, open_worker, trio_time


@pytest.fixture
def log_lines() -> Iterator[Any]:
    """The worker's real log, as JSON, of which the lines can be read."""
    stream = io.StringIO()
    root = logging.getLogger()
    before = structlog.get_config(), root.handlers[:], root.level
    event_log.configure("info", "json", stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers[:], root.level = before[1], before[2]
    structlog.configure(**before[0])
    logging.captureWarnings(False)


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no")


class Lines:
    """A desk that takes lines, and nothing else."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, text: str) -> None:
        self.lines.append(text)


# --- ctx.log -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("thing", "line"),
    [
        ("text", "text"),
        (5, "5"),
        (None, "None"),
        (b"bytes", "b'bytes'"),
        (ValueError("why"), "why"),
        ({"a": 1}, "{'a': 1}"),
        (Unprintable(), "<Unprintable that can't be shown: RuntimeError>"),
    ],
)
def test_anything_can_be_logged(thing: object, line: str) -> None:
    """`ctx.log` never fails: what is no text is turned into one, or named."""
    desk = Lines()
    Context(desk).log(thing)
    assert desk.lines == [line]


async def test_odd_lines_reach_webbuddy_cleaned(autojump_clock: MockClock) -> None:
    """NUL and half characters are cleaned; blank lines are left out; nothing fails the query."""

    async def handle(query: Query, ctx: Context) -> str:
        for text in ("nul \0 here", "half \ud83d here", "", "   ", "\0", "two\nlines"):
            ctx.log(text)
            await trio.sleep(1)
        return "ok"

    async with open_worker(handle) as worker:
        query = await worker.ask("odd")
    assert query.status == "done"
    assert query.logs[0].endswith("+0.0s nul  here")
    assert query.logs[1:-1] == ["half \ufffd here", "two\nlines"]


async def test_log_is_synchronous_and_immediate(autojump_clock: MockClock) -> None:
    """It takes no checkpoint, so it also works in cancelled code; here in the last second of a stop."""

    async def handle(query: Query, ctx: Context) -> str:
        try:
            await trio.sleep_forever()
        finally:
            ctx.log("cleaned up")

    async with open_worker(handle, shutdown_grace=9) as worker:
        query = worker.webbuddy.add_query("stopped")
        await worker.webbuddy.until(lambda: query.status == "in_progress")
        await trio.sleep(10)
    assert query.status == "queued"
    assert "cleaned up" in query.logs[-1]


async def test_the_context_of_an_ended_query_is_dead(autojump_clock: MockClock) -> None:
    """Who keeps it and logs later does nothing, not even harm."""
    kept: list[Context] = []

    async def handle(query: Query, ctx: Context) -> str:
        kept.append(ctx)
        return "ok"

    async with open_worker(handle) as worker:
        query = await worker.ask("first")
        kept[0].log("a ghost")
        await trio.sleep(5)
        await worker.ask("second")
    assert not any("ghost" in text for text in query.logs)
    assert len(query.logs) <= 2


# --- The handler's own logging -----------------------------------------------------------------------


async def test_logging_in_a_handler_carries_the_query(autojump_clock: MockClock, log_lines: Any) -> None:
    """Through `logging` and through structlog; two handlers at once do not mix; their children neither."""

    async def child(number: int) -> None:
        await trio.sleep(1)
        logging.getLogger("agent").warning("child of %d", number)

    async def handle(query: Query, ctx: Context) -> str:
        logging.getLogger("agent").info("stdlib %d", query.id)
        await trio.sleep(1)
        structlog.get_logger("agent").info("structlog", own=query.id)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child, query.id)
            nursery.start_soon(child, query.id)
        return "ok"

    webbuddy = WebBuddy(now=trio_time())
    for number in range(3):
        webbuddy.add_query(f"query {number}")
    async with open_worker(handle, webbuddy=webbuddy):
        await webbuddy.until(webbuddy.all_ended)
    lines = [line for line in log_lines() if line.get("logger") == "agent"]
    assert len(lines) == 12
    for line in lines:
        own = line["own"] if "own" in line else int(line["event"].split()[-1])
        assert line["query"] == own


async def test_logging_in_a_thread_carries_the_query(log_lines: Any) -> None:
    """A plain function runs in a thread; its logging carries its query as well. (Real clock.)"""

    def handle(query: Query, ctx: Context) -> str:
        logging.getLogger("agent").info("stdlib %d", query.id)
        structlog.get_logger("agent").info("structlog %d", query.id)
        return "ok"

    with trio.fail_after(30):
        async with open_worker(handle) as worker:
            for number in range(3):
                worker.webbuddy.add_query(f"query {number}")
            await worker.webbuddy.until(worker.webbuddy.all_ended)
    lines = [line for line in log_lines() if line.get("logger") == "agent"]
    assert len(lines) == 6
    assert all(line["query"] == int(line["event"].split()[-1]) for line in lines)


async def test_the_workers_own_lines_carry_the_query(
    autojump_clock: MockClock, events: list[EventDict]
) -> None:
    """Also those of the tasks that work for it: its handler's problems, its report."""

    async def handle(query: Query, ctx: Context) -> str:
        raise ValueError

    async with open_worker(handle) as worker:
        query = await worker.ask("bad")
    for name in ("query claimed", "the handler raised", "query failed", "reported"):
        (event,) = [event for event in events if event["event"] == name]
        assert event["query"] == query.id
