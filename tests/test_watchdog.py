"""The watchdog names what blocks the event loop. With the real clock: it lives in a thread of its own."""

from __future__ import annotations

import linecache
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import trio
from structlog.typing import EventDict

from trio_worker import Context, Query
from trio_worker.handlers.loading import handler_of
from trio_worker.tallies import SHORT, Spread
from trio_worker.testing import open_worker
from trio_worker.watchdog import PAUSE, TOLERANCE, _Rest, _Watch, watchdog

HERE = Path(__file__).name
BLOCKS = "the handler blocks the whole worker: make it a plain def, or use trio.to_thread.run_sync"
STANDS_STILL = "the event loop stands still"
RUNS_AGAIN = "the event loop runs again"


class Block:
    """Blocks until the watchdog has said something: no time is waited for, and none is depended on.

    What it has said before counts for nothing: a busy machine may hold the loop up as well.
    """

    def __init__(self, events: list[EventDict]) -> None:
        self.events = events
        self.before = 0

    def __call__(self) -> None:
        self.before = len(self.events)
        began = time.monotonic()
        while not self.named() and time.monotonic() - began < 30:
            time.sleep(0.01)  # this very line is what the watchdog has to find

    def named(self) -> bool:
        return any(event["event"] in (BLOCKS, STANDS_STILL) for event in self.events[self.before :])


def named(events: list[EventDict], name: str) -> list[EventDict]:
    return [event for event in events if event["event"] == name]


async def over(events: list[EventDict], block: EventDict) -> EventDict:
    """Wait for the line that follows a block."""
    behind = events.index(block) + 1
    with trio.fail_after(30):
        while not (said := named(events[behind:], RUNS_AGAIN)):  # noqa: ASYNC110 - a thread, which tells nobody
            await trio.sleep(0.01)
    return said[0]


async def test_a_blocking_call_in_an_async_handler_is_named(events: list[EventDict]) -> None:
    """With handler, file, line and query, while it blocks; and the log says when it is over."""
    block = Block(events)

    async def handle(query: Query, ctx: Context) -> str:
        block()
        return "ok"

    with trio.fail_after(60):
        async with open_worker(handle) as worker:
            with watchdog(handler_of(handle, "test:handle")):
                assert (await worker.ask("block")).status == "done"
                (event,) = named(events, BLOCKS)
                assert (await over(events, event))["blocked_seconds"] >= TOLERANCE
    assert (event["handler"], event["query"], event["log_level"]) == ("test:handle", 1, "error")
    line = linecache.getline(__file__, int(event["at"].split(":")[1].split()[0]))
    assert HERE in event["at"]
    assert "time.sleep(0.01)" in line or "named" in line or "for event in" in line


async def test_a_blocking_call_deep_in_a_library_is_named_by_the_handlers_own_line(
    events: list[EventDict],
) -> None:
    """Both are said: where the author has to change something, and what it was that blocked."""
    wait, block = threading.Event().wait, Block(events)

    async def handle(query: Query, ctx: Context) -> str:
        block.before = len(events)
        while not block.named():
            wait(0.1)
        return "ok"

    with trio.fail_after(60):
        async with open_worker(handle) as worker:
            with watchdog(handler_of(handle, "test:handle")):
                await worker.ask("block")
    (event,) = named(events, BLOCKS)
    assert HERE in event["at"]
    assert "threading.py" in event["inside"]


async def test_a_child_task_of_the_handler_is_named_too(events: list[EventDict]) -> None:
    """In a nursery of its own, nothing on the stack says which query; the handler is named all the same."""
    block = Block(events)

    async def child() -> None:
        block()

    async def handle(query: Query, ctx: Context) -> str:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
            nursery.start_soon(trio.lowlevel.checkpoint)
        return "ok"

    with trio.fail_after(60):
        async with open_worker(handle) as worker:
            with watchdog(handler_of(handle, "test:handle")):
                await worker.ask("block")
    (event,) = named(events, BLOCKS)
    assert (event["handler"], event["query"]) == ("test:handle", None)
    assert HERE in event["at"]


async def test_something_else_that_blocks_is_not_blamed_on_the_handler(events: list[EventDict]) -> None:
    """Then only the place is named."""

    async def handle(query: Query, ctx: Context) -> str:
        return "ok"

    elsewhere: dict[str, Any] = {"named": Block(events).named, "time": time}
    source = "def block():\n    while not named():\n        time.sleep(0.01)\n"
    exec(compile(source, "elsewhere.py", "exec"), elsewhere)  # noqa: S102
    other = handler_of(handle, "test:handle")
    with watchdog(attrs.evolve(other, file="/nowhere/handler.py")):
        elsewhere["block"]()
    (event,) = named(events, STANDS_STILL)
    assert "handler" not in event
    assert ".py:" in event["at"]


