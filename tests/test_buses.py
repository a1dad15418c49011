"""What each bus between workers does, whatever it is made of."""

from __future__ import annotations

import mmap
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from pathlib import Path

import pytest
import trio

from tests.redis_server import needs_redis, start_redis
from trio_worker.bus import MOST_HINTS, Bus, Hint
from trio_worker.bus_pipe import open_pipe_bus
from trio_worker.bus_redis import open_redis_bus
from trio_worker.runners import open_thread
from trio_worker.state_folder import Address, StateFolder
from trio_worker.testing.memory_bus import MemoryBus

PIPE_HINTS = 2 * max(MOST_HINTS, mmap.PAGESIZE // 16)
"""How many hints a pipe keeps: two pages full."""

ONE, OTHER = "http://one.example", "http://other.example"

Open = Callable[[str], AbstractAsyncContextManager[Bus]]
"""Opens the end of a bus: that of the workers of one WebBuddy."""


def always() -> bool:
    """A hint is wanted."""
    return True


@pytest.fixture(params=["memory", "pipe", pytest.param("redis", marks=needs_redis)])
def open_bus(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    if request.param == "memory":
        ends: dict[str, MemoryBus] = {}
        yield lambda url: nullcontext(ends.setdefault(url, MemoryBus()))
        return
    if request.param == "redis":
        with start_redis(tmp_path) as redis:
            yield lambda url: open_redis_bus(redis.address, url)
        return

    @asynccontextmanager
    async def open_pipe(url: str) -> AsyncIterator[Bus]:
        folder = StateFolder(tmp_path, Address(url, "worker"))
        async with open_thread("disk") as runner, open_pipe_bus(folder, runner=runner) as bus:
            yield bus

    yield open_pipe


async def test_each_hint_is_taken_by_one(open_bus: Open) -> None:
    """Three that wait at once take what a fourth offers, each something else, as it was offered."""
    offered = {Hint(number, 2**53 - number) for number in range(60)}
    taken: list[Hint] = []
    last = trio.Event()

    async def take_all(bus: Bus) -> None:
        while True:
            taken.append(await bus.take(always))
            if len(taken) == len(offered):
                last.set()

    with trio.fail_after(60):
        async with open_bus(ONE) as a, open_bus(ONE) as b, open_bus(ONE) as c, open_bus(ONE) as d:
            async with trio.open_nursery() as nursery:
                for bus in (a, b, c):
                    nursery.start_soon(take_all, bus)
                for hint in offered:
                    d.offer(hint)
                await last.wait()
                nursery.cancel_scope.cancel()
            assert not await d.clear()
    assert len(taken) == len(offered)
    assert set(taken) == offered


async def test_what_nobody_takes_is_kept_for_who_comes(open_bus: Open) -> None:
    """A hint waits for a worker whose end of the bus was not open when it was offered."""
    with trio.fail_after(60):
        async with open_bus(ONE) as early:
            early.offer(Hint(17, 4))
            async with open_bus(ONE) as late:
                assert await late.take(always) == Hint(17, 4)


async def test_all_can_be_dropped(open_bus: Open) -> None:
    """Whoever has looked in vain drops what waits, and is told whether anything did."""
    with trio.fail_after(60):
        async with open_bus(ONE) as a, open_bus(ONE) as b:
            assert not await b.clear()
            for number in range(10):
                a.offer(Hint(number, 1))
            assert (
                await b.take(always)
            ).sender == 1  # they were offered in one go: the others are there, too
            assert await b.clear()
            assert not await b.clear()
            with trio.move_on_after(0.1) as waiting:
                await b.take(always)
            assert waiting.cancelled_caught


async def test_it_is_bounded(open_bus: Open) -> None:
    """However many are offered, hardly more are kept than are of use; and who offers never waits."""
    with trio.fail_after(60):
        async with open_bus(ONE) as a, open_bus(ONE) as b:
            for number in range(3 * PIPE_HINTS):
                a.offer(Hint(number, 1))
            for _ in range(MOST_HINTS):
                await b.take(always)
            kept = MOST_HINTS
            with trio.move_on_after(0.2):
                while kept <= PIPE_HINTS:
                    await b.take(always)
                    kept += 1
            assert kept <= PIPE_HINTS


async def test_two_webbuddys_do_not_mix(open_bus: Open) -> None:
    """A worker of another WebBuddy takes nothing that was offered to ours, and drops nothing of it."""
    with trio.fail_after(60):
        async with open_bus(ONE) as ours, open_bus(OTHER) as others:
            ours.offer(Hint(1, 1))
            others.offer(Hint(2, 2))
            assert await others.take(always) == Hint(2, 2)
            assert not await others.clear()
            assert await ours.take(always) == Hint(1, 1)