async def test_a_plain_function_may_block(events: list[EventDict]) -> None:
    """It has a thread of its own; the loop runs on."""
    done = threading.Event()

    def handle(query: Query, ctx: Context) -> str:
        done.wait(60)
        return "ok"

    with trio.fail_after(60):
        async with open_worker(handle) as worker:
            with watchdog(handler_of(handle, "test:handle")):
                query = worker.webbuddy.add_query("block")
                await worker.webbuddy.until(lambda: query.status == "in_progress")
                await trio.sleep(1.5)  # twice as long as a blocked loop goes unnamed
                done.set()
                await worker.webbuddy.until(lambda: query.status == "done")
    assert named(events, BLOCKS) == []


class Rounds(trio.abc.Instrument):
    """How often the loop has been woken."""

    def __init__(self) -> None:
        self.number = 0

    def after_io_wait(self, timeout: float) -> None:
        self.number += 1


async def test_a_loop_at_rest_is_not_woken() -> None:
    """It is looked at all the same: twice without a round of it."""

    async def handle(query: Query, ctx: Context) -> str:
        return "ok"

    delays, rounds = Spread(SHORT), Rounds()

    def looked_at(times: int) -> int:
        began = time.monotonic()
        while delays.counts[0] < times:
            assert time.monotonic() - began < 30
            time.sleep(0.01)
        return rounds.number

    def between() -> int:
        return -looked_at(1) + looked_at(3)

    with watchdog(handler_of(handle, "test:handle"), delays=delays):
        trio.lowlevel.add_instrument(rounds)
        assert await trio.to_thread.run_sync(between) == 0
        trio.lowlevel.remove_instrument(rounds)


class Starved(trio.abc.Instrument):
    """A loop that is woken, and does not come to going on before it was looked at: as without a processor."""

    def __init__(self, delays: Spread, events: list[EventDict]) -> None:
        self.delays = delays
        self.events = events

    def after_io_wait(self, timeout: float) -> None:
        began = time.monotonic()
        while not (self.events or sum(self.delays.counts) > 1) and time.monotonic() - began < 30:
            time.sleep(0.01)


async def test_a_loop_that_is_due_and_does_not_run_is_late(events: list[EventDict]) -> None:
    """It seems to wait, but longer than it wanted to."""

    async def handle(query: Query, ctx: Context) -> str:
        return "ok"

    delays = Spread(SHORT)
    starved = Starved(delays, events)
    trio.lowlevel.add_instrument(starved)  # before the watchdog's own, which is to see it as a wait
    with watchdog(handler_of(handle, "test:handle"), delays=delays):
        await trio.sleep(0.05)
        trio.lowlevel.remove_instrument(starved)
        with trio.fail_after(60):
            while not sum(delays.counts[1:]):  # noqa: ASYNC110 - a thread, which tells nobody
                await trio.sleep(0.01)
    assert named(events, RUNS_AGAIN)


async def test_the_watchdog_ends_with_its_block() -> None:
    """No thread is left, and nobody waits for its next look."""

    async def handle(query: Query, ctx: Context) -> str:
        return "ok"

    took = []
    for _ in range(20):
        began = time.monotonic()
        with watchdog(handler_of(handle, "test:handle")):
            await trio.lowlevel.checkpoint()
        took.append(time.monotonic() - began)
    assert "trio-worker watchdog" not in [thread.name for thread in threading.enumerate()]
    assert min(took) < PAUSE / 2  # each would take all of it if the thread slept its pause out


class StoppedJustBefore(threading.Event):
    """The moment in which `stop` is easily overlooked: between two looks, just before the question."""

    stop: Callable[[], None]

    def clear(self) -> None:
        self.stop()
        super().clear()


class BlockedLoop:
    """A loop that does not come to answering, because it waits for the watchdog's end."""

    def run_sync_soon(self, function: Callable[[], object]) -> None:
        pass


def _never() -> float:
    return float("inf")


def _nothing() -> None: ...


async def test_stopping_is_not_taken_for_blocking(events: list[EventDict]) -> None:
    """`stop` runs in the loop, and the loop waits for the thread: nobody is blamed for that."""

    async def handle(query: Query, ctx: Context) -> str:
        return "ok"

    answered = StoppedJustBefore()
    token: Any = BlockedLoop()
    watch = _Watch(
        handler_of(handle, "test:handle"),
        token,
        threading.get_ident(),
        _Rest(),
        _never,
        _nothing,
        answered=answered,
    )
    answered.stop = watch.stop
    thread = threading.Thread(target=watch.run, daemon=True)
    thread.start()
    await trio.to_thread.run_sync(thread.join, 60)
    assert not thread.is_alive()
    assert events == []
